"""The network and its physics: published parameter counts, twin of the FFT, losses by hand, supported sizes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptychoflow.config import ModelConfig, TrainConfig
from ptychoflow.data.normalize import measure_normalization, network_input
from ptychoflow.errors import ContractError, UnavailableError
from ptychoflow.models.spec import network_spec, parameter_count
from ptychoflow.models.torch.backend import (
    PhysicsBackend,
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
from ptychoflow.models.torch.network import PatchNet
from ptychoflow.physics import fourier
from scan_files import N as SIDE
from scan_files import scan_arrays

CPU = choose_runtime("cpu", "fp32")


def network(n: int = 64, *, seed: int = 0, **options):
    config = ModelConfig(**options)
    return build_network(network_spec(n, 1, config), config, CPU, seed=seed)


@pytest.mark.parametrize(
    ("n", "gridsize", "published"), [(64, 1, 2_331_772), (64, 2, 2_333_500), (128, 1, 4_661_212), (256, 1, 12_912_268)]
)
def test_parameter_counts_are_the_published_ones(n, gridsize, published):
    """Source: totals measured on the reference implementation, physics section 8 (gridsize 2: one object patch out)."""
    spec = network_spec(n, gridsize, ModelConfig())
    assert parameter_count(spec) == published
    built = build_network(spec, ModelConfig(), CPU, seed=0)
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
    """D8, D33: random generators, default type, determinism, threads and cwd are as before; pty-chi is not imported."""
    script = (
        "import importlib, os, pkgutil, random, sys\n"
        "import numpy as np, torch\n"
        "import ptychoflow\n"
        "def state():\n"
        "    return (np.random.get_state()[1].tobytes(), random.getstate(), torch.get_rng_state().numpy().tobytes(),\n"
        "            torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(), torch.get_num_threads())\n"
        "before = state()\n"
        "names = [found.name for found in pkgutil.walk_packages(ptychoflow.__path__, 'ptychoflow.')]\n"
        "for name in names:\n"
        "    importlib.import_module(name)\n"
        "print(len(names), state() == before, 'ptychi' in sys.modules, os.listdir())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "python")}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    n_modules, rest = done.stdout.split(" ", 1)
    assert int(n_modules) > 60
    assert rest == "True False []\n"


@pytest.mark.parametrize("options", [{}, {"output": "full"}, {"predict_border": False}])
def test_every_parameter_gets_a_gradient(options):
    """D31: no dead branch or gain; a parameter without influence on the patches would stay at its start for ever."""
    net = network(**options)
    net(torch.rand(2, 1, 64, 64)).real.square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


class Oracle(PatchNet):
    """A network that knows the object: it gives the true patches, times a factor, whatever comes in."""

    def __init__(self, patches: np.ndarray, factor: complex = 1.0) -> None:
        torch.nn.Module.__init__(self)
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.patches = torch.from_numpy((factor * patches).astype(np.complex64))[:, None]

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
        net = Oracle(patches / norm.object_scale, factor)
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
    assert float(supervised_loss(patches, labels)) == pytest.approx(0.5 + 0.2, rel=1e-4)


def test_amplitude_mae_by_hand():
    assert float(amplitude_mae(torch.full((1, 1, 2, 3), 3.0), torch.full((1, 1, 2, 3), 1.0))) == 2


def test_no_gpu_is_an_error_not_a_cpu_run(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match="--device cuda"):
        choose_runtime("cuda", "auto")
