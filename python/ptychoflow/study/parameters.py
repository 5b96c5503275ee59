"""The parameters of a study: read from the command line and the study file, checked, and sorted into configurations.

Precedence: default of the configuration < study file < what the user gave. A parameter nobody gave stays None here, so every
default has one home, the configuration (config.py); `nextflow_schema.json` documents it and a test holds the two together.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass

from ptychoflow.arms.ptychovit.restore import PtychoVitConfig
from ptychoflow.config import (
    STRICT,
    Count,
    EvaluateConfig,
    Fraction,
    LsqmlConfig,
    ModelConfig,
    PrepareConfig,
    ReconstructConfig,
    Side,
    SimulateConfig,
    TrainConfig,
    parse,
)
from ptychoflow.errors import UsageError

MAX_PHOTONS = Decimal("1e14")
"""Above this, float32 amplitudes could not hold the shot noise of one bright pixel (SIMULATE refuses it too)."""


def split_list(value: Any) -> Any:
    """Return the items of a comma-separated text; a single number (`--seeds 1` arrives as one) is a list of one."""
    if value is None or isinstance(value, bool):
        raise ValueError("expected a comma-separated list")
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    items = [str(part).strip() for part in parts]
    if not all(items):
        raise ValueError("a comma-separated list must not have empty items")
    return items


def canonical_dose(value: Any) -> str:
    """Return a dose as `<mantissa>e<exponent>`, so that 10000, 1E4 and 1.0e+4 are the same text `1e4`.

    Text, never a float: a float's many spellings would break file names and joins.
    """
    try:
        photons = Decimal(str(value).strip())
    except InvalidOperation:
        raise ValueError("a dose is a number of photons per frame, such as 1e4") from None
    if not photons.is_finite() or not 1 <= photons <= MAX_PHOTONS:
        raise ValueError("a dose is between 1 and 1e14 photons per frame")
    exponent = photons.adjusted()
    mantissa = photons.scaleb(-exponent).normalize()
    return f"{mantissa:f}e{exponent}"


def read_heldout(value: Any) -> Any:
    """Return a held-out choice: a key of the scan file, a fraction (0, 1), or a list of frame indices."""
    if value is None or isinstance(value, list | tuple):
        return value
    text = str(value).strip()
    if re.fullmatch(r"\[\s*\d+(\s*,\s*\d+)*\s*\]", text):
        return json.loads(text)
    if re.fullmatch(r"[A-Za-z_]\w*", text) and not isinstance(value, bool):
        return text
    try:
        fraction = float(text)
    except ValueError:
        raise ValueError("expected the name of a key in the scan file, or a fraction") from None
    if not 0 < fraction < 1:
        raise ValueError("a fraction lies between 0 and 1, both excluded")
    return fraction


def read_epochs(value: Any) -> Any:
    """Return a list of epochs; the word `none` is an empty one."""
    return [] if str(value).strip().lower() == "none" else split_list(value)


def read_sides(value: Any) -> Any:
    """Return (arm, N) of every item of a text such as `pinn_ptychovit=256`."""
    if isinstance(value, tuple | list):
        return value
    pairs = [re.fullmatch(r"([a-z][a-z0-9_]*)\s*=\s*([0-9]+)", item) for item in _lower(value)]
    found = [pair.groups() for pair in pairs if pair]
    if len(found) < len(pairs):
        raise ValueError("expected ARM=N, with commas between several")
    if len({arm for arm, _ in found}) < len(found):
        raise ValueError("an arm is named twice")
    return found


def _lower(items: Any) -> Any:
    return [item.lower() for item in split_list(items)]


def _no_repeats(items: tuple) -> tuple:
    twice = [str(item) for item, count in Counter(items).items() if count > 1]
    if twice:
        raise ValueError(f"listed twice: {', '.join(twice)}")
    return items


DoseText = Annotated[str, BeforeValidator(canonical_dose)]
Names = Annotated[tuple[str, ...], BeforeValidator(_lower), AfterValidator(_no_repeats)]
Doses = Annotated[tuple[DoseText, ...], BeforeValidator(split_list), AfterValidator(_no_repeats)]
Gridsizes = Annotated[
    tuple[Annotated[int, Field(ge=1, le=3)], ...], BeforeValidator(split_list), AfterValidator(_no_repeats)
]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(split_list), AfterValidator(_no_repeats)]
Sides = Annotated[tuple[tuple[str, Side], ...], BeforeValidator(read_sides)]
Snapshots = Annotated[tuple[Count, ...], BeforeValidator(read_epochs), AfterValidator(_no_repeats)]
Heldout = Annotated[str | float | list[int] | None, BeforeValidator(read_heldout)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, config=STRICT)
class Parameters:
    """Every parameter that a study may set, by its name on the command line (meanings: nextflow_schema.json)."""

    # what to run
    base: str | None = None
    models: Names | None = None
    model_n: Sides = (("pinn_ptychovit", 256),)
    gridsizes: Gridsizes = (1,)
    doses: Doses | None = None
    views: Names = ("all",)
    preset: str | None = None
    matrix: Literal["full", "specified"] | None = None
    seeds: Seeds = (0,)
    # data
    data_seed: Annotated[int, Field(ge=0)] | None = None
    N: Side | None = None
    size: Side | None = None
    size_cols: Side | None = None
    nimgs_train: Count | None = None
    nimgs_test: Count | None = None
    step_train_px: Positive | None = None
    step_test_px: Positive | None = None
    n_frames: Count | None = None
    set_phi: bool | None = None
    probe: Literal["ideal_disk", "defocused", "base"] | None = None
    probe_smoothing_sigma_px: NonNegative | None = None
    # split and grouping
    split: Literal["none", "region", "scans"] | None = None
    split_axis: Literal["y", "x"] | None = None
    split_fraction: Fraction | None = None
    split_at: Literal["extent", "median"] | None = None
    guard_px: NonNegative | None = None
    heldout: Heldout = None
    seed_sampling: Literal["random", "sequential"] | None = None
    n_groups: Count | None = None
    n_subsample: Count | None = None
    n_neighbors: Count | None = None
    oversample: bool | None = None
    include_seed: bool | None = None
    grouping_seed: Annotated[int, Field(ge=0)] | None = None
    subsample_seed: Annotated[int, Field(ge=0)] | None = None
    # views
    s_img: Annotated[float, Field(gt=0, le=1)] | None = None
    min_spacing_px: Positive | None = None
    max_groups: Count | None = None
    min_acceptance: Annotated[float, Field(ge=0, lt=1)] | None = None
    probe_diameter_px: Positive | None = None
    strict_views: bool | None = None
    # training
    epochs: Count | None = None
    batch_size: Count | None = None
    learning_rate: Positive | None = None
    plateau_patience: Annotated[int, Field(ge=0)] | None = None
    realspace_weight: NonNegative | None = None
    mae_weight: NonNegative | None = None
    nll_weight: NonNegative | None = None
    precision: Literal["auto", "fp32", "bf16"] | None = None
    model_output: Literal["padded", "full"] | None = None
    predict_border: bool | None = None
    amplitude_activation: Literal["sigmoid", "swish", "softplus", "relu"] | None = None
    amplitude_limit: Positive | None = None
    n_filters_scale: Count | None = None
    object_big: bool | None = None
    exit_wave_sigma_px: NonNegative | None = None
    extraction_jitter_px: NonNegative | None = None
    trainable_scale: bool | None = None
    trainable_probe: bool | None = None
    per_channel_probe: bool | None = None
    probe_mask: bool | None = None
    infer_batch_size: Count | None = None
    stitching: Literal["position", "tiling"] | None = None
    keep_reassembly: bool | None = None
    # lsqml
    lsqml_epochs: Count | None = None
    lsqml_batch_size: Count | None = None
    lsqml_plateau_stop: bool | None = None
    # ptychovit
    ptychovit_repo: str | None = None
    ptychovit_python: str | None = None
    ptychovit_image: str | None = None
    ptychovit_tree_digest: Digest | None = None
    allow_double: Digest | None = None
    ptychovit_mode: Literal["inference", "resume", "finetune", "train"] | None = None
    ptychovit_checkpoint: str | None = None
    ptychovit_base_config: str | None = None
    resume_from_checkpoint: bool | None = None
    finetune_policy: Literal["resume", "progressive"] | None = None
    ptychovit_epochs: Count | None = None
    ptychovit_batch_size: Count | None = None
    ptychovit_train_split: Fraction | None = None
    ptychovit_infer_batch_size: Count | None = None
    ptychovit_time_limit_s: Positive | None = None
    # scoring
    align: Literal["none", "gauge", "register"] | None = None
    phase_ramp: bool | None = None
    max_shift_px: Positive | None = None
    canonical_grid: Side | None = None
    resample_pixel_size: bool | None = None
    ms_ssim_sigma: NonNegative | None = None
    ms_ssim_levels: Annotated[int, Field(ge=1, le=5)] | None = None
    legacy_metrics: bool | None = None
    snapshots: Snapshots | None = None
    score_box_px: Side | None = None


CONFIG_FIELDS: dict[type, dict[str, str]] = {
    SimulateConfig: {
        name: name for name in ("size", "size_cols", "n_frames", "probe", "probe_smoothing_sigma_px", "data_seed")
    }
    | {"N": "n"},
    PrepareConfig: {
        name: name
        for name in (
            *("split_axis", "split_fraction", "split_at", "guard_px", "seed_sampling", "n_groups", "n_subsample"),
            *(
                "n_neighbors",
                "oversample",
                "include_seed",
                "grouping_seed",
                "subsample_seed",
                "data_seed",
                "score_box_px",
            ),
            *("s_img", "min_spacing_px", "max_groups", "min_acceptance", "probe_diameter_px", "strict_views"),
        )
    },
    ModelConfig: {"model_output": "output"}
    | {
        name: name
        for name in (
            *("predict_border", "amplitude_activation", "amplitude_limit", "n_filters_scale", "object_big"),
            *("exit_wave_sigma_px", "extraction_jitter_px", "trainable_scale", "trainable_probe", "per_channel_probe"),
            "probe_mask",
        )
    },
    TrainConfig: {
        name: name
        for name in (
            *("epochs", "batch_size", "learning_rate", "realspace_weight", "mae_weight", "nll_weight", "precision"),
            *("plateau_patience", "snapshots"),
        )
    },
    ReconstructConfig: {name: name for name in ("infer_batch_size", "stitching", "keep_reassembly")},
    LsqmlConfig: {name: name for name in ("lsqml_epochs", "lsqml_batch_size", "lsqml_plateau_stop", "snapshots")},
    PtychoVitConfig: {
        f"ptychovit_{name}": name
        for name in ("mode", "epochs", "batch_size", "train_split", "infer_batch_size", "time_limit_s")
    }
    | {name: name for name in ("resume_from_checkpoint", "finetune_policy")},
    EvaluateConfig: {
        name: name
        for name in (
            *("align", "phase_ramp", "max_shift_px", "canonical_grid", "resample_pixel_size", "ms_ssim_sigma"),
            *("ms_ssim_levels", "legacy_metrics"),
        )
    },
}
"""Which parameter becomes which field of which configuration: the one table of names."""

ROLE_FIELDS = {
    "train": {"nimgs_train": "n_objects", "step_train_px": "step_px"},
    "test": {"nimgs_test": "n_objects", "step_test_px": "step_px"},
}
"""Parameters of a simulated scan that depend on its role; a scan that is both follows those of `train`."""

SIMULATION_ONLY = frozenset(
    (
        *("doses", "size", "size_cols", "nimgs_train", "nimgs_test", "step_train_px", "step_test_px", "n_frames"),
        *("set_phi", "probe", "probe_smoothing_sigma_px"),
    )
)
"""Parameters without meaning for measured scans."""

OF_THIS_MACHINE = frozenset(("ptychovit_repo", "ptychovit_python", "ptychovit_checkpoint", "ptychovit_base_config"))
"""Paths that the plan checks and does not keep: they say where something lies here, and nothing of the study."""

SUPPLIED = OF_THIS_MACHINE | {"ptychovit_image", "ptychovit_tree_digest", "allow_double"}
"""Parameters that say which external code and which weights are there."""

SCORING = frozenset(CONFIG_FIELDS[EvaluateConfig])
"""Parameters of the scoring, which a reconstruction from elsewhere takes too."""

PREPARING = frozenset(("heldout", "data_seed", "score_box_px"))
"""Parameters that matter for a scan which nothing is trained on: its held-out frames and its scored region."""

AFTER_PREPARE = SUPPLIED | {
    name for config in CONFIG_FIELDS if config not in (SimulateConfig, PrepareConfig) for name in CONFIG_FIELDS[config]
}
"""Parameters that matter where scans and views are given: of training, inference, LSQML, external code and scoring."""

AFTER_TRAIN = (AFTER_PREPARE - CONFIG_FIELDS[ModelConfig].keys() - CONFIG_FIELDS[TrainConfig].keys()) | {
    "precision",
    "snapshots",
}
"""Those that matter where trained models are given too: inference has a precision, and LSQML keeps its snapshots."""

REGION_ONLY = frozenset(("split_axis", "split_fraction", "split_at", "guard_px"))
"""Parameters without meaning unless a scan is cut in two."""


def read_parameters(given: Mapping[str, Any], study: Mapping[str, Any]) -> tuple[Parameters, list[str]]:
    """Return the merged parameters and everything that is wrong with them; wrong ones are left out.

    Args:
        given: what the user gave, by name; None means not given.
        study: the `params` of the study file.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    preset = {name: value for name, value in study.items() if value is not None}
    problems: list[str] = []
    merged: dict[str, Any] = {}
    for source, values in (("study file", preset), ("parameters", asked)):
        for name, value in values.items():
            try:
                parsed = parse(Parameters, {name: value}, what=source)
            except UsageError as error:
                problems.append(str(error))
                continue
            if isinstance(value, bool) and not isinstance(getattr(parsed, name), bool):
                problems.append(f"{source}: option '{name}' needs a value")
            else:
                merged[name] = value
    return parse(Parameters, merged, what="parameters"), problems


def options(parameters: Parameters, names: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration fields that were given, for a table of parameter name to field name."""
    values = {field: getattr(parameters, name) for name, field in names.items()}
    return {field: value for field, value in values.items() if value is not None}


def complete(cls: type, values: Mapping[str, Any], *, what: str) -> dict[str, Any]:
    """Return every field of a validated configuration, defaults included, as plain data."""
    return asdict(parse(cls, values, what=what))
