"""Scores of one array against another. Nothing here moves, scales or aligns."""
