"""The network and its physics: published parameter counts, twin of the FFT, losses by hand, supported sizes."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from group_cases import GROUPS, PUBLISHED, expected_loss, group_case, merged, odd_spec
from ptychoflow.config import ModelConfig, TrainConfig
from ptychoflow.data.normalize import measure_normalization, network_input
from ptychoflow.errors import ContractError, UnavailableError
from ptychoflow.models.exchange import weight_shapes
from ptychoflow.models.forward import (
    check_labels,
    disc_mask,
    forward_model,
    illumination_weight,
    jitter,
    member_offsets,
    offsets_of_relative,
    padding_px,
    relative_of_offsets,
    smoothing_matrix,
)
from ptychoflow.models.spec import NetworkSpec, network_spec, parameter_count
from ptychoflow.models.torch.backend import (
    PhysicsBackend,
    SupervisedBackend,
    build_network,
    choose_runtime,
    load_weights,
    predict_patches,
    save_weights,
    weights_sha256,
)
from ptychoflow.models.torch.fourier import far_field_amplitude
from ptychoflow.models.torch.losses import (
    LEAST_RATE,
    amplitude_mae,
    physics_loss,
    poisson_deviance,
    supervised_loss,
    total_variation,
)
from ptychoflow.models.torch.network import PatchNet, export_weights, import_weights
from ptychoflow.models.torch.patches import gather, scatter
from ptychoflow.models.torch.physics import Physics
from ptychoflow.physics import fourier
from ptychoflow.physics import patches as numpy_patches
from scan_files import N as SIDE
from scan_files import scan_arrays

CPU = choose_runtime("cpu", "fp32")


def network(n: int = 64, *, seed: int = 0, **options):
    config = ModelConfig(**options)
    return build_network(network_spec(n, 1, config), config, CPU, seed=seed)


@pytest.mark.parametrize(("n", "gridsize", "object_big", "published"), PUBLISHED)
def test_parameter_counts_are_the_published_ones(n, gridsize, object_big, published):
    """Source: totals measured on the reference implementation, physics section 8."""
    config = ModelConfig(object_big=object_big)
    spec = network_spec(n, gridsize, config)
    assert parameter_count(spec) == published
    built = build_network(spec, config, CPU, seed=0)
    assert sum(p.numel() for p in built.parameters() if p.requires_grad) == published


@pytest.mark.parametrize("options", [{"output": "full"}, {"predict_border": False}, {"n_filters_scale": 1}])
def test_parameter_count_agrees_with_the_built_network(options):
    built = network(**options)
    assert sum(p.numel() for p in built.parameters()) == parameter_count(built.spec)


@pytest.mark.parametrize("n", [32, 63, 96, 512])
def test_unsupported_sides_are_refused(n):
    with pytest.raises(ContractError, match="64, 128, 256 px, got"):
        network_spec(n, 1, ModelConfig())


def test_heads_bound_amplitude_and_phase_and_the_border_is_the_border_heads():
    x = np.random.default_rng(0).normal(size=(3, 1, 64, 64)).astype(np.float32)
    full = predict_patches(network(output="full", amplitude_limit=1.5), x, CPU)
    assert full.shape == (3, 1, 64, 64)
    assert np.abs(full).max() <= 1.5
    bare = predict_patches(network(predict_border=False), x, CPU)
    assert np.abs(bare[..., :16, :]).max() == 0
    assert np.abs(bare[..., 16:-16, 16:-16]).min() > 0
    bordered = predict_patches(network(), x, CPU)
    assert np.abs(bordered[..., :16, :]).max() > 0


def test_weights_are_a_function_of_the_seed_and_leave_the_global_state_alone():
    before = torch.get_rng_state()
    assert weights_sha256(network(seed=3)) == weights_sha256(network(seed=3)) != weights_sha256(network(seed=4))
    assert torch.equal(torch.get_rng_state(), before)


def test_stored_weights_predict_alike_in_a_network_of_another_seed(tmp_path):
    """D33: what is saved is what was trained, to the bit."""
    x = np.random.default_rng(1).normal(size=(2, 1, 64, 64)).astype(np.float32)
    trained, fresh = network(seed=3), network(seed=4)
    save_weights(trained, tmp_path / "weights.pt")
    assert not np.array_equal(predict_patches(fresh, x, CPU), predict_patches(trained, x, CPU))
    load_weights(fresh, tmp_path / "weights.pt")
    np.testing.assert_array_equal(predict_patches(fresh, x, CPU), predict_patches(trained, x, CPU))


@pytest.mark.slow
def test_importing_every_module_changes_nothing_global(tmp_path):
    """D8, D33: random generators, default type, determinism, threads and cwd are as before; pty-chi is not imported.

    TensorFlow never shares a process with PyTorch: tests/tf has the same for it.
    """
    script = (
        "import importlib, os, pkgutil, random, sys\n"
        "import numpy as np, torch\n"
        "import ptychoflow\n"
        "def state():\n"
        "    return (np.random.get_state()[1].tobytes(), random.getstate(), torch.get_rng_state().numpy().tobytes(),\n"
        "            torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(), torch.get_num_threads())\n"
        "before = state()\n"
        "names = [found.name for found in pkgutil.walk_packages(ptychoflow.__path__, 'ptychoflow.')]\n"
        "names = [name for name in names if not name.startswith('ptychoflow.models.tf.')]\n"
        "for name in names:\n"
        "    importlib.import_module(name)\n"
        "print(len(names), state() == before, {'ptychi', 'tensorflow'} & set(sys.modules), os.listdir())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "python")}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    n_modules, rest = done.stdout.split(" ", 1)
    assert int(n_modules) > 60
    assert rest == "True set() []\n"


@pytest.mark.parametrize("options", [{}, {"output": "full"}, {"predict_border": False}])
def test_every_parameter_gets_a_gradient(options):
    """D31: no dead branch or gain; a parameter without influence on the patches would stay at its start for ever."""
    net = network(**options)
    net(torch.rand(2, 1, 64, 64)).real.square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


def test_a_negative_amplitude_has_the_right_slope():
    """Swish may give one, at the border or everywhere. Oracle: central differences in the last bias of the amplitude."""
    net = network(output="full", amplitude_activation="swish")
    x, bias = torch.rand(1, 1, 64, 64), net.amplitude.centre_head[-1].bias
    weight = torch.rand(1, 1, 64, 64, dtype=torch.complex64)

    def value(at: float) -> torch.Tensor:
        with torch.no_grad():
            bias.fill_(at)
        return (weight * net(x)).real.double().sum()

    (slope,) = torch.autograd.grad(value(-1.0), bias)
    with torch.no_grad():
        assert slope.item() == pytest.approx((value(-0.99) - value(-1.01)).item() / 0.02, rel=1e-2)


class Oracle(PatchNet):
    """A network that knows the object: it gives the true patches (B, K, N, N), times a factor, whatever comes in."""

    def __init__(self, spec: NetworkSpec, config: ModelConfig, patches: np.ndarray, factor: complex = 1.0) -> None:
        torch.nn.Module.__init__(self)
        self.spec, self.config, self.log_gain = spec, config, None
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.patches = torch.from_numpy((factor * patches).astype(np.complex64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.patches + 0 * self.unused


@pytest.mark.parametrize("photons", [1.0, 7.25])
def test_the_true_patches_have_no_loss_whatever_the_units(photons):
    """D22, D25, D26: probe, alpha, s and object scale cancel. Oracle: frames of plain numpy.fft and sliced patches, odd N.

    `photons` is the number in a unit of amplitude squared: the loss is in sqrt(photons), and a forgotten or doubled scale
    shows. A second data set of another brightness in the same process changes nothing of the first one.
    """
    arrays, half = scan_arrays(), SIDE // 2
    corners = np.stack([arrays["ycoords"], arrays["xcoords"]], axis=1).astype(int) - half
    patches = np.stack([arrays["objectGuess"][r : r + SIDE, c : c + SIDE] for r, c in corners])
    batch, config = np.arange(len(patches)), TrainConfig(mae_weight=1, nll_weight=0)

    def loss(brightness: float, factor: complex = 1.0, **weights: float) -> float:
        amplitude, probe = brightness * arrays["diff3d"], (brightness * arrays["probeGuess"]).astype(np.complex64)
        norm = measure_normalization(amplitude, batch, probe, photons_per_intensity=photons)
        net = Oracle(odd_spec(1, ModelConfig()), ModelConfig(), patches[:, None] / norm.object_scale, factor)
        chosen = TrainConfig(**weights) if weights else config
        inputs = network_input(amplitude, norm)[:, None]
        return PhysicsBackend(net, CPU, chosen, lambda b: inputs[b], probe=probe, normalization=norm).loss(batch)

    mean = float(arrays["diff3d"].mean()) * photons**0.5
    for brightness in (1.0, 0.01, 1.0):
        assert loss(brightness) < 1e-4 * brightness * mean
        assert loss(brightness, factor=1j) < 1e-4 * brightness * mean  # a global phase is free
        # Patches of zero miss all of the measured amplitude, in sqrt(photons); doubled ones miss as much again.
        assert loss(brightness, factor=0) == pytest.approx(brightness * mean, rel=1e-4)
        assert loss(brightness, factor=2) == pytest.approx(brightness * mean, rel=1e-3)
    assert loss(1.0, mae_weight=0, nll_weight=1) < 1e-4


@settings(deadline=None, max_examples=20)
@given(n=st.integers(7, 24), seed=st.integers(0, 99))
def test_far_field_is_the_numpy_one(n, seed):
    """Oracle: physics/fourier.py (itself tested against a matrix DFT and Parseval)."""
    rng = np.random.default_rng(seed)
    wave = (rng.normal(size=(2, n, n)) + 1j * rng.normal(size=(2, n, n))).astype(np.complex64)
    assert np.allclose(
        far_field_amplitude(torch.from_numpy(wave)).numpy(), fourier.far_field_amplitude(wave), atol=1e-5
    )


def test_deviance_is_zero_at_the_data_and_positive_elsewhere():
    """Closed form; oracle away from the data: scipy's Poisson log-likelihood ratio."""
    from scipy.stats import poisson

    counts = torch.tensor(np.random.default_rng(0).poisson(3.0, (2, 1, 5, 5)), dtype=torch.float32)
    rate = torch.full_like(counts, 2.5)
    assert float(poisson_deviance(counts.clamp_min(LEAST_RATE), counts)) == pytest.approx(0, abs=1e-6)
    saturated = poisson.logpmf(counts.numpy(), np.maximum(counts.numpy(), 1e-12)).mean()
    want = saturated - poisson.logpmf(counts.numpy(), 2.5).mean()
    assert float(poisson_deviance(rate, counts)) == pytest.approx(want, rel=1e-4)


def test_dark_prediction_has_finite_loss_and_gradient():
    """D28: lambda = 0."""
    predicted = torch.zeros(1, 1, 4, 4, requires_grad=True)
    loss = poisson_deviance(predicted.square(), torch.full((1, 1, 4, 4), 7.0))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(predicted.grad).all()


def test_loss_of_a_sample_does_not_depend_on_its_batch():
    """D27."""
    rng = np.random.default_rng(2)
    x, y = (torch.tensor(rng.uniform(0.1, 5, (4, 1, 6, 6)), dtype=torch.float32) for _ in range(2))
    patches = torch.tensor(rng.normal(size=(4, 1, 6, 6)) + 1j, dtype=torch.complex64)
    config = TrainConfig(realspace_weight=0.3, mae_weight=1, nll_weight=1)

    def loss(part):
        return float(physics_loss(x[part], y[part], patches[part], config=config, mean_counts=4.0))

    assert np.mean([loss(slice(i, i + 1)) for i in range(4)]) == pytest.approx(loss(slice(None)), rel=1e-5)


def test_total_variation_of_a_step_edge():
    """D30, closed form: a step of 2 along 5 rows is 5 * 2^2."""
    patch = torch.zeros(1, 1, 5, 7, dtype=torch.complex64)
    patch[..., 3:] = 2
    assert float(total_variation(patch)) == 20


def test_supervised_loss_wraps_the_phase():
    labels = torch.polar(torch.ones(1, 1, 3, 3), torch.full((1, 1, 3, 3), np.pi - 0.1))
    patches = torch.polar(torch.full((1, 1, 3, 3), 1.5), torch.full((1, 1, 3, 3), -np.pi + 0.1))
    assert float(supervised_loss(patches, labels, torch.ones(3, 3))) == pytest.approx(0.5 + 0.2, rel=1e-4)


def test_supervised_loss_counts_pixels_by_the_illumination():
    """By hand: the error of 1 in one pixel out of 25 counts by that pixel's share of |P|^2 alone."""
    probe = np.zeros((5, 5), np.complex64)
    probe[0, 1], probe[2, 4] = 3j, 1
    weight = torch.from_numpy(illumination_weight(probe))
    labels = torch.ones(2, 1, 5, 5, dtype=torch.complex64)
    for pixel, expected in (((0, 1), 0.9), ((2, 4), 0.1), ((2, 1), 0.0)):
        patches = labels.clone()
        patches[..., pixel[0], pixel[1]] = 2
        assert float(supervised_loss(patches, labels, weight)) == pytest.approx(expected)


def test_amplitude_mae_by_hand():
    assert float(amplitude_mae(torch.full((1, 1, 2, 3), 3.0), torch.full((1, 1, 2, 3), 1.0))) == 2


def test_no_gpu_is_an_error_not_a_cpu_run(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match="--device cuda"):
        choose_runtime("cuda", "auto")


def complex_noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


@pytest.mark.parametrize("n", [7, 8])
def test_windows_and_canvases_are_the_numpy_ones(n):
    """Oracle: physics/patches.py, itself tested against SciPy; some windows reach over the edge of the canvas."""
    offsets = np.random.default_rng(1).uniform(-6, 6, (3, 4, 2)).astype(np.float32)
    offsets[0, 0] = [2, -3]
    canvas, patches, side = complex_noise((3, n + 10, n + 10), 2), complex_noise((3, 4, n, n), 3), n + 10
    places = 5 + n // 2 + offsets.astype(float)
    cut = gather(torch.from_numpy(canvas), torch.from_numpy(offsets), n).numpy()
    put = scatter(torch.from_numpy(patches), torch.from_numpy(offsets), side).numpy()
    real = scatter(torch.from_numpy(patches.real.copy()), torch.from_numpy(offsets), side).numpy()
    for b in range(3):
        np.testing.assert_allclose(cut[b], numpy_patches.gather(canvas[b], places[b], n), atol=5e-6)
        np.testing.assert_allclose(put[b], numpy_patches.scatter(patches[b], places[b], (side, side)), atol=5e-6)
    np.testing.assert_allclose(real, put.real, atol=5e-6)
    assert np.vdot(cut, patches) == pytest.approx(np.vdot(canvas, put), rel=1e-4)


def group_loss(case, offsets=None, **options):
    """MAE of the true patches of a case."""
    net = Oracle(case.spec, case.config, case.patches)
    config = TrainConfig(mae_weight=1, nll_weight=0)
    chosen = case.offsets if offsets is None else offsets
    backend = PhysicsBackend(
        net, CPU, config, lambda b: case.x[b], offsets_of=lambda b: chosen[b], probe=case.probe,
        normalization=case.normalization, pad_px=case.pad_px, **options,
    )  # fmt: skip
    return backend.loss(np.arange(GROUPS))


@pytest.mark.parametrize("photons", [1.0, 7.25])
def test_the_true_patches_of_groups_have_no_loss_whatever_the_units(photons):
    """D14, D17, T5 through merge and extraction, gridsize 2; members lie whole pixels from a centre between the pixels.

    Oracle: frames of plain numpy.fft. With the members mirrored through the centre, or rows taken for columns, it fails.
    """
    case = group_case(whole_px=True, photons=photons)
    assert group_loss(case) < 1e-4 * case.mean_amplitude
    assert group_loss(case, -case.offsets) > 0.1 * case.mean_amplitude
    assert group_loss(case, np.ascontiguousarray(case.offsets[..., ::-1])) > 0.1 * case.mean_amplitude


def test_the_true_patches_between_pixels_have_the_loss_of_two_interpolations():
    """Oracle: merge and extraction by physics/patches.py in float64. What bilinear interpolation costs is small."""
    case = group_case(whole_px=False)
    expected = expected_loss(case)
    assert group_loss(case) == pytest.approx(expected, rel=1e-3)
    assert expected < 0.03 * case.mean_amplitude
    assert group_loss(case, -case.offsets) > 5 * expected


def test_merged_object_is_the_weighted_mean_and_zero_where_nothing_is_seen():
    """D17: the same weight above and below the line. Oracle: physics/patches.py in float64."""
    case = group_case(whole_px=False, probe_mask=True)
    numbers = forward_model(
        case.spec, case.config, probe=case.probe, normalization=case.normalization, pad_px=case.pad_px
    )
    assert 0 < np.count_nonzero(numbers.weight) < numbers.weight.size
    physics = Physics(numbers)
    patches = np.where(disc_mask(case.spec.n) > 0, case.patches, 1e6).astype(np.complex64)
    canvas = physics.merge(torch.from_numpy(patches), torch.from_numpy(case.offsets)).numpy()
    want = merged(replace(case, probe=case.probe * disc_mask(case.spec.n)))
    np.testing.assert_allclose(canvas, want, atol=1e-5 * np.abs(want).max())
    assert (canvas == 0).any()
    trimmed = physics.trim(torch.from_numpy(canvas)).numpy()
    np.testing.assert_array_equal(trimmed[:, 0], canvas[:, case.pad_px : -case.pad_px, case.pad_px : -case.pad_px])


def test_one_patch_for_the_group_is_padded_with_zeros_and_cut_for_each_member():
    """object_big off. Oracle: physics/patches.py on the patch itself, zero outside."""
    case = group_case(whole_px=False, object_big=False)
    physics = Physics(
        forward_model(case.spec, case.config, probe=case.probe, normalization=case.normalization, pad_px=case.pad_px)
    )
    single = torch.from_numpy(case.patches[:, :1])
    canvas = physics.merge(single, torch.from_numpy(case.offsets))
    np.testing.assert_array_equal(physics.trim(canvas).numpy(), single.numpy())
    windows = physics.extract(canvas, torch.from_numpy(case.offsets)).numpy()
    n = case.spec.n
    for b in range(GROUPS):
        want = numpy_patches.gather(case.patches[b, 0], n // 2 + case.offsets[b].astype(float), n)
        np.testing.assert_allclose(windows[b], want, atol=1e-5)


def test_offsets_are_from_the_mean_of_the_own_group_and_files_hold_them_the_other_way_round():
    """D16, section 2.5: coords_relative = -1 * (member - centre), axis 2 = [x, y]; a member at larger x has a negative one."""
    positions = np.array([[3.0, 10.0], [5.5, 4.0], [100.0, 60.0], [90.0, 80.5]])
    groups = np.array([[0, 1], [3, 2]])
    offsets = member_offsets(positions, groups)
    np.testing.assert_allclose(offsets[0], [[-1.25, 3], [1.25, -3]])
    np.testing.assert_allclose(offsets[1], [[-5, 10.25], [5, -10.25]])
    relative = relative_of_offsets(offsets)
    assert relative.shape == (2, 1, 2, 2)
    np.testing.assert_allclose(relative[0, 0], [[-3, 3], [1.25, -1.25]])
    np.testing.assert_array_equal(offsets_of_relative(relative), offsets)


def test_the_pad_holds_every_window_and_a_member_outside_is_refused():
    """D19."""
    case = group_case(whole_px=False)
    largest = np.abs(case.offsets).max()
    assert largest < case.pad_px <= largest + 1
    assert padding_px(np.zeros((5, 1, 2), np.float32)) == 0
    assert padding_px(np.zeros((5, 1, 2), np.float32), jitter_px=0.5) == 3
    with pytest.raises(ContractError, match="the local canvas has a margin of"):
        group_loss(case, case.offsets * np.float32(1.5))


def test_other_numbers_of_frames_positions_or_labels_are_refused():
    """Workflow specification: mismatched channels raise. D15: nothing is paired by index modulo."""
    case = group_case(whole_px=True)
    with pytest.raises(ContractError, match=r"4 frame.* came with 3 position"):
        group_loss(case, np.ascontiguousarray(case.offsets[:, :3]))
    with pytest.raises(ContractError, match=r"takes 4 frame.*got 3 of 17 x 17"):
        group_loss(replace(case, x=case.x[:, :3]))
    with pytest.raises(ContractError, match=r"4 object patch.*got 1 label"):
        check_labels(case.spec, case.patches[:, :1])
    with pytest.raises(ContractError, match="takes 1 frame"):
        predict_patches(network(), np.zeros((2, 4, 64, 64), np.float32), CPU)


def test_jitter_is_a_function_of_seed_and_step():
    draw = jitter((50, 4, 2), 0.5, seed=1, step=7)
    np.testing.assert_array_equal(draw, jitter((50, 4, 2), 0.5, seed=1, step=7))
    assert 0.4 < draw.std() < 0.6
    assert np.abs(draw).max() <= 2
    assert not np.array_equal(draw, jitter((50, 4, 2), 0.5, seed=1, step=8))
    assert not np.array_equal(draw, jitter((50, 4, 2), 0.5, seed=2, step=7))


def test_smoothing_is_a_gaussian_that_sees_zeros_outside():
    """Oracle: scipy.ndimage.gaussian_filter, constant mode, cut at 4 sigma."""
    from scipy.ndimage import gaussian_filter

    image, blur = np.random.default_rng(0).normal(size=(19, 19)), smoothing_matrix(19, 0.8).astype(float)
    np.testing.assert_allclose(blur @ image @ blur.T, gaussian_filter(image, 0.8, mode="constant"), atol=1e-6)


def test_the_mask_is_the_disc_of_a_quarter():
    """By hand, N = 8: the disc of radius 2 about 3.5 holds 12 pixels."""
    want = np.zeros((8, 8))
    want[2:6, 3:5] = want[3:5, 2:6] = 1
    np.testing.assert_array_equal(disc_mask(8), want)


OPTIONS = {
    "trainable_probe": True, "trainable_scale": True, "per_channel_probe": True, "probe_mask": True,
    "extraction_jitter_px": 0.7, "exit_wave_sigma_px": 0.6, "n_filters_scale": 1,
}  # fmt: skip


def trained_backend(seed: int = 0):
    """A gridsize-2 backend with every option on, over six groups of noise."""
    config = ModelConfig(**OPTIONS)
    net = build_network(network_spec(64, 2, config), config, CPU, seed=seed)
    rng = np.random.default_rng(4)
    x, offsets = rng.uniform(0, 1, (6, 4, 64, 64)).astype(np.float32), rng.normal(0, 3, (6, 4, 2)).astype(np.float32)
    axis = np.arange(64) - 32.0
    probe = (np.exp(-(axis[:, None] ** 2 + axis**2) / 300) * np.exp(0.01j * axis)).astype(np.complex64)
    norm = measure_normalization(x[:, 0], np.arange(6), probe, photons_per_intensity=3.0)
    return PhysicsBackend(
        net, CPU, TrainConfig(), lambda b: x[b], offsets_of=lambda b: offsets[b], probe=probe, normalization=norm,
        pad_px=padding_px(offsets, jitter_px=0.7), seed=5,
    )  # fmt: skip


def test_probe_and_scale_are_learnt_and_a_resumed_run_takes_the_same_steps():
    """Jitter, probe, scale and moments all go through the state: the losses and weights are equal to the bit."""
    whole, batch = trained_backend(), np.arange(4)
    for _ in range(3):
        whole.train_step(batch, 1e-2)
    state = {name: value.copy() for name, value in whole.state().items()}
    fresh = trained_backend(seed=9)
    fresh.load_state(state)
    assert [whole.train_step(batch, 1e-2) for _ in range(3)] == [fresh.train_step(batch, 1e-2) for _ in range(3)]
    assert all(np.array_equal(value, fresh.state()[name]) for name, value in whole.state().items())
    start = trained_backend()
    assert whole.probe().shape == (4, 64, 64)
    assert np.abs(whole.probe() - start.probe()).max() > 1e-3 * np.abs(start.probe()).max()
    assert np.ptp(np.abs(whole.probe()), axis=0).max() > 0  # each member has its own by now
    assert abs(whole.network.log_gain.item()) > 1e-3
    assert start.loss(batch) == start.loss(batch)  # no jitter without training


def test_weights_travel_by_name_and_foreign_ones_are_refused():
    source, target = network(seed=1, trainable_scale=True), network(seed=2, trainable_scale=True)
    with torch.no_grad():
        source.log_gain.fill_(0.25)
        source.encoder[0].bias.uniform_()
    arrays = export_weights(source)
    shapes = weight_shapes(source.spec, trainable_scale=True)
    assert {name: value.shape for name, value in arrays.items()} == shapes
    import_weights(target, arrays)
    assert weights_sha256(source) == weights_sha256(target)
    with pytest.raises(ContractError, match="log_gain is not part of this network"):
        import_weights(network(), arrays)
    del arrays["phase_2a.kernel"]
    arrays["encoder_1a.kernel"] = arrays["encoder_1a.kernel"].transpose(3, 2, 0, 1)
    with pytest.raises(ContractError, match=r"(?s)phase_2a.kernel is missing.*shape \(64, 1, 3, 3\), expected"):
        import_weights(target, arrays)


def test_labels_of_groups_are_compared_member_by_member():
    """D13, D23: one label for each member; swapping two members of the labels shows."""
    case = group_case(whole_px=False)
    net = Oracle(case.spec, case.config, case.patches)
    for labels, expected in ((case.patches, 0), (case.patches[:, ::-1].copy(), None)):
        backend = SupervisedBackend(
            net, CPU, TrainConfig(), lambda b: case.x[b], label_of=lambda b, y=labels: y[b], probe=case.probe
        )
        loss = backend.loss(np.arange(GROUPS))
        assert loss == pytest.approx(expected, abs=1e-5) if expected is not None else loss > 0.05
