"""The card of a trained network: what it was trained for, and whether a scan and a view are that (D21, D70)."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Complex64

from ptychoflow.data.npz import read_npy
from ptychoflow.errors import ContractError
from ptychoflow.records import Scan, View

SAME_PROBE = 1e-4
"""Relative difference, after one complex factor, up to which two probes are the same illumination."""


def probe_sha256(probe: Complex64[np.ndarray, "n n"]) -> str:
    """Return the sha256 of a probe's bytes."""
    return hashlib.sha256(np.ascontiguousarray(probe).tobytes()).hexdigest()


def exposure_ratio(trained: Complex64[np.ndarray, "n n"], probe: Complex64[np.ndarray, "n n"]) -> tuple[float, float]:
    """Return how much stronger `probe` is than the trained one (modulus ratio), and how much its shape differs (relative).

    Two scans with the same illumination and another exposure have probes that differ by one factor. Dividing the
    amplitudes by it shows the network the frames that the trained illumination would have given.
    """
    a, b = trained.astype(np.complex128).ravel(), probe.astype(np.complex128).ravel()
    factor = np.vdot(a, b) / np.vdot(a, a).real
    return float(abs(factor)), float(np.linalg.norm(b - factor * a) / np.linalg.norm(b))


def check_card(card: dict[str, Any], probe: Complex64[np.ndarray, "n n"], scan: Scan, view: View) -> list[str]:
    """Return how scan and view differ from what the model was trained for; empty when they agree (D21, D70).

    Args:
        card: the model's card.
        probe: the probe that it was trained with.
        scan: scan to reconstruct.
        view: its view.
    """
    problems = []
    if card["n"] != scan.n:
        problems.append(f"the model was trained on frames of {card['n']} px, the scan has {scan.n}")
    elif (difference := exposure_ratio(probe, scan.probe)[1]) > SAME_PROBE:
        problems.append(
            f"the scan's probe is not the one that the model was trained with (they differ by {difference:.1%})"
        )
    if card["gridsize"] != view.gridsize:
        problems.append(f"the model was trained with gridsize {card['gridsize']}, the view has {view.gridsize}")
    if card["normalization"] != asdict(view.normalization):
        problems.append("the view's normalization is not the model's: it must come from the model's own train frames")
    return problems


def read_card(model_dir: Path) -> dict[str, Any]:
    """Return the card of a model folder.

    Raises:
        ContractError: the folder has no card, weights or probe, lacks a file that the card names, or holds another refined
            probe than the card says.
    """
    _refuse_missing(model_dir, ["card.json"])
    card = json.loads((model_dir / "card.json").read_text())
    names = [card["weights"], "probe.npy", *(entry["file"] for entry in card["snapshots"])]
    names += [entry["probe"] for entry in card["snapshots"] if "probe" in entry]
    # Models of a time before refined probes were kept have no such key.
    refined = card.get("probe_refined")
    _refuse_missing(model_dir, names + ([refined["file"]] if refined else []))
    if refined and probe_sha256(read_npy(model_dir / refined["file"])) != refined["sha256"]:
        raise ContractError(
            f"{model_dir.name}: {refined['file']} is not the probe that its card names; copy the model again"
        )
    return card


def _refuse_missing(model_dir: Path, names: list[str]) -> None:
    root = model_dir.resolve()
    if strange := [name for name in names if not (root / name).resolve().is_relative_to(root)]:
        raise ContractError(f"{model_dir.name}: the card names files outside of the model: {', '.join(strange)}")
    missing = [name for name in names if not (model_dir / name).is_file()]
    if missing:
        raise ContractError(f"{model_dir.name} is not a whole model: {', '.join(missing)} is not in it")
