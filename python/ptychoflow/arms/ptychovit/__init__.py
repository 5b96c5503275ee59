"""The external PtychoViT arm: its pair of files, their validation, its normalization, and the object from its predictions."""
