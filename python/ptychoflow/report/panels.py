"""The parts that all pictures are made of: shared colour limits, panels in whole pixels, scale and colour bars.

Conventions: row 0 on top, columns to the right, one square per pixel, lengths in object pixels. Pictures that stand side
by side share colour limits, and the limits are written on the picture. Phase is in rad on the cyclic map `twilight`.
Figures are made without pyplot: no window, no global state.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Complex, Real
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.offsetbox import AnchoredOffsetbox, AuxTransformBox, TextArea, VPacker
from matplotlib.patches import Rectangle
from PIL import Image
from PIL.PngImagePlugin import PngInfo

Picture = Complex[np.ndarray, "rows cols"]

DPI = 100

LETTER_PX = 6.2
"""Width of a letter of the small print, with something to spare."""

NO_BREAK = "\u00a0"


@dataclass(frozen=True)
class Limits:
    """Colour limits that several pictures share.

    Attributes:
        low, high: amplitude at the ends of its colour bar.
        centre_rad, half_range_rad: the phase bar runs over `centre_rad` +- `half_range_rad`.
        source: whose values set the limits, as written on the picture.
    """

    low: float
    high: float
    centre_rad: float
    half_range_rad: float
    source: str

    def relative_phase(self, picture: Picture) -> Real[np.ndarray, "rows cols"]:
        """Return the phase wrapped to within pi of `centre_rad`, rad."""
        return np.angle(picture * np.exp(-1j * self.centre_rad)) + self.centre_rad


def shared_limits(pictures: Sequence[Picture], *, source: str) -> Limits:
    """Return limits from the values of `pictures`: amplitude at 0.5 and 99.5 %, phase about its amplitude-weighted mean.

    The phase bar is twice as wide as the phases themselves, up to the full circle, because the two ends of a cyclic map
    have one colour: values in the inner half are told apart, and wrong ones still show. Phase that is constant gets the
    full circle, so that rounding errors are not blown up to a pattern.
    """
    values = np.concatenate([np.ravel(picture) for picture in pictures]).astype(np.complex128)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return Limits(0.0, 1.0, 0.0, float(np.pi), source)
    low, high = np.percentile(np.abs(values), [0.5, 99.5])
    if high - low < 1e-6 * max(high, 1e-12):
        low, high = min(low, 0.0), max(2 * high, 1e-12)
    # The mean of value*|value| weighs bright pixels, where the phase is known best.
    centre = float(np.angle(np.sum(values * np.abs(values))))
    seen = values[np.abs(values) > 0]
    spread = np.percentile(np.abs(np.angle(seen * np.exp(-1j * centre))), 99.5) if seen.size else 0.0
    half_range = np.pi if spread < 1e-3 else min(np.pi, 2 * float(spread))
    return Limits(float(low), float(high), centre, float(half_range), source)


def save(figure: Figure, path: Path, *, title: str = "") -> None:
    """Write a figure as PNG, the same bytes each time; `title` also goes into the file's own `Title` text.

    Its colours become the 256 that cover them best, off by less than 5 % of the scale: noisy pictures take a third of the
    bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    text = PngInfo()
    if title:
        text.add_text("Title", title)
    few = drawn.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    few.save(path, format="png", optimize=True, dpi=(DPI, DPI), pnginfo=text)


def pixels(
    axes: Axes,
    values: Real[np.ndarray, "rows cols"],
    *,
    title: str,
    cmap: str | Colormap,
    limits: tuple[float, float],
    origin_rc_px: tuple[int, int] = (0, 0),
) -> AxesImage:
    """Draw pixels with row 0 on top, on axes counted from pixel centres."""
    rows, cols = values.shape
    r0, c0 = origin_rc_px
    image = axes.imshow(
        values,
        cmap=cmap,
        vmin=limits[0],
        vmax=limits[1],
        origin="upper",
        interpolation="nearest",
        extent=(c0 - 0.5, c0 + cols - 0.5, r0 + rows - 0.5, r0 - 0.5),
    )
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=7)
    return image


def scale_bar(axes: Axes, shape: tuple[int, int], *, pixel_size_m: float | None = None) -> None:
    """Draw a bar of 1, 2 or 5 times a power of ten px, about a fifth of the width, and take the ticks away.

    Args:
        axes: a panel drawn by `pixels`.
        shape: rows and columns of its picture.
        pixel_size_m: side of a pixel, m; with it the bar's length is written in nm too.
    """
    cols = shape[1]
    target = max(cols / 5, 1)
    decade = 10 ** int(np.floor(np.log10(target)))
    length = max(step * decade for step in (1, 2, 5) if step * decade <= target)
    stroke = AuxTransformBox(axes.transData)
    stroke.add_artist(Rectangle((0, 0), length, 0.015 * cols, color="white", linewidth=0))
    text = TextArea(f"{length} px{in_nm(length, pixel_size_m)}", textprops={"color": "white", "fontsize": 7})
    content = VPacker(children=[text, stroke], align="center", pad=0, sep=3)
    bar = AnchoredOffsetbox("lower left", child=content, pad=0.3, borderpad=0.4)
    bar.patch.set(facecolor="black", alpha=0.65, edgecolor="none")
    axes.add_artist(bar)
    axes.set_xticks([])
    axes.set_yticks([])


def in_nm(length_px: int, pixel_size_m: float | None) -> str:
    """Return ` = <length> nm`, three digits or more; nothing where the pixel size is unknown."""
    if pixel_size_m is None:
        return ""
    length_nm = length_px * pixel_size_m * 1e9
    return f" = {length_nm:.0f} nm" if length_nm >= 100 else f" = {length_nm:.3g} nm"


def colour_bar(figure: Figure, image: AxesImage, axes: Axes | Sequence[Axes], label: str) -> None:
    """Draw the colour bar of an image beside one panel or a row of them."""
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02, aspect=25)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(label, fontsize=8)


def amplitude_panel(axes: Axes, picture: Picture, limits: Limits, *, title: str) -> AxesImage:
    """Draw the modulus in grey."""
    return pixels(axes, np.abs(picture), title=title, cmap="gray", limits=(limits.low, limits.high))


def phase_panel(axes: Axes, picture: Picture, limits: Limits, *, title: str) -> AxesImage:
    """Draw the phase; pixels too dark to have one stay grey."""
    phase = np.ma.masked_where(~has_phase(picture), limits.relative_phase(picture))
    axes.set_facecolor("0.6")
    ends = (limits.centre_rad - limits.half_range_rad, limits.centre_rad + limits.half_range_rad)
    return pixels(axes, phase, title=title, cmap="twilight", limits=ends)


def has_phase(picture: Picture) -> Bool[np.ndarray, "rows cols"]:
    """Return which pixels are bright enough for a phase: above 2 % of the brightest."""
    modulus = np.nan_to_num(np.abs(picture), nan=0.0, posinf=0.0)
    return modulus > 0.02 * modulus.max()


def stated(limits: Limits) -> str:
    """Return the sentence that says where the colour limits come from."""
    return (
        f"colour limits from {limits.source}: amplitude {limits.low:.3g} to {limits.high:.3g} (0.5 to 99.5 %), "
        f"phase {limits.centre_rad:.3g} ± {limits.half_range_rad:.3g} rad; pixels without amplitude are grey"
    )


def caption(figure: Figure, sentence: str) -> None:
    """Write a sentence under a figure, on as few lines as its width allows, all about as long."""
    n_lines = -(-len(sentence) // int(figure.get_figwidth() * DPI / LETTER_PX))
    lines = textwrap.wrap(sentence.replace(" %", NO_BREAK + "%"), -(-len(sentence) // n_lines) + 6)
    figure.supxlabel("\n".join(lines), fontsize=7)


def panel_inches(shape: tuple[int, int]) -> float:
    """Return the width of a panel with its margin: a screen pixel or more per pixel, as long as the file stays modest."""
    return float(np.clip(1.08 * shape[1] / DPI, 2.6, 3.6))


def aspect(shape: tuple[int, int]) -> float:
    """Return height over width of a panel, kept within what a page can hold."""
    return float(np.clip(shape[0] / shape[1], 0.3, 3.0))
