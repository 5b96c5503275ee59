"""Configurations of the commands: frozen, validated, unknown names refused with the nearest known one.

study/parameters.py says which parameter of the workflow sets which field; the others are for `ptychoflow` alone.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ptychoflow.errors import UsageError, nearest

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=False)

Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Dose = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(e[0-9]+)?$")]
Side = Annotated[int, Field(ge=8)]

SNAPSHOT_EPOCHS = (1, 2, 5, 10, 20, 50, 100)
"""Where quality is measured over time unless `--snapshots` says otherwise."""


@dataclass(frozen=True, config=STRICT)
class SimulateConfig:
    """One simulated scan."""

    kind: Literal["lines", "siemens", "base"] = "lines"
    """Object: random lines (physics section 13), a Siemens star, or object and probe of a base file."""
    n: Side = 64
    """Side of a diffraction frame, px."""
    size: Side = 392
    """Rows of an object, px. For `base` the file's object decides."""
    size_cols: Side | None = None
    """Columns of an object, px; like the rows when absent."""
    n_objects: Count = 1
    """Number of objects, laid side by side in one frame of coordinates with an N-pixel gap."""
    step_px: Annotated[float, Field(gt=0)] = 4.0
    """Raster step, px."""
    jitter_px: Annotated[float, Field(ge=0)] = 0.0
    """Uniform random displacement of each position, at most this much per axis, px."""
    scan: Literal["raster", "random", "base"] = "raster"
    """Scan positions: a raster, uniform random ones, or those of the base file."""
    n_frames: Count | None = None
    """Number of frames of a random scan."""
    dose: Dose = "1e9"
    """Mean photons per frame over the scan, e.g. `1e4`."""
    noise: bool = True
    """Poisson noise on the counts; False stores the noise-free amplitude."""
    probe: Literal["ideal_disk", "defocused", "base"] = "ideal_disk"
    """Probe: the smoothed disk of the grid-lines workload, a defocused aperture, or that of the base file."""
    probe_smoothing_sigma_px: Annotated[float, Field(ge=0)] = 0.5
    """Gaussian smoothing of the probe's real and imaginary part before use, px; 0 is off."""
    phase: Literal["none", "amplitude", "independent"] = "none"
    """Object phase: zero, a function of the amplitude (`--set_phi`), or drawn on its own."""
    data_seed: Annotated[int, Field(ge=0)] = 42
    """Root seed of objects, positions and noise."""
    object_stream: Annotated[int, Field(ge=0)] = 0
    """Which independent stream of the root seed draws the objects: train and test scans use different ones."""


@dataclass(frozen=True, config=STRICT)
class IngestConfig:
    """How a scan file from outside is read."""

    layout: Literal["auto", "NHW", "HWN"] = "auto"
    """Frame axis first or last; `auto` transposes only when the shapes leave no doubt."""
    domain: Literal["auto", "amplitude", "intensity"] = "auto"
    """What the frames hold; `auto` is the file's metadata, else the format's own rule."""
    expect_n: Side | None = None
    """Frame side that the caller expects; another one is an error."""
    expect_dose: Dose | None = None
    """Dose that the caller expects; contradicting metadata are an error."""
    pixel_size_m: Annotated[float, Field(gt=0)] | None = None
    """Object pixel size, m; contradicting metadata are an error."""
    photons_per_intensity: Annotated[float, Field(gt=0)] | None = None
    """Photons in one unit of amplitude squared, where the caller knows it."""
    check_mapping: bool = True
    """Check the axis mapping by contrast correlation where object and probe are in the file."""


@dataclass(frozen=True, config=STRICT)
class PrepareConfig:
    """Split, grouping and scoring region of one condition."""

    split: Literal["none", "region", "scans"] = "scans"
    """`scans`: separate train and test scans; `region`: one scan cut in two; `none`: train and test on the same frames."""
    split_axis: Literal["y", "x"] = "y"
    """Axis of a region split."""
    split_fraction: Fraction = 0.5
    """Train share of the scan's extent along the axis (frames below the threshold)."""
    split_at: Literal["extent", "median"] = "extent"
    """Threshold at a fraction of the extent, or at the median coordinate."""
    guard_px: Annotated[float, Field(ge=0)] | None = None
    """Least distance along the axis between train and test positions, px; None is N, so that no patches overlap."""
    heldout: str | float | list[int] | None = None
    """Frames that no arm reads: a key of the scan file, a fraction, or a list of indices of the test scan."""
    gridsize: Annotated[int, Field(ge=1, le=3)] = 1
    """Groups have gridsize squared members."""
    n_groups: Count | None = None
    """Number of train groups; all frames seed one group each when absent."""
    n_subsample: Count | None = None
    """Train frames kept before grouping; all when absent."""
    seed_sampling: Literal["random", "sequential"] = "random"
    """Which frames seed the train groups when there are fewer groups than frames."""
    n_neighbors: Count = 7
    """K: members are chosen from the seed's K nearest frames."""
    include_seed: bool = True
    """The seed is member 0 of its group; False draws all members from the neighbours."""
    oversample: bool = False
    """Allow more groups than frames by choosing several member combinations per seed (K choose C)."""
    data_seed: Annotated[int, Field(ge=0)] = 42
    """Root seed of held-out choice, subsampling and grouping."""
    score_box_px: Side | None = None
    """Score only the central square of this side; the largest fully covered rectangle when absent."""
    s_img: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of each side's frames that is kept before grouping, drawn without replacement."""
    min_spacing_px: Annotated[float, Field(gt=0)] | None = None
    """Least distance between the centres of two groups of one side, px; a group nearer to a kept one is left out."""
    view_gridsize: Annotated[int, Field(ge=1, le=3)] | None = None
    """Gridsize of the groups that keep the spacing: the view's frames are their members, whatever gridsize reads them."""
    max_groups: Count | None = None
    """Most groups of a spaced view, per side: those nearest to the middle of the field."""
    min_acceptance: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Least share of groups that the spacing must leave; a view that cannot have it is skipped with the bound."""
    probe_diameter_px: Annotated[float, Field(gt=0)] | None = None
    """Diameter of the disc that the overlap measures use, px; None is 0.6 N."""
    subsample_seed: Annotated[int, Field(ge=0)] | None = None
    """Own seed of the frame subsampling; None draws it from `data_seed`."""
    grouping_seed: Annotated[int, Field(ge=0)] | None = None
    """Own seed of the grouping; None draws it from `data_seed`."""
    strict_views: bool = False
    """A view that cannot exist is an error (exit 65) instead of skipped with its reason."""


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """The U-Net and its physics (physics section 8)."""

    n_filters_scale: Count = 2
    """Multiplies the number of filters of every stage."""
    output: Literal["padded", "full"] = "padded"
    """`padded`: central N/2 square by the main head, border by the border head; `full`: the main head fills N x N."""
    predict_border: bool = True
    """With `padded`, predict the border from the last channels; False leaves it zero."""
    amplitude_activation: Literal["sigmoid", "swish", "softplus", "relu"] = "sigmoid"
    """Activation of the amplitude head."""
    amplitude_limit: Annotated[float, Field(gt=0)] = 2.0
    """Largest amplitude of the sigmoid head, in units of the illuminated RMS modulus of the object."""
    object_big: bool = True
    """With gridsize > 1: one patch per member, merged into a local object; False predicts one patch for the whole group."""
    exit_wave_sigma_px: Annotated[float, Field(ge=0)] = 0.0
    """Gaussian smoothing of the exit wave, px; 0 is off. Not the smoothing of the probe's preparation."""
    extraction_jitter_px: Annotated[float, Field(ge=0)] = 0.0
    """Augmentation in training: each position is displaced by a normal random amount of this standard deviation, px."""
    trainable_scale: bool = False
    """Learn the logarithm of the intensity scale, starting at the data's own."""
    trainable_probe: bool = False
    """Refine the probe along with the network, starting at the scan's."""
    probe_mask: bool = False
    """Illuminate within a disc of radius N/4 only."""
    per_channel_probe: bool = False
    """One probe per member of a group instead of a shared one; they differ only where the probe is trainable."""


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """Training of a neural arm."""

    epochs: Count = 50
    """Passes over the train groups."""
    batch_size: Count = 16
    """Groups per step."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """Adam step size."""
    realspace_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the total variation (sum of squared finite differences) of the predicted patch."""
    mae_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the mean absolute error of the amplitude."""
    nll_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the Poisson deviance of the intensity."""
    validation_fraction: Fraction = 0.05
    """Share of the train groups kept for validation (never the test frames)."""
    plateau_patience: Annotated[int, Field(ge=0)] = 2
    """Epochs without better validation loss before the step size is halved, down to a tenth of its start; 0 is off."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Convolutions in bfloat16 where the processor has it (`auto`), always, or never."""
    checkpoint_every_s: Annotated[float, Field(ge=0)] = 15.0
    """Seconds between checkpoints; 0 writes one after every step."""
    max_seconds: Annotated[float, Field(gt=0)] | None = None
    """Stop after this time (recorded); None trains all epochs."""
    snapshots: tuple[Count, ...] = SNAPSHOT_EPOCHS
    """Epochs after which the weights are kept, for the curve of quality over time; the last epoch always counts."""


@dataclass(frozen=True, config=STRICT)
class ReconstructConfig:
    """Inference with a trained network."""

    infer_batch_size: Count = 32
    """Frames per network call; has no influence on the result beyond rounding."""
    stitching: Literal["position", "tiling"] = "position"
    """`position`: every patch where it lies, weighted by the probe; `tiling`: raster tiles without blending, gridsize 1 only."""
    keep_reassembly: bool = False
    """Also write the specified reassembly NPZ (frames, absolute positions, probe, object) for other tools."""


@dataclass(frozen=True, config=STRICT)
class LsqmlConfig:
    """The pty-chi LSQML reconstruction."""

    lsqml_epochs: Count = 100
    """Passes over the frames; the first one only rescales the probe."""
    lsqml_batch_size: Count = 32
    """Frames per update."""
    lsqml_plateau_stop: bool = False
    """Stop when the loss changes by less than 1e-3 over 10 epochs, after at least 30."""
    snapshots: tuple[Count, ...] = SNAPSHOT_EPOCHS
    """Epochs after which object and probe are kept, for the curve of quality over time; the last epoch always counts."""


@dataclass(frozen=True, config=STRICT)
class EvaluateConfig:
    """Scoring of one reconstruction."""

    align: Literal["none", "gauge", "register"] = "gauge"
    """`gauge` removes one complex factor before scoring, `register` also a shift that is believed; `none` nothing."""
    phase_ramp: bool = False
    """Also remove a linear phase from the reconstruction."""
    max_shift_px: Annotated[float, Field(gt=0)] = 5.0
    """Largest shift, per axis, that registration looks for, px."""
    canonical_grid: Side | None = None
    """Score on a grid with this many samples along the longer side of the rectangle; on the truth's own pixels when absent."""
    resample_pixel_size: bool = False
    """Bring a reconstruction of another pixel size to the truth's grid instead of refusing it."""
    ms_ssim_sigma: Annotated[float, Field(ge=0)] = 0.0
    """Gaussian blur of both images before MS-SSIM, px; 0 is off, studies have used 1.0."""
    ms_ssim_levels: Annotated[int, Field(ge=1, le=5)] = 5
    """Scales of MS-SSIM; it needs 11 * 2^(levels - 1) px, 176 for the standard five."""
    legacy_metrics: bool = False
    """Add the scores of published tables under `legacy_` names; they are never ranked."""
    collapse_ratio: Annotated[float, Field(ge=0)] = 0.3
    """Below this standard-deviation ratio to the truth a picture counts as collapsed (T8)."""


T = TypeVar("T")


def parse(cls: type[T], values: Mapping[str, Any], *, what: str) -> T:
    """Return a validated configuration.

    Raises:
        UsageError: naming every unknown field (with the nearest known one) and every bad value at once.
    """
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    problems = [f"unknown option '{name}'{nearest(name, known)}" for name in values if name not in known]
    try:
        config = TypeAdapter(cls).validate_python({k: v for k, v in values.items() if k in known})
    except ValidationError as error:
        for item in error.errors(include_url=False):
            where = ".".join(str(part) for part in item["loc"])
            problems.append(f"option '{where}': {item['msg']}, got {item['input']!r}")
        raise UsageError(f"{what}: " + "; ".join(problems)) from None
    if problems:
        raise UsageError(f"{what}: " + "; ".join(problems))
    return config
