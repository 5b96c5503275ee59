"""The contract with ptycho-vit: the pinned source, the pair of HDF5 files, its coordinates, and every violation by name.

The one record of these facts, read by the exporter, the validator, the bridge, the image build and the manifests. Nothing of the
external code is imported or copied. Source: PtychoViT bridge reference, the section beside each constant.

Coordinates (section 4). With an object of H x W px, patches of h x h px and the pixel size pix (m), the external loader has

    origin(n) = round_half_even(n / 2) + 1/2,    p = offset_m / pix + origin,    top-left = p - (h - 1) / 2

so that p counts from pixel centres but is the *middle* of the patch: half a pixel less than our centre c, the object pixel under
patch pixel h // 2, for even h. For even H the origin lies one pixel beyond the geometric centre (H - 1) / 2.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64

from ptychoflow.errors import ContractError, UnavailableError
from ptychoflow.frames import Positions, topleft_from_centre


@dataclass(frozen=True)
class Pin:
    """The external source revision that the contract describes (sections 1 and 2).

    Attributes:
        commit: git commit.
        validated_on: day on which the contract was read off the sources.
        data_files: sources behind the pair, its loader and the normalization dictionary.
        checkpoint_files: sources behind checkpoints and configuration.
        required: files without which a folder is no checkout of this family.
        expected: files whose absence is worth a warning.
        foreign: folders that mark later families, which are refused.
        foreign_option: option in main.py that marks them.
        record: name of the source record in a tree without git metadata.
    """

    commit: str
    validated_on: str
    data_files: tuple[str, ...]
    checkpoint_files: tuple[str, ...]
    required: tuple[str, ...]
    expected: tuple[str, ...]
    foreign: tuple[str, ...]
    foreign_option: str
    record: str


PIN = Pin(
    commit="2316b378006ef330e18af343d10dc8a7b821b0a8",
    validated_on="2026-02-10",
    data_files=("data.py", "scripts/make_normalization_dict.py"),
    checkpoint_files=("main.py", "training.py", "inference.py", "config.yaml"),
    required=(
        "main.py", "data.py", "training.py", "inference.py", "config.yaml", "model/model.py", "utils/ptychi_utils.py",
    ),
    expected=(
        "custom_loss.py", "prefetcher.py", "model/vit.py", "model/vit_pretrained.py", "model/decoders.py",
        "scripts/make_normalization_dict.py",
    ),
    foreign=("ptycho_fm", "ptycho_vit"),
    foreign_option="--config",
    record="ptychovit-source.json",
)  # fmt: skip

SIDE = 256
"""Side of patterns, probe and model input, px: the only one (section 1)."""
MAX_PROBE_MODES = 8
"""Incoherent modes that the test set takes at the pin (section 3)."""
DATASETS = {"dp": ("dp",), "para": ("object", "probe", "probe_position_x_m", "probe_position_y_m")}
"""Required datasets by kind of file (section 3)."""
PIXEL_ATTRIBUTES = ("pixel_height_m", "pixel_width_m")
"""Required on `object` and on `probe`; upstream reads one of the four (section 3)."""
AMPLITUDE_OFFSET = 0.975
"""Middle of the model's amplitude range; not in the checkpoint, which is why code and weights are pinned together (section 8)."""
AMPLITUDE_RANGE = (AMPLITUDE_OFFSET - 1.7159 * 0.025, AMPLITUDE_OFFSET + 1.7159 * 0.025)
"""Amplitudes that the model can produce at all: 0.932 to 1.018 (section 8)."""
STITCH_TRIM = 64
"""Taken off each side of a predicted patch before it is placed, px (section 11)."""
STITCH_PAD = 32
"""Taken off each side after the Fourier shift, px: what its wrap-around reaches (section 11)."""
FOOTPRINT = SIDE - 2 * (STITCH_TRIM + STITCH_PAD)
"""Side of what a scan point fills in the object, px: 64 (section 11)."""
DEFAULT_NORMALIZATION = 100000.0
"""What upstream divides by, and goes on, where it cannot read its dictionary (section 5)."""

Kind = Literal["E", "R", "W"]

_TABLE: dict[str, tuple[Kind, str]] = {
    "PV-PAIR": ("E", "write both files, then rename them into place"),
    "PV-KEY": ("E", "make the pair again"),
    "PV-DP": ("E", "clean or drop the frames"),
    "PV-AMP": ("E", "square the amplitudes"),
    "PV-DC": ("E", "apply fftshift when writing"),
    "PV-OBJ": ("E", "write [1,H,W] complex64"),
    "PV-PROBE": ("E", "write [1,M,256,256]"),
    "PV-SCALE": ("W", "rescale the probe"),
    "PV-ATTR": ("E", "write pixel_height_m and pixel_width_m on object and probe, all four alike"),
    "PV-POSLEN": ("E", "make the positions again"),
    "PV-POSNAN": ("E", "drop or repair the frame"),
    "PV-POSDEG": ("E", "make the pair again; a line scan is not supported"),
    "PV-FRAME": ("E", "convert from top-left corners, and give the full object, not a clip of it"),
    "PV-HOLES": ("W", "scan more densely, or mask the holes when scoring"),
    "PV-NORM": ("E", "rebuild the dictionary"),
    "PV-NORMFALL": ("R", "fix paths and keys, and run again from clean"),
    "PV-SPLIT": ("E", "give more patterns or another split"),
    "PV-LEAK": ("E", "keep train and test in separate folders, with disjoint data"),
    "PV-REPO": ("E", "supply the pinned checkout"),
    "PV-PIN": ("E", "check out the pin cleanly, and record its digest"),
    "PV-CFG": ("E", "fix the base config"),
    "PV-CKPT": ("E", "give the right path; nothing is trained instead"),
    "PV-CKPTARCH": ("E", "use the checkpoint's own config"),
    "PV-RESUME": ("E", "supply both files, and raise epochs"),
    "PV-FINETUNE": ("E", "set resume_from_checkpoint=true, or use inference or train"),
    "PV-STALE": ("E", "clean the folder, or ask for it explicitly"),
    "PV-ENV": ("E", "fix the external environment"),
    "PV-EXIT": ("R", "see the log"),
    "PV-TIMEOUT": ("R", "raise the limit and start again; a stopped training cannot be resumed"),
    "PV-ARTIFACT": ("R", "treat it as a failure"),
    "PV-NAN": ("R", "lower the learning rate; check the scales of dp and probe"),
    "PV-COUNT": ("R", "report it: the driver is at fault"),
    "PV-FLAT": ("R", "check stitching, normalization and the range of the model"),
    "PV-SAT": ("W", "the object is outside the model's range; say so in the report"),
    "PV-STITCH": ("R", "nothing replaces the required placement; repair it"),
}
"""Every violation of section 14: its kind, and what to do."""

CODES = tuple(_TABLE)

UNAVAILABLE = ("PV-REPO", "PV-PIN", "PV-ENV", "PV-CKPT")
"""Something external that was asked for is not there: exit code 69 instead of 65."""


@dataclass(frozen=True)
class Violation:
    """One way in which files or a run break the contract.

    Attributes:
        code: name in the table, `PV-...`.
        kind: `E` refuses before launch (exit 65), `R` makes a run invalid, `W` is recorded.
        message: what was found, with the values that the table asks for.
        remedy: what to do.
    """

    code: str
    kind: Kind
    message: str
    remedy: str

    @property
    def text(self) -> str:
        """The violation in one line."""
        return f"{self.code}: {self.message}; {self.remedy}"


def violation(code: str, message: str, *, kind: Kind | None = None, remedy: str | None = None) -> Violation:
    """Return a violation of the table; `kind` and `remedy` only where a case departs from its row."""
    row_kind, row_remedy = _TABLE[code]
    return Violation(code, kind or row_kind, message, remedy or row_remedy)


def refuse_violations(found: list[Violation], *, what: str) -> list[Violation]:
    """Return the warnings; raise for anything worse.

    Raises:
        ContractError: naming every violation of kind `E` or `R`.
        UnavailableError: the same, where one of them is about the external checkout, its environment or a checkpoint.
    """
    if any(one.kind != "W" for one in found):
        raise refusal(found, what=what)
    return found


def refusal(found: list[Violation], *, what: str) -> ContractError | UnavailableError:
    """Return the error that names every violation that is no warning; there must be one."""
    worse = [one for one in found if one.kind != "W"]
    lines = "".join(f"\n  - {one.text}" for one in worse)
    text = f"{what}: {worse[0].text}" if len(worse) == 1 else f"{what}: {len(worse)} problems{lines}"
    unavailable = any(one.code in UNAVAILABLE for one in worse)
    return UnavailableError(text) if unavailable else ContractError(text)


def origin_px(length: int) -> float:
    """Return what the loader adds to a centred offset along an axis of this many pixels, px."""
    return round(length / 2) + 0.5  # Python rounds halves to even, as the loader does


def stored_offsets_m(
    positions_rc_px: Positions, *, shape: tuple[int, int], n: int, pixel_size_m: float
) -> Float64[np.ndarray, "m 2"]:
    """Return the centred offsets (y, x) that the files hold, m, for our patch centres in pixels of the object array."""
    origin = np.array([origin_px(length) for length in shape])
    return (topleft_from_centre(positions_rc_px, n) + (n - 1) / 2 - origin) * pixel_size_m


def loader_centres_rc_px(
    offsets_m: Float64[np.ndarray, "m 2"], *, shape: tuple[int, int], pixel_size_m: float
) -> Positions:
    """Return the patch middles p (row, col) in pixels of the object array that the loader makes of stored offsets."""
    return offsets_m / pixel_size_m + np.array([origin_px(length) for length in shape])


def tree_digest(file_sha256: Mapping[str, str]) -> str:
    """Return the digest of a source tree: sha256 over the lines `path NUL hexdigest LF`, sorted by the bytes of the path.

    Args:
        file_sha256: sha256 in hex by POSIX path relative to the tree; of a symbolic link that of its target's text.
    """
    digest = hashlib.sha256()
    for path in sorted(file_sha256, key=str.encode):
        digest.update(f"{path}\0{file_sha256[path]}\n".encode())
    return digest.hexdigest()


def tree_files(root: Path, record: str = PIN.record) -> dict[str, str]:
    """Return sha256 by path of the files that count in a tree without git metadata; mode bits are ignored (section 2)."""
    found = {}
    for path in root.rglob("*"):
        relative = path.relative_to(root)
        if "__pycache__" in relative.parts or path.suffix == ".pyc" or relative.as_posix() == record:
            continue
        if path.is_symlink() or path.is_file():
            found[relative.as_posix()] = entry_sha256(path)
    return found


def entry_sha256(path: Path) -> str:
    """Return the sha256 that stands for one entry of a tree: of a file's bytes, of a symbolic link's target text."""
    content = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
    return hashlib.sha256(content).hexdigest()
