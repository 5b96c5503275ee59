"""Shared fixtures; every annotated array of the package is shape-checked while the tests run."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

from jaxtyping import install_import_hook

install_import_hook(
    ["ptychoflow.physics", "ptychoflow.imaging", "ptychoflow.metrics", "ptychoflow.scoring", "ptychoflow.data", "ptychoflow.models",
     "ptychoflow.frames", "ptychoflow.records"],
    "shape_checks.check",
)  # fmt: skip
