"""EXPORT_PAIR: a scan, or the train or test frames of a view of it, as the pairs of HDF5 files that ptycho-vit reads.

scan.npz [, view.npz, recon.npz] -> {object}_dp.hdf5, {object}_para.hdf5 (one pair an object), manifest.json
"""

import logging
import re
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np

from ptychoflow.arms.ptychovit.contract import PIN
from ptychoflow.arms.ptychovit.export import export_pairs
from ptychoflow.commands.lsqml import usable_frames
from ptychoflow.data.storage import load_recon, load_scan, load_view
from ptychoflow.errors import UsageError
from ptychoflow.provenance import check_scan, write_manifest

logger = logging.getLogger(__name__)


def run(
    *,
    scan: Path,
    view: Path | None,
    object_file: Path | None,
    name: str,
    out_dir: Path,
    part: Literal["train", "test"] = "test",
) -> list[Path]:
    """Write the pairs and `manifest.json` into `out_dir`, and return the paths of the pairs' files.

    Args:
        scan: scan.npz with frames of 256 px.
        view: view of it whose groups name the frames; None takes every frame.
        object_file: recon.npz whose object stands in for a scan without one, at its stored origin.
        name: object name, the first part of the file names; numbered where the scan holds several objects.
        out_dir: folder of the outputs.
        part: which frames of the view.

    Raises:
        UsageError: the name cannot be part of a file name, or would hide which file is which.
        ContractError: the scan is not the view's, or cannot be written as valid pairs.
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name) or name.startswith(".") or name.endswith(("_dp", "_para")):
        raise UsageError(
            f"--name: expected letters, digits, '.', '_' and '-', not starting with '.' nor ending in _dp or _para, got '{name}'"
        )
    the_scan = load_scan(scan)
    if view is None:
        frames = np.arange(the_scan.n_frames, dtype=np.int64)
    else:
        the_view = load_view(view)
        check_scan(scan, the_view, part)
        frames = usable_frames(the_scan, the_view) if part == "test" else np.unique(the_view.train.groups)
    supplied = None if object_file is None else load_recon(object_file)
    records = export_pairs(the_scan, frames, name=name, folder=out_dir, supplied=supplied)
    for record in records:
        logger.info("pair %s: %d frames, object %s", record.name, record.n_frames, record.object_role)
        for warning in record.warnings:
            logger.warning("pair %s: %s", record.name, warning)
    outputs = [file for record in records for file in record.files]
    inputs = {"scan": scan, "view": view, "object": object_file}
    write_manifest(
        out_dir,
        command="export-pair",
        inputs={key: path for key, path in inputs.items() if path is not None},
        outputs=outputs,
        parameters={"name": name, "frames": "all" if view is None else f"{part} groups of the view"},
        facts={
            "pairs": [asdict(record) for record in records],
            "contract": {"commit": PIN.commit, "validated_on": PIN.validated_on},
        },
    )
    return [out_dir / file for file in outputs]
