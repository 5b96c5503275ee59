"""The TensorFlow twin: published counts, twins of FFT and patches, the specified models, losses, weights, runtime."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from group_cases import GROUPS, PUBLISHED, N, expected_loss, group_case, merged
from ptychoflow.config import ModelConfig, TrainConfig
from ptychoflow.errors import ContractError, UnavailableError
from ptychoflow.models.exchange import weight_shapes
from ptychoflow.models.forward import disc_mask, forward_model, illumination_weight
from ptychoflow.models.spec import network_spec, parameter_count
from ptychoflow.models.tf.backend import (
    PhysicsBackend,
    SupervisedBackend,
    build_network,
    choose_runtime,
    load_weights,
    predict_patches,
    save_weights,
    weights_of,
    weights_sha256,
    write_weights,
)
from ptychoflow.models.tf.fourier import far_field_amplitude
from ptychoflow.models.tf.losses import (
    LEAST_RATE,
    amplitude_mae,
    physics_loss,
    poisson_deviance,
    supervised_loss,
    total_variation,
)
from ptychoflow.models.tf.network import Autoencoder, DiffractionToObject, PatchNet, export_weights, import_weights
from ptychoflow.models.tf.patches import gather, scatter
from ptychoflow.models.tf.physics import Physics
from ptychoflow.physics import fourier
from ptychoflow.physics import patches as numpy_patches

pytestmark = pytest.mark.tensorflow

CPU = choose_runtime("cpu", "fp32")


def network(n: int = 64, gridsize: int = 1, *, seed: int = 0, **options) -> PatchNet:
    config = ModelConfig(**options)
    return build_network(network_spec(n, gridsize, config), config, CPU, seed=seed)


def complex_noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


@pytest.mark.parametrize(("n", "gridsize", "object_big", "published"), PUBLISHED)
def test_parameter_counts_are_the_published_ones(n, gridsize, object_big, published):
    """Source: totals measured on the reference implementation, physics section 8."""
    assert network(n, gridsize, object_big=object_big).count_params() == published


@pytest.mark.parametrize("options", [{"output": "full"}, {"predict_border": False}, {"n_filters_scale": 1}])
def test_parameter_count_agrees_with_the_built_network(options):
    built = network(**options)
    assert built.count_params() == parameter_count(built.spec)


def test_heads_bound_amplitude_and_phase_and_the_border_is_the_border_heads():
    x = np.random.default_rng(0).normal(size=(3, 1, 64, 64)).astype(np.float32)
    full = predict_patches(network(output="full", amplitude_limit=1.5), x, CPU)
    assert full.shape == (3, 1, 64, 64)
    assert np.abs(full).max() <= 1.5 * (1 + 1e-6)
    bare = predict_patches(network(predict_border=False), x, CPU)
    assert np.abs(bare[..., :16, :]).max() == 0
    assert np.abs(bare[..., 16:-16, 16:-16]).min() > 0
    assert np.abs(predict_patches(network(), x, CPU)[..., :16, :]).max() > 0


def test_weights_are_a_function_of_the_seed():
    assert weights_sha256(network(seed=3)) == weights_sha256(network(seed=3)) != weights_sha256(network(seed=4))


def test_stored_weights_predict_alike_in_a_network_of_another_seed(tmp_path):
    """D33: what is saved is what was trained, to the bit; by the network or, for snapshots, without one."""
    x = np.random.default_rng(1).normal(size=(2, 4, 64, 64)).astype(np.float32)
    trained, fresh, again = (network(64, 2, seed=seed, trainable_scale=True) for seed in (3, 4, 5))
    trained.log_gain.assign(0.25)
    save_weights(trained, tmp_path / "weights.weights.h5")
    write_weights(weights_of(trained), tmp_path / "epoch_00001.weights.h5")
    want = predict_patches(trained, x, CPU)
    assert not np.array_equal(predict_patches(fresh, x, CPU), want)
    load_weights(fresh, tmp_path / "weights.weights.h5")
    np.testing.assert_array_equal(predict_patches(fresh, x, CPU), want)
    load_weights(again, tmp_path / "epoch_00001.weights.h5")
    assert weights_sha256(again) == weights_sha256(trained)


def test_weights_travel_by_name_and_foreign_ones_are_refused():
    source, target = network(seed=1), network(seed=2)
    arrays = export_weights(source)
    assert {name: value.shape for name, value in arrays.items()} == weight_shapes(source.spec, trainable_scale=False)
    import_weights(target, arrays)
    assert weights_sha256(source) == weights_sha256(target)
    arrays["log_gain"] = np.zeros(())
    with pytest.raises(ContractError, match="log_gain is not part of this network"):
        import_weights(target, arrays)


def test_doubling_repeats_each_pixel():
    """Oracle: numpy.repeat; non-square."""
    from ptychoflow.models.tf.network import _double

    x = np.random.default_rng(0).normal(size=(2, 3, 5, 7)).astype(np.float32)
    np.testing.assert_array_equal(_double(tf.constant(x)).numpy(), x.repeat(2, axis=1).repeat(2, axis=2))


@pytest.mark.parametrize("n", [7, 24])
def test_far_field_is_the_numpy_one(n):
    """Oracle: physics/fourier.py (itself tested against a matrix DFT and Parseval)."""
    wave = complex_noise((2, 3, n, n), n)
    np.testing.assert_allclose(
        far_field_amplitude(tf.constant(wave)).numpy(), fourier.far_field_amplitude(wave), atol=1e-5
    )


@pytest.mark.parametrize("n", [7, 8])
def test_windows_and_canvases_are_the_numpy_ones(n):
    """Oracle: physics/patches.py, itself tested against SciPy; some windows reach over the edge of the canvas."""
    offsets = np.random.default_rng(1).uniform(-6, 6, (3, 4, 2)).astype(np.float32)
    offsets[0, 0] = [2, -3]
    side = n + 10
    canvas, patches = complex_noise((3, side, side), 2), complex_noise((3, 4, n, n), 3)
    places = 5 + n // 2 + offsets.astype(float)
    cut = gather(tf.constant(canvas), tf.constant(offsets), n).numpy()
    put = scatter(tf.constant(patches), tf.constant(offsets), side).numpy()
    real = scatter(tf.constant(patches.real), tf.constant(offsets), side).numpy()
    for b in range(3):
        np.testing.assert_allclose(cut[b], numpy_patches.gather(canvas[b], places[b], n), atol=5e-6)
        np.testing.assert_allclose(put[b], numpy_patches.scatter(patches[b], places[b], (side, side)), atol=5e-6)
    np.testing.assert_allclose(real, put.real, atol=5e-6)
    assert np.vdot(cut, patches) == pytest.approx(np.vdot(canvas, put), rel=1e-4)


class Oracle(PatchNet):
    """A network that knows the object: it gives the true patches (B, K, N, N), whatever comes in."""

    def __init__(self, case) -> None:
        keras.Model.__init__(self)
        self.spec, self.config = case.spec, case.config
        self.unused = self.add_weight(shape=(), initializer="zeros")
        self.truth = case.patches.transpose(0, 2, 3, 1)

    def call(self, x):
        return self.truth + tf.cast(0 * self.unused, tf.complex64)


def physics_backend(case, net, offsets=None):
    chosen = case.offsets if offsets is None else offsets
    return PhysicsBackend(
        net, CPU, TrainConfig(mae_weight=1, nll_weight=0), lambda b: case.x[b], offsets_of=lambda b: chosen[b],
        probe=case.probe, normalization=case.normalization, pad_px=case.pad_px,
    )  # fmt: skip


def group_loss(case, offsets=None):
    return physics_backend(case, Oracle(case), offsets).loss(np.arange(GROUPS))


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
    patches = np.where(disc_mask(N) > 0, case.patches, 1e6).astype(np.complex64)
    canvas = Physics(numbers).merge(tf.constant(patches), tf.constant(case.offsets)).numpy()
    want = merged(replace(case, probe=case.probe * disc_mask(N)))
    np.testing.assert_allclose(canvas, want, atol=1e-5 * np.abs(want).max())
    assert (canvas == 0).any()


def test_the_specified_models_take_two_inputs_and_give_three_outputs():
    """Workflow specification, steps 5 and 7: [s X, positions] -> [object, amplitude, intensity]; inference shares the layers."""
    case = replace(group_case(whole_px=False), spec=network_spec(64, 2, ModelConfig()))
    rng = np.random.default_rng(0)
    x, probe = rng.uniform(0, 2, (3, 64, 64, 4)).astype(np.float32), complex_noise((64, 64), 1)
    net, norm = network(64, 2), case.normalization
    numbers = forward_model(case.spec, case.config, probe=probe, normalization=norm, pad_px=case.pad_px)
    model = Autoencoder(net, Physics(numbers), intensity_scale=norm.intensity_scale)
    positions = np.ascontiguousarray(case.offsets[:3].transpose(0, 2, 1)[:, None])
    inputs = [norm.intensity_scale * x, positions]
    object_, amplitude, intensity = model(inputs)
    assert [tuple(out.shape) for out in (object_, amplitude, intensity)] == [(3, 64, 64, 1)] + 2 * [(3, 64, 64, 4)]
    assert [out.dtype for out in (object_, amplitude, intensity)] == [tf.complex64, tf.float32, tf.float32]
    assert float(tf.reduce_min(intensity)) >= LEAST_RATE
    np.testing.assert_allclose(intensity, amplitude.numpy() ** 2, rtol=1e-5, atol=LEAST_RATE)
    inference = DiffractionToObject(model)
    np.testing.assert_array_equal(inference(inputs).numpy(), object_.numpy())
    assert {id(v) for v in inference.trainable_variables} == {id(v) for v in net.trainable_variables}
    patches = predict_patches(net, np.ascontiguousarray(x.transpose(0, 3, 1, 2)), CPU)
    canvas = Physics(numbers).merge(tf.constant(patches), tf.constant(case.offsets[:3])).numpy()
    pad = case.pad_px
    np.testing.assert_allclose(object_[..., 0], canvas[:, pad:-pad, pad:-pad], atol=1e-5)
    with pytest.raises(ContractError, match=r"positions \(B, 1, 2, 4\), got .* \(B, 1, 2, 3\)"):
        model([inputs[0], positions[..., :3]])
    with pytest.raises(ContractError, match=r"takes diffraction \(B, 64, 64, 4\)"):
        inference([inputs[0][..., :2], positions])


def test_other_numbers_of_frames_positions_or_labels_are_refused():
    case = group_case(whole_px=True)
    with pytest.raises(ContractError, match=r"4 frame.* came with 3 position"):
        group_loss(case, np.ascontiguousarray(case.offsets[:, :3]))
    with pytest.raises(ContractError, match=r"takes 4 frame.*got 3 of 17 x 17"):
        group_loss(replace(case, x=case.x[:, :3]))
    with pytest.raises(ContractError, match="the local canvas has a margin of"):
        group_loss(case, case.offsets * np.float32(1.5))
    backend = SupervisedBackend(
        Oracle(case), CPU, TrainConfig(), lambda b: case.x[b], label_of=lambda b: case.patches[b, :1], probe=case.probe
    )
    with pytest.raises(ContractError, match=r"4 object patch.*got 1 label"):
        backend.loss(np.arange(GROUPS))


def test_labels_of_groups_are_compared_member_by_member():
    """D13, D23: one label for each member; swapping two members of the labels shows."""
    case = group_case(whole_px=False)
    for labels, least, most in ((case.patches, 0, 1e-5), (case.patches[:, ::-1].copy(), 0.05, 9)):
        backend = SupervisedBackend(
            Oracle(case), CPU, TrainConfig(), lambda b: case.x[b], label_of=lambda b, y=labels: y[b], probe=case.probe
        )
        assert least <= backend.loss(np.arange(GROUPS)) <= most


def test_deviance_is_zero_at_the_data_and_positive_elsewhere():
    """Closed form; oracle away from the data: scipy's Poisson log-likelihood ratio."""
    from scipy.stats import poisson

    counts = np.random.default_rng(0).poisson(3.0, (2, 5, 7, 1)).astype(np.float32)
    rate = np.full_like(counts, 2.5)
    assert float(poisson_deviance(tf.maximum(counts, LEAST_RATE), tf.constant(counts))) == pytest.approx(0, abs=1e-6)
    want = (poisson.logpmf(counts, np.maximum(counts, 1e-12)) - poisson.logpmf(counts, 2.5)).mean()
    assert float(poisson_deviance(tf.constant(rate), tf.constant(counts))) == pytest.approx(want, rel=1e-4)


def test_dark_prediction_has_finite_loss_and_gradient():
    """D28: lambda = 0."""
    predicted = tf.zeros((1, 4, 4, 1))
    with tf.GradientTape() as tape:
        tape.watch(predicted)
        loss = poisson_deviance(tf.square(predicted), tf.fill((1, 4, 4, 1), 7.0))
    assert np.isfinite(loss.numpy())
    assert np.isfinite(tape.gradient(loss, predicted).numpy()).all()


def test_loss_of_a_sample_does_not_depend_on_its_batch():
    """D27."""
    rng = np.random.default_rng(2)
    x, y = (rng.uniform(0.1, 5, (4, 6, 7, 1)).astype(np.float32) for _ in range(2))
    patches = (rng.normal(size=(4, 6, 7, 1)) + 1j).astype(np.complex64)
    config = TrainConfig(realspace_weight=0.3, mae_weight=1, nll_weight=1)

    def loss(part):
        arrays = (tf.constant(array[part]) for array in (x, y, patches))
        return float(physics_loss(*arrays, config=config, mean_counts=4.0))

    assert np.mean([loss(slice(i, i + 1)) for i in range(4)]) == pytest.approx(loss(slice(None)), rel=1e-5)


def test_total_variation_of_a_step_edge():
    """D30, closed form: a step of 2 along 5 rows is 5 * 2^2."""
    patch = np.zeros((1, 5, 7, 1), np.complex64)
    patch[:, :, 3:] = 2
    assert float(total_variation(tf.constant(patch))) == 20


def test_supervised_loss_wraps_the_phase():
    labels = np.full((1, 3, 5, 1), np.exp(1j * (np.pi - 0.1)), np.complex64)
    patches = np.full((1, 3, 5, 1), 1.5 * np.exp(1j * (0.1 - np.pi)), np.complex64)
    assert float(supervised_loss(tf.constant(patches), tf.constant(labels), tf.ones((3, 5)))) == pytest.approx(
        0.7, rel=1e-4
    )


def test_supervised_loss_counts_pixels_by_the_illumination():
    """By hand: the error of 1 in one pixel out of 25 counts by that pixel's share of |P|^2 alone."""
    probe = np.zeros((5, 5), np.complex64)
    probe[0, 1], probe[2, 4] = 3j, 1
    weight = tf.constant(illumination_weight(probe))
    labels = np.ones((2, 5, 5, 1), np.complex64)
    for pixel, expected in (((0, 1), 0.9), ((2, 4), 0.1), ((2, 1), 0.0)):
        patches = labels.copy()
        patches[:, pixel[0], pixel[1]] = 2
        assert float(supervised_loss(tf.constant(patches), tf.constant(labels), weight)) == pytest.approx(expected)


def test_amplitude_mae_by_hand():
    assert float(amplitude_mae(tf.fill((1, 2, 3, 1), 3.0), tf.fill((1, 2, 3, 1), 1.0))) == 2


def test_no_gpu_is_an_error_not_a_cpu_run(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _kind: [])
    with pytest.raises(UnavailableError, match="--device cuda"):
        choose_runtime("cuda", "auto")
    with pytest.raises(UnavailableError, match="float32 only"):
        choose_runtime("cpu", "bf16")


def test_importing_the_twin_changes_nothing_global(tmp_path):
    """D8, D33: random generators, determinism, threads and cwd are as before; PyTorch stays out."""
    script = (
        "import importlib, os, pkgutil, random, sys\n"
        "import numpy as np, tensorflow as tf\n"
        "import ptychoflow.models.tf as twin\n"
        "def state():\n"
        "    return (np.random.get_state()[1].tobytes(), random.getstate(),\n"
        "            tf.config.experimental.is_op_determinism_enabled() if hasattr(tf.config.experimental, "
        "'is_op_determinism_enabled') else None, tf.config.threading.get_intra_op_parallelism_threads())\n"
        "before = state()\n"
        "names = [found.name for found in pkgutil.walk_packages(twin.__path__, 'ptychoflow.models.tf.')]\n"
        "for name in names:\n"
        "    importlib.import_module(name)\n"
        "print(len(names), state() == before, 'torch' in sys.modules, os.listdir())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "python")}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "6 True False []\n"
