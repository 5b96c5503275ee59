"""Do a file's object and probe reproduce its frames? Which way the positions run, and amplitude against intensity.

The predicted amplitude |F(P * gather(O, position))| is compared with the measured one by contrast correlation (the mean
frame subtracted from both). A wrong axis mapping scores near zero there, whereas a plain correlation hardly tells them
apart, because the mean frame dominates (physics section 2.8). Positions are (row, col) = (y, x) patch centres in px.
"""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from jaxtyping import Complex64, Float32, Float64, Int64, Real

from ptychoflow.frames import Canvas, Positions
from ptychoflow.metrics.consistency import contrast_correlation, predict_frames

N_FRAMES = 128
"""Frames compared, evenly spaced over the scan."""
N_SEARCH_FRAMES = 32
"""Frames compared while offsets are searched."""
BELIEVABLE = 0.2
"""Contrast from which a mapping counts as seen; wrong mappings of a measured scan stay below 0.05."""
MARGIN = 0.1
"""A mapping beats another one only by more than this: symmetric objects fit several mappings alike."""
SEARCH_PX = (-4.0, -2.0, 0.0, 2.0, 4.0)
"""Offsets tried per axis around a mapping whose origin is unknown."""


@dataclass(frozen=True)
class Mapping:
    """Positions = offset + sign * source, where source is the file's (y, x), or (x, y) when swapped.

    Attributes:
        swap: x and y change places first.
        flips: whether the (row, col) axis is mirrored, after the swap.
        offset_rc_px: what is added per axis, px.
    """

    swap: bool = False
    flips: tuple[bool, bool] = (False, False)
    offset_rc_px: tuple[float, float] = (0.0, 0.0)

    def apply(self, positions_rc_px: Positions) -> Positions:
        """Return the mapped positions, (n, 2) in px."""
        source = positions_rc_px[:, ::-1] if self.swap else positions_rc_px
        return np.asarray(self.offset_rc_px) + np.where(self.flips, -1.0, 1.0) * source

    @property
    def name(self) -> str:
        """The mapping in words, offsets aside."""
        flipped = " and ".join(axis for axis, flip in zip("xy", self.flips[::-1], strict=True) if flip)
        parts = (["x and y swapped"] if self.swap else []) + ([f"{flipped} flipped"] if flipped else [])
        return ", then ".join(parts) or ("identity" if self.offset_rc_px == (0.0, 0.0) else "offset")

    @property
    def recipe(self) -> str:
        """How to make right coordinates from the file's."""
        sources = ("xcoords", "ycoords") if self.swap else ("ycoords", "xcoords")
        terms = []
        for source, flip, offset in zip(sources, self.flips, self.offset_rc_px, strict=True):
            if flip:
                terms.append(f"{offset:g} - {source}")
            else:
                terms.append(source if offset == 0 else f"{source} {'+' if offset > 0 else '-'} {abs(offset):g}")
        return f"new ycoords = {terms[0]}, new xcoords = {terms[1]}"


@dataclass(frozen=True)
class MappingCheck:
    """Outcome of `check_mapping`.

    Attributes:
        contrast: contrast correlation by name of mapping; "identity" is the file as it is.
        n_frames: frames compared.
        right: the mapping that clearly beats the file's own, or None.
        problem: why the check says nothing, or None.
        noise_limit: contrast that photon noise would leave a perfect model; None where photons are unknown.
    """

    contrast: dict[str, float]
    n_frames: int
    right: Mapping | None = None
    problem: str | None = None
    noise_limit: float | None = None

    @property
    def decided(self) -> bool:
        """Whether the check saw a mapping that reproduces the frames."""
        return self.problem is None


def eight_mappings(shape: tuple[int, int]) -> list[Mapping]:
    """Return the symmetries of the coordinate axes, identity first; flips are about the object's mid-range.

    Args:
        shape: (H, W) of the object; a flipped row is H - 1 - row.
    """
    mappings = []
    for swap, flip_row, flip_col in product((False, True), repeat=3):
        offset = ((shape[0] - 1.0) * flip_row, (shape[1] - 1.0) * flip_col)
        mappings.append(Mapping(swap, (flip_row, flip_col), offset))
    return mappings


@dataclass(frozen=True)
class Model:
    """A file's object and probe, beside the frames that they should reproduce.

    Attributes:
        measured: (m, N, N) amplitude of the compared frames.
        positions_rc_px: (m, 2) their patch centres as the file has them, pixels of `image`.
        probe: (N, N) in any scale.
        image: (H, W) object.
    """

    measured: Float32[np.ndarray, "m n n"]
    positions_rc_px: Float64[np.ndarray, "m 2"]
    probe: Complex64[np.ndarray, "n n"]
    image: Complex64[np.ndarray, "h w"]

    def sample(self, n_frames: int) -> "Model":
        """Return the model with only some of its frames, evenly spread."""
        chosen = evenly(len(self.measured), n_frames)
        return replace(self, measured=self.measured[chosen], positions_rc_px=self.positions_rc_px[chosen])

    def predict(self, mapping: Mapping) -> Float32[np.ndarray, "m n n"]:
        """Return the predicted amplitude of the chosen frames."""
        canvas = Canvas((0, 0), (self.image.shape[0], self.image.shape[1]))
        return predict_frames(self.image, canvas, self.probe[None], mapping.apply(self.positions_rc_px))

    def contrast(self, mapping: Mapping) -> float:
        """Return the contrast correlation under a mapping; 0 where the prediction or the frames do not vary."""
        try:
            return contrast_correlation(self.measured, self.predict(mapping))
        except ValueError:  # a mapping that moves all frames off the object predicts nothing: it does not fit
            return 0.0


def evenly(n_items: int, n_chosen: int) -> Int64[np.ndarray, "k"]:
    """Return up to `n_chosen` distinct indices, evenly spread over `n_items`."""
    return np.unique(np.linspace(0, n_items - 1, min(n_items, n_chosen)).round().astype(np.int64))


def model_of(
    amplitude: Real[np.ndarray, "m n n"],
    positions_rc_px: Positions,
    probe: Complex64[np.ndarray, "n n"],
    image: Complex64[np.ndarray, "h w"],
) -> Model:
    """Return the model with up to `N_FRAMES` of the frames, read from wherever they lie."""
    chosen = evenly(len(amplitude), N_FRAMES)
    return Model(np.asarray(amplitude[chosen], dtype=np.float32), positions_rc_px[chosen], probe, image)


def check_mapping(model: Model, *, photons_per_intensity: float | None = None) -> MappingCheck:
    """Return which of the eight axis mappings reproduces the frames.

    A mapping whose origin also differs (say x counted from the other end of the scan) is searched only when none of the
    eight fits as it stands: its mid-range is laid on the object's and moved by a few pixels.

    Args:
        model: the compared frames.
        photons_per_intensity: photons in one unit of amplitude squared, where known.
    """
    mappings = eight_mappings((model.image.shape[0], model.image.shape[1]))
    scores = {mapping.name: model.contrast(mapping) for mapping in mappings}
    n_frames = len(model.measured)
    limit = _noise_limit(model.measured, photons_per_intensity)
    best = max(mappings, key=lambda mapping: scores[mapping.name])
    if scores[best.name] < BELIEVABLE:
        best, scores = _search(model, scores)
    if scores[best.name] < BELIEVABLE:
        problem = (
            f"no axis mapping reproduces the frames: the best of eight has contrast {scores[best.name]:.3f}, "
            f"as the file has them {scores['identity']:.3f}, and {BELIEVABLE} is needed to tell"
        )
        return MappingCheck(scores, n_frames, None, problem, limit)
    if scores[best.name] <= scores["identity"] + MARGIN:
        return MappingCheck(scores, n_frames, noise_limit=limit)
    return MappingCheck(scores, n_frames, _refined(model.sample(N_SEARCH_FRAMES), best), noise_limit=limit)


def _search(model: Model, scores: dict[str, float]) -> tuple[Mapping, dict[str, float]]:
    """Return the best mapping with an offset of its own, and the scores with the best of each mapping."""
    few = model.sample(N_SEARCH_FRAMES)
    positions = model.positions_rc_px
    shape = (model.image.shape[0], model.image.shape[1])
    n = len(model.probe)
    corner = Mapping(offset_rc_px=(float(n // 2), float(n // 2)))
    candidates = [corner]
    middle = (np.asarray(shape) - 1) / 2
    for plain in eight_mappings(shape):
        mapped = Mapping(plain.swap, plain.flips).apply(positions)
        anchor = middle - (mapped.min(axis=0) + mapped.max(axis=0)) / 2
        for step in product(SEARCH_PX, repeat=2):
            row, col = (float(value) for value in np.round(anchor + step))
            candidates.append(Mapping(plain.swap, plain.flips, (row, col)))
    found = [(few.contrast(mapping), mapping) for mapping in candidates]
    score, best = max(found, key=lambda pair: pair[0])
    if score < BELIEVABLE:
        return Mapping(), scores
    # Confirmed on all chosen frames, so that a lucky offset among many does not count.
    return best, {**scores, best.name: model.contrast(best)}


def _refined(model: Model, mapping: Mapping) -> Mapping:
    """Return the mapping with the whole-pixel offset that fits best nearby, so that its recipe can be used as it stands."""
    score = model.contrast(mapping)
    for step in (2.0, 1.0):
        while True:
            row, col = mapping.offset_rc_px
            near = [(row + a * step, col + b * step) for a, b in ((1, 0), (-1, 0), (0, 1), (0, -1))]
            found = [(model.contrast(replace(mapping, offset_rc_px=offset)), offset) for offset in near]
            best, offset = max(found)
            if best <= score:
                break
            score, mapping = best, replace(mapping, offset_rc_px=offset)
    return mapping


def _noise_limit(measured: Float32[np.ndarray, "m n n"], photons_per_intensity: float | None) -> float | None:
    """Return the contrast that a perfect model would reach under photon noise, None where photons are unknown.

    The root of a Poisson count has a variance of at most 1/4 or so; what the frames vary beyond that is signal.
    """
    if photons_per_intensity is None:
        return None
    total = float(measured.var(axis=0, dtype=np.float64).mean()) * photons_per_intensity
    return float(np.sqrt(max(total - 0.25, 0.0) / total)) if total > 0 else 0.0


def amplitude_exponent(measured: Float32[np.ndarray, "m n n"], predicted: Float32[np.ndarray, "m n n"]) -> float:
    """Return p of `measured ~ predicted^p`: 1 for amplitude, 2 for intensity, 1/2 for the root of an amplitude.

    The root of the mean square over frames is unbiased under photon noise; pixels count by their predicted energy, so
    that dark ones, where background and noise rule, have no say.
    """
    roots = [np.sqrt(np.mean(stack.astype(np.float64) ** 2, axis=0)) for stack in (measured, predicted)]
    usable = (roots[0] > 0) & (roots[1] > 0)
    if np.count_nonzero(usable) < 3:
        return float("nan")
    y, x = (np.log(root[usable]) for root in roots)
    weight = roots[1][usable] ** 2
    x = x - np.average(x, weights=weight)
    spread = np.average(x * x, weights=weight)
    return float(np.average(x * y, weights=weight) / spread) if spread > 0 else float("nan")


def energy_ratio(measured: Float32[np.ndarray, "m n n"], predicted: Float32[np.ndarray, "m n n"]) -> float:
    """Return sqrt(sum measured^2 / sum predicted^2): the factor that puts the probe into the unit of the frames."""
    sums: list[np.float64] = [np.sum(stack.astype(np.float64) ** 2) for stack in (measured, predicted)]
    return float(np.sqrt(sums[0] / sums[1])) if sums[1] > 0 else float("nan")


def windows_outside(positions_rc_px: Float64[np.ndarray, "m 2"], n: int, shape: tuple[int, int]) -> np.ndarray:
    """Return which frames have a patch window that leaves the object, (M,) bool.

    Args:
        positions_rc_px: (M, 2) patch centres, px.
        n: side of a patch, px.
        shape: (H, W) of the object.
    """
    first = positions_rc_px - n // 2
    last = np.ceil(first + n - 1)
    return np.any((first < 0) | (last > np.asarray(shape) - 1), axis=1)
