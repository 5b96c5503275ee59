"""docs/data.md, written from the declared files: `python -m ptychoflow.data.docs [FILE]`.

A test fails when the page in the repository is not the one that this writes.
"""

import sys
from pathlib import Path

from ptychoflow.data.schema import FILES, SCHEMA_VERSION, docs_table

PAGE = "docs/data.md"

INTRODUCTION = """# Files

This page is generated: change `python/ptychoflow/data/schema.py` and run `python -m ptychoflow.data.docs`.

Every array that travels between two steps is listed here (schema version {version}). All files are NPZ without pickles; a
pickle in a file is refused. Texts are JSON. Positions are patch centres in object pixels, counted from pixel centres: the
centre of an N-pixel patch is the object pixel under patch pixel N//2. `x` is the column, `y` the row.

To see whether a scan fits, and what it holds:

    bin/ptychoflow validate FILE [VIEW]
"""

ABOUT = {
    "scan.npz": """One scan: what `ingest` and `simulate` write, and what you give to `--input`.

The forward model is `abs(fftshift(fft2(probeGuess * patch, norm="ortho")))`. Frames are **amplitude**, the square root of the
intensity; whole numbers above 50 that nobody calls amplitude are refused as likely counts. Masks and indices with one value a
frame, such as a mask of held-out frames, are kept under their own names and can be named in `heldout`.

Also read by `ingest`: frames last (`diffraction` of shape (N, N, M)) where the shapes leave no doubt; cached grid-lines files of
gridsize 1 (`diffraction`, `coords_offsets`, `YY_full`, `probe_simulated`); tike files (`data`, `scan`, `probe`).""",
    "view.npz": "One split and grouping of a scan, as indices: frames are not copied.",
    "recon.npz": "One reconstruction, the same for every arm.",
    "snapshots.npz": "What a reconstruction looked like on its way: the points of the curve of quality over time.",
}

METADATA = """## metadata of scan.npz

| name | meaning |
|---|---|
| `schema_version` | version of this page |
| `source` | format that the scan was read from, or `simulated` |
| `domain` | `amplitude` |
| `photons_per_intensity` | photons in one unit of amplitude squared; null where unknown |
| `dose_asked` | mean photons per frame that a simulation was asked for |
| `dose_measured_mean` | mean photons per frame that the frames hold; null where the photon scale is unknown |
| `pixel_size_m` | object pixel size, where known |
| `object_role` | `truth` for simulated data, `reference` for the reconstruction that came with a measured scan |
| `ingest` | format, what was done to the data, and the check of the axis mapping by contrast correlation |
"""


def page() -> str:
    """Return the whole page as Markdown."""
    parts = [INTRODUCTION.format(version=SCHEMA_VERSION)]
    for name, fields in FILES.items():
        parts.append(f"## {name}\n\n{ABOUT[name]}\n\n{docs_table(fields)}\n")
    parts.append(METADATA)
    return "\n".join(parts)


def main(path: Path) -> None:
    """Write the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else PAGE))
