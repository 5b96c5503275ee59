"""What a file's object and probe settle by reproducing its frames: origin and mapping of the positions, domain, probe scale."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ptychoflow.config import IngestConfig
from ptychoflow.data.agreement import (
    BELIEVABLE,
    Mapping,
    MappingCheck,
    amplitude_exponent,
    check_mapping,
    eight_mappings,
    energy_ratio,
    model_of,
    windows_outside,
)
from ptychoflow.data.rawscan import Domain, RawScan
from ptychoflow.errors import ContractError, refuse
from ptychoflow.frames import Positions, centre_from_topleft

INTENSITY_EXPONENT = 1.5
"""Frames that grow faster than this power of the predicted amplitude are intensity (exponent 2)."""
ROOT_EXPONENT = 0.67
"""Frames that grow slower than this power are the root of an amplitude (exponent 1/2)."""
PROBE_SCALE = 0.02
"""The probe is rescaled when it is off by more than this from what reproduces the frames' energy."""


@dataclass(frozen=True)
class Agreement:
    """What the comparison of object, probe and frames settled.

    Attributes:
        positions_rc_px: (M, 2) patch centres.
        probe_scale: factor on the probe that gives the frames' energy; 1 where it is not known or already right.
        mapping: contrast by mapping, or the reason why there is none, for the metadata.
    """

    positions_rc_px: Positions
    probe_scale: float
    mapping: dict[str, Any]


def settle(
    raw: RawScan,
    amplitude: np.ndarray,
    config: IngestConfig,
    photons: float | None,
    domain: Domain,
    notes: list[str],
    *,
    what: str,
) -> Agreement:
    """Return positions and probe scale that object and frames agree on.

    Args:
        raw: the scan as its file has it.
        amplitude: (M, N, N) its frames, converted.
        config: whether the check is wanted.
        photons: photons in one unit of amplitude squared, where known.
        domain: what the frames were taken for.
        notes: what was found is added here.
        what: name of the file, for messages.

    Raises:
        ContractError: another axis mapping fits, frames are in the wrong domain, or patches leave the object.
    """
    n = amplitude.shape[-1]
    image = raw.object
    if image is None:
        if not raw.origin_known:
            notes.append("warning: positions taken as patch centres; without an object nothing can confirm it")
        return Agreement(raw.positions_rc_px, 1.0, {"checked": False, "reason": "no object in the file"})
    if not config.check_mapping:
        outside = _window_problems(raw.positions_rc_px, n, image.shape)
        refuse(outside, what=what)
        notes.append("axis mapping not checked: switched off by check_mapping")
        return Agreement(raw.positions_rc_px, 1.0, {"checked": False, "reason": "switched off"})
    positions = raw.positions_rc_px if raw.origin_known else _told_origin(raw, image, amplitude, notes, what=what)
    model = model_of(amplitude, positions, raw.probe, image)
    check = check_mapping(model, photons_per_intensity=photons)
    facts = _mapping_facts(check)
    if check.right is not None:
        raise ContractError(
            f"{what}: positions do not fit the object: as the file has them the contrast correlation of predicted and measured "
            f"frames is {check.contrast['identity']:.3f}, with '{check.right.name}' it is {check.contrast[check.right.name]:.3f}; "
            f"convert with {check.right.recipe}"
        )
    refuse(_window_problems(positions, n, image.shape), what=what)
    if check.problem is not None:
        must_decide = raw.metadata.get("object_role") == "truth" and (check.noise_limit or 0.0) > 2 * BELIEVABLE
        refuse([f"the true object does not reproduce the frames: {check.problem}"] if must_decide else [], what=what)
        notes.append(f"warning: axis mapping not decidable: {check.problem}")
        return Agreement(positions, 1.0, facts)
    notes.append(
        f"axis mapping confirmed: contrast {check.contrast['identity']:.3f}, the next best {_runner_up(check):.3f}"
    )
    predicted = model.predict(Mapping())
    _refuse_domain(raw, domain, amplitude_exponent(model.measured, predicted), what=what)
    ratio = energy_ratio(model.measured, predicted)
    facts["probe_scale_found"] = ratio
    if abs(ratio - 1) <= PROBE_SCALE:
        return Agreement(positions, 1.0, facts)
    if not raw.origin_known:
        notes.append(f"probe multiplied by {ratio:.6g}: grid-lines files store it before scaling")
        return Agreement(positions, ratio, facts)
    # Recorded, not applied: a probe scaled by the object would carry the object into arms that must not see it.
    notes.append(
        f"warning: probe and object predict {1 / ratio:.4g} times the frames' amplitude; the probe is left as it is"
    )
    return Agreement(positions, 1.0, facts)


def _told_origin(raw: RawScan, image: np.ndarray, amplitude: np.ndarray, notes: list[str], *, what: str) -> Positions:
    """Return patch centres of a file that does not say whether it holds centres or first pixels (physics section 2.6).

    Raises:
        ContractError: neither reading reproduces the frames under any axis mapping.
    """
    readings = {
        "patch centres": raw.positions_rc_px,
        "first pixels of the patches": centre_from_topleft(raw.positions_rc_px, amplitude.shape[-1]),
    }
    scores = {}
    for name, positions in readings.items():
        model = model_of(amplitude, positions, raw.probe, image)
        scores[name] = max(model.contrast(mapping) for mapping in eight_mappings((image.shape[0], image.shape[1])))
    best = max(scores, key=lambda name: scores[name])
    said = ", ".join(f"as {name} {score:.3f}" for name, score in scores.items())
    if scores[best] < BELIEVABLE:
        raise ContractError(
            f"{what}: 'coords_offsets' reproduce the frames neither as patch centres nor as first pixels (contrast {said}, "
            f"{BELIEVABLE} is needed); object, probe and frames do not belong together, or the dose is too low to tell: "
            "switch check_mapping off to have them read as centres"
        )
    notes.append(f"positions read as {best}: contrast {said}")
    return readings[best]


def _window_problems(positions_rc_px: Positions, n: int, shape: tuple[int, ...]) -> list[str]:
    """Return the complaint about patches that leave the object."""
    outside = windows_outside(positions_rc_px, n, (shape[0], shape[1]))
    if not outside.any():
        return []
    low, high = positions_rc_px.min(axis=0), positions_rc_px.max(axis=0)
    return [
        f"the object {shape[0]} x {shape[1]} is too small: the {n} x {n} window of {np.count_nonzero(outside)} of {len(outside)} "
        f"frames leaves it, first that of frame {int(np.argmax(outside))}. Patch centres run over rows {low[0]:g} to {high[0]:g} "
        f"and columns {low[1]:g} to {high[1]:g}; move them into the object's pixels, or leave the object out"
    ]


def _refuse_domain(raw: RawScan, domain: Domain, exponent: float, *, what: str) -> None:
    """Raise where the frames follow another power of the predicted amplitude than 1 (NaN says nothing)."""
    if exponent > INTENSITY_EXPONENT:
        raise ContractError(
            f"{what}: '{raw.frames_key}' must hold amplitude, but grows like the predicted amplitude to the power {exponent:.2f}: "
            "this is intensity; state domain = intensity to have the square root taken"
        )
    if exponent < ROOT_EXPONENT:
        raise ContractError(
            f"{what}: '{raw.frames_key}' read as {domain} grows like the predicted amplitude to the power {exponent:.2f}: a square "
            "root too many was taken; state domain = amplitude, or store the amplitude"
        )


def _runner_up(check: MappingCheck) -> float:
    return max(score for name, score in check.contrast.items() if name != "identity")


def _mapping_facts(check: MappingCheck) -> dict[str, Any]:
    return {
        "checked": True,
        "decided": check.decided,
        "reason": check.problem,
        "n_frames": check.n_frames,
        "contrast": check.contrast,
        "noise_limit": check.noise_limit,
    }
