"""TensorFlow tests run in a process of their own, `pytest tests/tf`: no other run collects them, PyTorch never meets TensorFlow."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_configure(config: pytest.Config) -> None:
    # Keras 3.15 turns TensorFlow 2.20 variables into arrays in a way that NumPy 2 deprecates.
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation:DeprecationWarning:keras.*")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave these files out unless they were named on the command line."""
    named = (Path(argument.split("::")[0]).resolve() for argument in config.args)
    return None if any(path.is_relative_to(Path(__file__).parent) for path in named) else True
