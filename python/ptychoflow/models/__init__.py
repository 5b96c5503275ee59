"""Networks and training, framework-free above torch/."""
