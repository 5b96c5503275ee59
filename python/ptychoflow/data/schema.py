"""Every array on disk, declared once: reader, writer, validator, docs/data.md and the test data come from these tables.

A change here is a change of contract: raise `SCHEMA_VERSION` and add a line to docs/decisions.md.
"""

from dataclasses import dataclass
from typing import Literal

SCHEMA_VERSION = 1

Kind = Literal["f", "c", "i", "b", "str"]


@dataclass(frozen=True)
class Field:
    """One array of a file.

    Attributes:
        name: key in the file.
        dims: names of the axes; the same letter means the same length everywhere in the file.
        dtype: dtype as written; a reader accepts every dtype of the same kind and converts.
        unit: unit of the values.
        required: whether a file without it is refused.
        aliases: other names under which it is read.
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    unit: str
    required: bool
    meaning: str
    aliases: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """Kind of number: float, complex, integer, boolean or text."""
        if self.dtype == "str":
            return "str"
        kinds: dict[str, Kind] = {"float": "f", "compl": "c", "int32": "i", "int64": "i", "bool": "b"}
        return kinds[self.dtype[:5]]


SCAN = (
    Field("diff3d", ("M", "N", "N"), "float32", "amplitude", True,
          "diffraction AMPLITUDE, frames first, zero frequency at [N//2, N//2]", ("diffraction",)),
    Field("xcoords", ("M",), "float64", "object px", True, "column of the patch centre"),
    Field("ycoords", ("M",), "float64", "object px", True, "row of the patch centre"),
    Field("probeGuess", ("N", "N"), "complex64", "amplitude", True,
          "probe that reproduces the frames with the object (orthonormal FFT)"),
    Field("objectGuess", ("H", "W"), "complex64", "1", False, "object: truth or reference, see metadata.object_role"),
    Field("scan_index", ("M",), "int64", "1", False, "object each frame belongs to; zeros by default"),
    Field("xcoords_start", ("M",), "float64", "object px", False, "nominal column, where it differs from the true one"),
    Field("ycoords_start", ("M",), "float64", "object px", False, "nominal row, where it differs from the true one"),
    Field("metadata", (), "str", "JSON", False, "schema version, source, dose asked and measured, photon scale, roles"),
)  # fmt: skip

VIEW = (
    Field("train_frames", ("A",), "int64", "index", True, "train frames, indices into the train scan, sorted"),
    Field("train_groups", ("B", "C"), "int64", "index", True, "train groups; the seed frame is member 0"),
    Field("test_frames", ("D",), "int64", "index", True, "test frames, indices into the test scan, sorted"),
    Field("test_groups", ("E", "C"), "int64", "index", True, "test groups; the seed frame is member 0"),
    Field("heldout", ("F",), "int64", "index", True, "frames of the test scan that no arm reads"),
    Field("score_regions", ("R", "K"), "int64", "object px", True, "rows r0, r1 and columns c0, c1 of each scored rectangle"),
    Field("metadata", (), "str", "JSON", True, "sha256 of the scans, normalization, facts of split and grouping"),
)  # fmt: skip

RECON = (
    Field("object", ("H", "W"), "complex64", "1", True, "reconstructed object"),
    Field("weight", ("H", "W"), "float32", "1", True, "coverage: summed probe intensity, 0 where nothing was seen"),
    Field("origin_rc_px", ("K",), "int64", "object px", True, "where pixel [0, 0] of object lies in the scan's frame"),
    Field("probe", ("modes", "N", "N"), "complex64", "amplitude", False, "refined probe; consistency must use it"),
    Field("pixel_size_m", (), "float64", "m", False, "object pixel size, where known"),
    Field("amp", ("H", "W"), "float32", "1", False, "modulus of object, for other tools"),
    Field("phase", ("H", "W"), "float32", "rad", False, "phase of object, wrapped, for other tools"),
    Field("metadata", (), "str", "JSON", True, "arm, run id, seconds, device, sha256 of scan and model"),
)  # fmt: skip

SNAPSHOTS = (
    Field("epochs", ("S",), "int64", "1", True, "epochs done, increasing; the final state is recon.npz"),
    Field("train_seconds", ("S",), "float64", "s", True, "training up to there; 0 for an arm without training"),
    Field("reconstruct_seconds", ("S",), "float64", "s", True, "inference, or the iterations up to there"),
    Field("objects", ("S", "H", "W"), "complex64", "1", True, "reconstructed object after each of the epochs"),
    Field("origin_rc_px", ("K",), "int64", "object px", True, "where pixel [0, 0] of the objects lies in the scan's frame"),
    Field("probes", ("S", "modes", "N", "N"), "complex64", "amplitude", False, "refined probes, where there are any"),
    Field("metadata", (), "str", "JSON", True, "schema version"),
)  # fmt: skip

FILES = {"scan.npz": SCAN, "view.npz": VIEW, "recon.npz": RECON, "snapshots.npz": SNAPSHOTS}


def docs_table(fields: tuple[Field, ...]) -> str:
    """Return the Markdown table of one file, as docs/data.md shows it."""
    lines = ["| key | shape | dtype | unit | required | meaning |", "|---|---|---|---|---|---|"]
    for field in fields:
        name = f"`{field.name}`" + "".join(f" (read also as `{alias}`)" for alias in field.aliases)
        shape = f"({', '.join(field.dims)})" if field.dims else "scalar"
        required = "yes" if field.required else "no"
        lines.append(f"| {name} | {shape} | {field.dtype} | {field.unit} | {required} | {field.meaning} |")
    return "\n".join(lines)
