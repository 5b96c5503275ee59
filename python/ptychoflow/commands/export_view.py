"""Write the frames of a view as plain contract NPZ files, or as the specified grouped dictionary, for other tools."""

from pathlib import Path

import numpy as np

from ptychoflow.data.normalize import network_input
from ptychoflow.data.storage import load_scan, load_view, save_scan, write_npz
from ptychoflow.errors import check_file_name
from ptychoflow.models.forward import relative_of_offsets
from ptychoflow.physics.patches import gather
from ptychoflow.provenance import check_scan
from ptychoflow.records import FrameSet, Scan, View


def run(*, view: Path, train_scan: Path, test_scan: Path, grouped: bool, name: str, out_dir: Path) -> list[Path]:
    """Write `<name>_train.npz` and `<name>_test.npz` and return their paths.

    Raises:
        UsageError: the name cannot be part of a file's name.
        ContractError: a scan is not the one that the view was made from.
    """
    check_file_name(name, what="--name")
    the_view = load_view(view)
    written = []
    for part, path, frames in (("train", train_scan, the_view.train), ("test", test_scan, the_view.test)):
        check_scan(path, the_view, part)
        target = out_dir / f"{name}_{part}.npz"
        if grouped:
            write_npz(target, grouped_arrays(load_scan(path), the_view, frames))
        else:
            save_scan(target, subset(load_scan(path), frames))
        written.append(target)
    return written


def subset(scan: Scan, frames: FrameSet) -> Scan:
    """Return the scan with the set's frames only; the object stays whole."""
    keep = frames.frames
    start = scan.positions_start_rc_px
    return Scan(
        amplitude=scan.amplitude[keep],
        positions_rc_px=scan.positions_rc_px[keep],
        probe=scan.probe,
        scan_index=scan.scan_index[keep],
        object=scan.object,
        positions_start_rc_px=None if start is None else start[keep],
        metadata={**scan.metadata, "exported_frames": len(keep)},
    )


def grouped_arrays(scan: Scan, view: View, frames: FrameSet) -> dict[str, np.ndarray]:
    """Return the grouped dictionary of the workflow specification; axis 2 of the coordinates is [x, y] (physics 2.5)."""
    groups = frames.groups
    stack = np.moveaxis(np.asarray(scan.amplitude[groups.ravel()]).reshape(*groups.shape, scan.n, scan.n), 1, -1)
    arrays = {"diffraction": stack.astype(np.float32), "X_full": _scaled(stack, view)}
    for suffix, positions in (("", scan.positions_rc_px), ("_start", scan.positions_start_rc_px)):
        chosen = scan.positions_rc_px if positions is None else positions
        members = chosen[groups]
        absolute = members[:, None, :, ::-1].transpose(0, 1, 3, 2)
        arrays[f"coords{suffix}_nn"] = absolute
        arrays[f"coords{suffix}_offsets"] = absolute.mean(axis=3, keepdims=True)
        arrays[f"coords{suffix}_relative"] = relative_of_offsets(members - members.mean(axis=1, keepdims=True))
    arrays |= {"nn_indices": groups, "sample_indices": groups[:, 0], "probeGuess": scan.probe}
    if scan.object is not None:
        labels = gather(scan.object, scan.positions_rc_px[groups.ravel()], scan.n)
        arrays["Y"] = np.moveaxis(labels.reshape(*groups.shape, scan.n, scan.n), 1, -1)
        arrays["objectGuess"] = scan.object
    return arrays


def _scaled(stack: np.ndarray, view: View) -> np.ndarray:
    flat = np.moveaxis(stack, -1, 1).reshape(-1, *stack.shape[1:3])
    scaled = network_input(flat, view.normalization).reshape(stack.shape[0], stack.shape[3], *stack.shape[1:3])
    return np.moveaxis(scaled, 1, -1)
