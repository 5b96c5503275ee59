"""SIMULATE: objects, probe, positions and photons of one scan -> scan.npz, manifest.json, preview.png.

Random numbers: every stream is `PCG64(SeedSequence(data_seed, spawn_key=(stream, object_stream, object)))` with the stream
numbers of `STREAMS`; `object` counts the scan's objects and is 0 for the noise. So positions and noise do not move when
objects change, a second object leaves the first as it was, and scans with different `object_stream` share nothing (D8, D48).
"""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ptychoflow.config import SimulateConfig
from ptychoflow.data.base import Base, load_base
from ptychoflow.data.storage import save_scan
from ptychoflow.errors import ContractError, UsageError
from ptychoflow.frames import Positions, Region
from ptychoflow.physics import objects, scans
from ptychoflow.physics import probe as probes
from ptychoflow.physics.diffraction import expose
from ptychoflow.provenance import sha256_file, write_manifest
from ptychoflow.records import Scan

STREAMS = {"amplitude": 0, "phase": 1, "positions": 2, "noise": 3}
"""Numbers of the random streams; part of what a seed means, so they never change."""
MAX_DOSE = 1e14
"""Photons per frame beyond which float32 amplitudes could no longer hold the shot noise of one bright pixel."""


def run(config: SimulateConfig, *, dataset_id: str, base: Path | None, out_dir: Path) -> None:
    """Simulate one scan and write `scan.npz`, `preview.png` and `manifest.json` into `out_dir`.

    Args:
        config: what to simulate.
        dataset_id: name of the data set, stored with the scan.
        base: file with object and probe, where the configuration takes any of them from a base file.
        out_dir: folder of the outputs.

    Raises:
        UsageError: options that exclude each other.
        ContractError: a base file that does not hold what is needed.
    """
    from ptychoflow.report.previews import scan_preview

    loaded = None if base is None else load_base(base)
    scan = simulate_scan(config, loaded)
    origin = None if base is None else {"name": base.name, "sha256": sha256_file(base)}
    scan = replace(scan, metadata={**scan.metadata, "dataset": dataset_id, "base": origin})
    save_scan(out_dir / "scan.npz", scan)
    scan_preview(scan, out_dir / "preview.png")
    write_manifest(
        out_dir,
        command="simulate",
        inputs={} if base is None else {"base": base},
        outputs=["scan.npz", "preview.png"],
        parameters={"dataset": dataset_id, **asdict(config)},
        facts={"n_frames": scan.n_frames, "dose_measured_mean": scan.metadata["dose_measured_mean"]},
    )


def simulate_scan(config: SimulateConfig, base: Base | None) -> Scan:
    """Return the simulated scan; a pure function of its arguments.

    Raises:
        UsageError: options that exclude each other.
        ContractError: a base that does not fit the options.
    """
    refuse_options(config, has_base=base is not None)
    image, regions = _objects(config, base)
    probe, pipeline = _probe(config, base)
    positions, nominal, scan_index = _positions(config, base, regions)
    rng = _generator(config, "noise") if config.noise else None
    try:
        exposure = expose(image, probe, positions, dose_photons=float(config.dose), rng=rng)
    except ValueError as error:
        raise ContractError(f"simulation: {error}; give another object, probe or positions") from error
    return Scan(
        amplitude=exposure.amplitude,
        positions_rc_px=positions,
        probe=exposure.probe,
        scan_index=scan_index,
        object=image,
        positions_start_rc_px=nominal,
        metadata={
            "source": "simulated",
            "kind": config.kind,
            "n": config.n,
            "domain": "amplitude",
            "unit": "sqrt(photons)",
            "photons_per_intensity": 1.0,
            "dose_asked": config.dose,
            "dose_measured_mean": exposure.dose_mean_photons,
            "object_role": "truth",
            "objects": [region.as_array().tolist() for region in regions],
            "probe_pipeline": pipeline,
            "seeds": {"data_seed": config.data_seed, "object_stream": config.object_stream, "streams": STREAMS},
            "config": asdict(config),
        },
    )


def refuse_options(config: SimulateConfig, *, has_base: bool) -> None:
    """Raise one UsageError that names every combination of options that makes no sense."""
    problems = []
    wanted = [name for name in ("kind", "probe", "scan") if getattr(config, name) == "base"]
    if wanted and not has_base:
        problems.append(f"{' and '.join(wanted)} = 'base' needs a base file, got none; name one with --base")
    if has_base and not wanted:
        problems.append(
            "a base file is given, but neither kind, probe nor scan is 'base'; set one or leave the file out"
        )
    cols = config.size if config.size_cols is None else config.size_cols
    if config.kind != "base" and min(config.size, cols) < config.n:
        problems.append(f"an object of {config.size} x {cols} px is smaller than a frame of N = {config.n} px")
    if config.kind == "base" and config.n_objects != 1:
        problems.append(
            f"n_objects = {config.n_objects} with kind = 'base': the file decides how many objects there are"
        )
    if config.kind != "lines" and config.phase != "none":
        problems.append(f"phase = '{config.phase}' with kind = '{config.kind}': only lines objects take a phase option")
    if config.scan == "base" and config.kind != "base" and config.n_objects != 1:
        problems.append(f"scan = 'base' with n_objects = {config.n_objects}: the file's positions are for one object")
    if config.scan == "random" and config.n_frames is None:
        problems.append("scan = 'random' needs n_frames")
    if config.scan != "random" and config.n_frames is not None:
        problems.append(f"n_frames = {config.n_frames} is for scan = 'random', got scan = '{config.scan}'")
    if config.scan != "raster" and config.jitter_px > 0:
        problems.append(f"jitter_px = {config.jitter_px} is for scan = 'raster', got scan = '{config.scan}'")
    if config.scan == "random" and config.n_frames is not None and config.n_frames < config.n_objects:
        problems.append(f"n_frames = {config.n_frames} cannot cover n_objects = {config.n_objects}")
    if not 0 < float(config.dose) <= MAX_DOSE:
        problems.append(f"dose = {config.dose} photons per frame is not above 0 and at most {MAX_DOSE:.0e}")
    if problems:
        raise UsageError("simulate: " + "; ".join(problems))


def _generator(config: SimulateConfig, stream: str, index: int = 0) -> np.random.Generator:
    """Return the generator of one stream; see the head of this file."""
    key = (STREAMS[stream], config.object_stream, index)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(config.data_seed, spawn_key=key)))


def _objects(config: SimulateConfig, base: Base | None) -> tuple[np.ndarray, tuple[Region, ...]]:
    """Return all objects in one complex64 frame, and the rectangle of each."""
    if config.kind == "base" and base is not None:
        return base.object, base.regions
    shape = (config.size, config.size if config.size_cols is None else config.size_cols)
    indices = range(config.n_objects)
    if config.kind == "siemens":
        drawn = [objects.siemens_star(shape, _generator(config, "amplitude", i)) for i in indices]
        return objects.side_by_side(drawn, config.n)
    amplitudes = [objects.lines_amplitude(shape, _generator(config, "amplitude", i)) for i in indices]
    if config.phase == "amplitude":
        phases = objects.phase_from_amplitude(amplitudes)
    elif config.phase == "independent":
        phases = [objects.independent_phase(shape, _generator(config, "phase", i)) for i in indices]
    else:
        phases = [np.zeros(shape) for _ in indices]
    drawn = [amplitude * np.exp(1j * phase) for amplitude, phase in zip(amplitudes, phases, strict=True)]
    return objects.side_by_side(drawn, config.n)


def _probe(config: SimulateConfig, base: Base | None) -> tuple[np.ndarray, str]:
    """Return the prepared probe in any scale, and the text that says how it was made.

    Raises:
        ContractError: when the base file's probe has another side than the frames.
    """
    if config.probe == "base" and base is not None:
        raw = base.probe
        if len(raw) != config.n:
            raise ContractError(
                f"the base file's probe has side {len(raw)} px but N = {config.n}; set N to {len(raw)} or give another probe"
            )
    else:
        raw = probes.ideal_disk(config.n) if config.probe == "ideal_disk" else probes.defocused(config.n)
    sigma = config.probe_smoothing_sigma_px
    pipeline = config.probe if sigma == 0 else f"{config.probe}|smooth:{sigma:g}"
    return probes.smooth(raw, sigma), pipeline


def _positions(
    config: SimulateConfig, base: Base | None, regions: tuple[Region, ...]
) -> tuple[Positions, Positions | None, np.ndarray]:
    """Return true positions, nominal ones where they differ, and the object of each frame; ordered by object."""
    if config.scan == "base" and base is not None:
        positions, index = _checked_base_positions(config, base, regions)
        return positions, None, index
    true, nominal = [], []
    for number, region in enumerate(regions):
        if min(region.shape) < config.n:
            raise ContractError(
                f"object {number} of {region.shape[0]} x {region.shape[1]} px is smaller than N = {config.n}"
            )
        rng = _generator(config, "positions", number)
        if config.n_frames is not None:
            share = config.n_frames // len(regions) + (number < config.n_frames % len(regions))
            true.append(scans.uniform(region, config.n, share, rng))
            continue
        grid = scans.raster(region, config.n, config.step_px)
        nominal.append(grid)
        true.append(scans.jittered(grid, region, config.n, config.jitter_px, rng) if config.jitter_px > 0 else grid)
    index = np.repeat(np.arange(len(regions)), [len(part) for part in true]).astype(np.int64)
    return np.concatenate(true), np.concatenate(nominal) if config.jitter_px > 0 else None, index


def _checked_base_positions(
    config: SimulateConfig, base: Base, regions: tuple[Region, ...]
) -> tuple[Positions, np.ndarray]:
    """Return the base file's positions and object indices.

    Raises:
        ContractError: when there are none, or a patch leaves its object.
    """
    positions, index = base.positions_rc_px, base.scan_index
    if positions is None or len(positions) == 0:
        raise ContractError(
            "scan = 'base' needs a scan file with 'xcoords' and 'ycoords'; this base file has no positions"
        )
    if len(regions) == 1:
        index = np.zeros(len(positions), dtype=np.int64)
    fits = np.zeros(len(positions), dtype=bool)
    for number, region in enumerate(regions):
        fits |= (index == number) & scans.inside(positions, region, config.n)
    if not fits.all():
        raise ContractError(
            f"{np.count_nonzero(~fits)} of the base file's {len(fits)} frames have a patch of N = {config.n} px that leaves its "
            f"object of {regions[0].shape[0]} x {regions[0].shape[1]} px, the first is frame {int(np.argmin(fits))}"
        )
    return positions, index
