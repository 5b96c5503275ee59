"""One grid for truth and reconstructions: whole pixels are slices, everything else is one interpolation.

    grid: sample i lies at  x_i = r0 + (i + 1/2) step - 1/2   in the scan's frame (truth pixels, counted from pixel centres)
    recon: object coordinate x of the truth's frame is  x * ratio  in the reconstruction's,  ratio = truth pixel / its pixel

Both frames have their origin at the centre of pixel 0, the point that positions count from; `ratio` stretches about it.
A step of 1 at ratio 1 with a whole-pixel offset cuts a slice and changes no value. Everything else is one separable
quintic-spline interpolation; where samples lie further apart than pixels, a Gaussian low-pass comes first, with the sigma
(step - 1)/2 px of scikit-image's `resize`: it damps what would fold back, by exp(-(pi (step - 1)/step)^2 / 8) at the new
grid's Nyquist frequency. Truth and reconstruction pass through the same function and lose the same detail.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor
from typing import Final

import numpy as np
from jaxtyping import Complex64
from scipy import ndimage

from ptychoflow.errors import ContractError, refuse
from ptychoflow.frames import Canvas, Region

SPLINE_ORDER: Final = 5
"""Quintic: at 0.25 cycles/px its error is 6e-4 of the amplitude, the cubic spline's 1.2e-2 (at 0.1: 1.4e-6, 2.2e-4)."""

SPLINE_MARGIN_PX = 24
"""Pixels cut around the samples: the spline's memory of the cut edge decays as 0.431 per px, 2e-9 after 24."""

GAUSSIAN_REACH = 4
"""The low-pass ends at this many standard deviations."""

SAME_PIXEL_SIZE = 1e-4
"""Relative difference below which two pixel sizes are one: 0.1 px over a thousand."""

ROUNDING_PX = 1e-6
"""Overhang below which a sample counts as on the canvas."""


@dataclass(frozen=True)
class Grid:
    """The samples on which arrays are compared.

    Attributes:
        region: rectangle of truth pixels that the samples divide, in the scan's frame.
        step_px: distance of neighbouring samples on both axes, truth px.
    """

    region: Region
    step_px: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) in samples; where the step does not divide a side, the rest at its end is left out."""
        rows, cols = (max(1, floor(side / self.step_px + ROUNDING_PX)) for side in self.region.shape)
        return rows, cols

    @property
    def first_rc_px(self) -> tuple[float, float]:
        """Coordinate of sample [0, 0], truth px in the scan's frame."""
        inset = self.step_px / 2 - 0.5
        return self.region.r0 + inset, self.region.c0 + inset


def grid_for(region: Region, *, canonical: int | None) -> Grid:
    """Return the truth's own pixels, or a grid with `canonical` samples along the region's longer side."""
    return Grid(region) if canonical is None else Grid(region, max(region.shape) / canonical)


def first_sample(
    canvas: Canvas, grid: Grid, *, shift_rc_px: tuple[float, float] = (0.0, 0.0), pixel_ratio: float = 1.0
) -> tuple[float, float]:
    """Return where the grid's sample [0, 0], moved by `shift_rc_px`, lies on a canvas: (row, col) from its pixel [0, 0]."""
    row, col = (
        (first + shift) * pixel_ratio - origin
        for first, shift, origin in zip(grid.first_rc_px, shift_rc_px, canvas.origin_rc_px, strict=True)
    )
    return row, col


def overhang(
    canvas: Canvas, grid: Grid, *, shift_rc_px: tuple[float, float] = (0.0, 0.0), pixel_ratio: float = 1.0
) -> dict[str, float]:
    """Return by how many of its pixels the samples leave a canvas at `top`, `bottom`, `left`, `right`; empty when they do not.

    Samples closer than a pixel may lie in the outer half of a border pixel, as far out as the cell they stand for.
    """
    spacing = grid.step_px * pixel_ratio
    slack = max(0.0, (1 - spacing) / 2)
    starts = first_sample(canvas, grid, shift_rc_px=shift_rc_px, pixel_ratio=pixel_ratio)
    found: dict[str, float] = {}
    for names, start, count, side in zip(
        (("top", "bottom"), ("left", "right")), starts, grid.shape, canvas.shape, strict=True
    ):
        beyond = (-start - slack, start + (count - 1) * spacing - (side - 1) - slack)
        found |= {name: value for name, value in zip(names, beyond, strict=True) if value > ROUNDING_PX}
    return found


def sample(
    image: Complex64[np.ndarray, "h w"],
    canvas: Canvas,
    grid: Grid,
    *,
    shift_rc_px: tuple[float, float] = (0.0, 0.0),
    pixel_ratio: float = 1.0,
) -> Complex64[np.ndarray, "rows cols"]:
    """Return an image on the samples of a grid, interpolated at most once; a view where whole pixels are cut.

    Args:
        image: (H, W) truth or reconstruction.
        canvas: where its pixel [0, 0] lies, in its own frame.
        grid: the samples, in the truth's frame.
        shift_rc_px: the image is read at `x + shift`, truth px.
        pixel_ratio: truth pixel over this image's pixel; 1 for the truth itself.

    Raises:
        ContractError: a sample lies outside the canvas.
    """
    if image.shape != canvas.shape:
        raise ContractError(f"the image has shape {image.shape}, its canvas {canvas.shape}; both must be the same")
    _refuse_overhang(canvas, grid, shift_rc_px, pixel_ratio)
    starts = first_sample(canvas, grid, shift_rc_px=shift_rc_px, pixel_ratio=pixel_ratio)
    spacing = grid.step_px * pixel_ratio
    if spacing == 1 and all(start.is_integer() for start in starts):
        row, col = int(starts[0]), int(starts[1])
        return image[row : row + grid.shape[0], col : col + grid.shape[1]]
    sigma = low_pass_sigma(grid.step_px, pixel_ratio)
    margin = SPLINE_MARGIN_PX + ceil(GAUSSIAN_REACH * sigma)
    first = [max(0, floor(start) - margin) for start in starts]
    last = [ceil(start + (count - 1) * spacing) + margin + 1 for start, count in zip(starts, grid.shape, strict=True)]
    cut = image[first[0] : last[0], first[1] : last[1]]
    if sigma > 0:
        cut = ndimage.gaussian_filter(cut, sigma, mode="mirror", truncate=GAUSSIAN_REACH)
    offset = [start - low for start, low in zip(starts, first, strict=True)]
    return ndimage.affine_transform(
        cut, [spacing, spacing], offset=offset, output_shape=grid.shape, output=np.complex64, order=SPLINE_ORDER, mode="mirror"
    )  # fmt: skip


def low_pass_sigma(step_px: float, ratio: float) -> float:
    """Return the standard deviation, in the image's pixels, of the low-pass before sampling; 0 where none is needed.

    It is (s - 1)/2 for a distance s of the samples in the image's pixels. A reconstruction with larger pixels than the truth
    (ratio < 1) gets the truth's own low-pass, (step - 1)/2 truth px, so that both lose the same.
    """
    return max(0.0, step_px * ratio - min(ratio, 1.0)) / 2


def _refuse_overhang(canvas: Canvas, grid: Grid, shift: tuple[float, float], ratio: float) -> None:
    outside = overhang(canvas, grid, shift_rc_px=shift, pixel_ratio=ratio)
    if not outside:
        return
    sides = ", ".join(f"{value:.4g} px at the {name}" for name, value in outside.items())
    region = grid.region
    raise ContractError(
        f"the window rows {region.r0}..{region.r1}, cols {region.c0}..{region.c1}"
        + (f", shifted by ({shift[0]:.4g}, {shift[1]:.4g}) px" if any(shift) else "")
        + (f", at pixel ratio {ratio:.6g}" if ratio != 1 else "")
        + f", leaves the canvas that starts at {canvas.origin_rc_px} with shape {canvas.shape}: by {sides}; "
        "check 'origin_rc_px' and the shape of 'object', or score a smaller rectangle"
    )


def pixel_ratio(recon_px_m: float | None, truth_px_m: float | None, *, resample: bool) -> float:
    """Return truth pixel over reconstruction pixel; 1 where they agree or one is unknown.

    Args:
        recon_px_m: side of a pixel of the reconstruction, m; None where unknown.
        truth_px_m: side of a pixel of the truth, m; None where unknown.
        resample: bring a reconstruction of another pixel size to the truth's grid.

    Raises:
        ContractError: a size is not a positive number, or the two differ and `resample` is off.
    """
    sizes = {"reconstruction": recon_px_m, "truth": truth_px_m}
    refuse(
        [f"the pixel size of the {name} must be positive and finite, got {size} m"
         for name, size in sizes.items() if size is not None and not (np.isfinite(size) and size > 0)],
        what="pixel size",
    )  # fmt: skip
    if recon_px_m is None or truth_px_m is None:
        return 1.0
    ratio = truth_px_m / recon_px_m
    if abs(ratio - 1) <= SAME_PIXEL_SIZE:
        return 1.0
    if not resample:
        raise ContractError(
            f"the reconstruction's pixels are {recon_px_m * 1e9:.6g} nm wide, the truth's {truth_px_m * 1e9:.6g} nm: the same "
            "object covers different pixels; reconstruct with the truth's pixel size or set --resample_pixel_size"
        )
    return float(ratio)


def check_same_object(objects: Mapping[str, Complex64[np.ndarray, "_ _"]]) -> None:
    """Refuse objects that are not one and the same: scores against different truths cannot stand side by side.

    Args:
        objects: full (not cropped) object by file name; frames of any size belong to the same one.

    Raises:
        ContractError: naming every file that differs from the first, and how.
    """
    named = list(objects.items())
    problems = []
    for name, image in named[1:]:
        first_name, first = named[0]
        if image.shape != first.shape:
            problems.append(f"{name} holds an object of {image.shape[0]} x {image.shape[1]} px, {first_name} one of "
                            f"{first.shape[0]} x {first.shape[1]} px")  # fmt: skip
        elif not np.array_equal(image, first):
            differing = int((image != first).sum())
            problems.append(f"{name} differs from {first_name} in {differing} of {first.size} pixels")
    refuse(problems, what="not the same object (compare on one full object, never on crops of it)")
