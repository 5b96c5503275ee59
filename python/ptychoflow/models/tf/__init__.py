"""The TensorFlow twin of models/torch: same files, same functions, and the only place that imports tensorflow.

Channels come last here: (B, N, N, C), as the specified model and its layers have them. What works on groups (patches.py,
physics.py, and what goes in and out of backend.py) has members before pixels as everywhere else: (B, C, N, N).
"""
