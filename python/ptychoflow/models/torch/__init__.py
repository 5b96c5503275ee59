"""The PyTorch twin: the only place, with arms/lsqml.py, that imports torch."""
