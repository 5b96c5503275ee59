"""ptychoflow: machine-learning and iterative ptychography, compared on one grid by one command."""

__version__ = "0.1.0"
