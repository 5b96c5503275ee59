"""Upstream's own inference: no command line, fixed paths of its authors' cluster."""

from pathlib import Path

import torch
import yaml
from model.model import PtychoViT

RUN = Path("/lustre/authors/ptychovit/runs/run1")

model = PtychoViT(config=yaml.safe_load((RUN / "config.yaml").read_text())["model"])
model.load_state_dict(torch.load(RUN / "best_model.pth", weights_only=True))
