"""The specified reassembly file: what another tool needs to put the test frames' patches together (reference: D18, D20).

Positions are absolute, in the pixels of the object, row = y: never the group-relative coordinates of a grid-lines file.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Int64

from ptychoflow.data.storage import write_npz
from ptychoflow.records import Scan

REASSEMBLY = Path("tmp/torch_reassembly/reassembly_test.npz")
"""Where the file lies in the folder of a reconstruction."""


def save_reassembly(path: Path, scan: Scan, frames: Int64[np.ndarray, "m"]) -> None:
    """Write the chosen frames of a scan with their positions, and its probe and object.

    Keys: `diffraction` (M, N, N) float32 amplitude; `xcoords`, `ycoords` (M,) float64 column and row of the patch centres, px;
    `probeGuess` (N, N) complex64; `objectGuess` (H, W) complex64, the whole object, where the scan has one.

    Args:
        path: the file.
        scan: the scan.
        frames: indices of the frames that are written, in this order.
    """
    arrays = {
        "diffraction": scan.amplitude[frames].astype(np.float32),
        "xcoords": scan.positions_rc_px[frames, 1],
        "ycoords": scan.positions_rc_px[frames, 0],
        "probeGuess": scan.probe,
    }
    if scan.object is not None:
        arrays["objectGuess"] = scan.object
    write_npz(path, arrays)
