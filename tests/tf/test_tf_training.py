"""TensorFlow behind the training loop: Adam by hand, two traces, and a resumed run that takes the same steps."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from ptychoflow.config import ModelConfig, TrainConfig
from ptychoflow.data.checkpoints import CheckpointStore
from ptychoflow.data.normalize import measure_normalization
from ptychoflow.errors import TransientError
from ptychoflow.models.forward import padding_px
from ptychoflow.models.spec import network_spec
from ptychoflow.models.tf import backend as tf_backend
from ptychoflow.models.tf.backend import (
    PhysicsBackend,
    SupervisedBackend,
    build_network,
    choose_runtime,
    predict_patches,
    trace_inference,
)
from ptychoflow.models.training import Backend, fit

pytestmark = pytest.mark.tensorflow

CPU = choose_runtime("cpu", "fp32")
OPTIONS = {
    "trainable_probe": True, "trainable_scale": True, "per_channel_probe": True, "probe_mask": True,
    "extraction_jitter_px": 0.7, "exit_wave_sigma_px": 0.6, "n_filters_scale": 1,
}  # fmt: skip


def backend_of(seed: int = 0, *, supervised: bool = False, config: TrainConfig | None = None, **options):
    """A gridsize-2 backend over ten groups of noise."""
    model = ModelConfig(**{"n_filters_scale": 1, **options})
    net = build_network(network_spec(64, 2, model), model, CPU, seed=seed)
    rng = np.random.default_rng(4)
    x, offsets = rng.uniform(0, 1, (10, 4, 64, 64)).astype(np.float32), rng.normal(0, 3, (10, 4, 2)).astype(np.float32)
    axis = np.arange(64) - 32.0
    probe = (np.exp(-(axis[:, None] ** 2 + axis**2) / 300) * np.exp(0.01j * axis)).astype(np.complex64)
    norm = measure_normalization(x[:, 0], np.arange(10), probe, photons_per_intensity=3.0)
    config = config or TrainConfig()
    if supervised:
        labels = np.exp(1j * x).astype(np.complex64)
        return SupervisedBackend(net, CPU, config, lambda b: x[b], label_of=lambda b: labels[b], probe=probe)
    return PhysicsBackend(
        net, CPU, config, lambda b: x[b], offsets_of=lambda b: offsets[b], probe=probe, normalization=norm,
        pad_px=padding_px(offsets, jitter_px=model.extraction_jitter_px), seed=5,
    )  # fmt: skip


def test_both_backends_are_backends():
    assert isinstance(backend_of(), Backend)
    assert isinstance(backend_of(supervised=True), Backend)


def test_probe_and_scale_are_learnt():
    backend, start, batch = backend_of(**OPTIONS), backend_of(**OPTIONS), np.arange(4)
    for _ in range(3):
        backend.train_step(batch, 1e-2)
    assert backend.probe().shape == (4, 64, 64)
    assert np.abs(backend.probe() - start.probe()).max() > 1e-3 * np.abs(start.probe()).max()
    assert np.ptp(np.abs(backend.probe()), axis=0).max() > 0
    assert abs(backend.network.gain().numpy()) > 1e-4
    assert start.loss(batch) == start.loss(batch)


def test_adam_is_the_published_one(monkeypatch):
    """Oracle: Kingma and Ba (2015), algorithm 1, in float64; slopes from 1 down to 1e-9, so that epsilon shows too."""
    backend, rng = backend_of(), np.random.default_rng(0)
    slopes = [
        (10 ** rng.uniform(-9, 0, v.shape) * rng.choice([-1, 1], v.shape)).astype(np.float32)
        for v in backend._variables
    ]
    monkeypatch.setattr(
        backend,
        "_loss",
        lambda *_: tf.add_n([tf.reduce_sum(v * g) for v, g in zip(backend._variables, slopes, strict=True)]),
    )
    index = backend._names.index("encoder_1a/kernel")
    gradient, want = slopes[index].astype(float), backend._variables[index].numpy().astype(float)
    first = second = 0.0
    for step, rate in enumerate((1e-3, 1e-3, 5e-4), start=1):
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        want -= rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        backend.train_step(np.arange(3), rate)
        np.testing.assert_allclose(backend._variables[index].numpy(), want, atol=1e-6)


def test_steps_are_traced_for_whole_batches_and_for_the_last_one_only(tmp_path):
    """Validation: one trace; training: two, however many epochs."""
    config = TrainConfig(epochs=3, batch_size=4, validation_fraction=0.2)
    backend = backend_of(config=config)
    with CheckpointStore(tmp_path, "key") as store:
        fit(backend, 10, config, seed=1, store=store)
    assert backend._compiled_step.experimental_get_tracing_count() <= 2
    assert backend._compiled_loss.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(("supervised", "options"), [(False, {"extraction_jitter_px": 0.7}), (True, {})])
def test_tracing_is_timed_apart_once_for_each_number_of_groups(monkeypatch, supervised, options):
    """Oracle: a clock that only tracing moves on, by 10 s each time; the first step of a size runs what was traced."""
    backend, now = backend_of(supervised=supervised, **options), [0.0]
    traced = {name: getattr(backend, name) for name in ("_step", "_loss")}

    def slow(name):
        def trace(*tensors):
            now[0] += 10
            return traced[name](*tensors)

        return tf.function(trace, autograph=False)

    monkeypatch.setattr(tf_backend, "time", SimpleNamespace(monotonic=lambda: now[0]))
    backend._compiled_step, backend._compiled_loss = slow("_step"), slow("_loss")
    spent = []
    for call, size in (("step", 4), ("step", 4), ("loss", 4), ("step", 3), ("loss", 4), ("loss", 2), ("step", 4)):
        backend.train_step(np.arange(size), 1e-3) if call == "step" else backend.loss(np.arange(size))
        spent.append(backend.compile_seconds)
    assert spent == [10, 10, 20, 30, 30, 40, 40]
    assert now == [40]


def test_inference_is_traced_before_it_runs():
    """Two sizes are compiled; predictions of them compile nothing more."""
    network = build_network(
        network_spec(64, 2, ModelConfig(n_filters_scale=1)), ModelConfig(n_filters_scale=1), CPU, seed=0
    )
    trace_inference(network, [1, 3], CPU)
    assert network.infer.experimental_get_tracing_count() == 2
    for size in (3, 1, 3):
        predict_patches(network, np.ones((size, 4, 64, 64), np.float32), CPU)
    assert network.infer.experimental_get_tracing_count() == 2


@pytest.mark.parametrize(("supervised", "options"), [(False, OPTIONS), (False, {}), (True, {})])
def test_a_stopped_run_goes_on_exactly_where_it_was(tmp_path, supervised, options):
    """Weights, moments, jitter and step sizes go through the checkpoint: losses and weights are equal to the bit."""
    config = TrainConfig(epochs=2, batch_size=4, checkpoint_every_s=0, validation_fraction=0.2)

    def run(folder, seed, stop_after=None):
        backend, steps = backend_of(seed, supervised=supervised, config=config, **options), []
        step = backend.train_step
        backend.train_step = lambda *arguments: steps.append(step(*arguments)) or steps[-1]
        with CheckpointStore(folder, "key") as store:
            outcome = fit(
                backend, 10, config, seed=5, store=store, stop_requested=lambda: len(steps) == (stop_after or -1)
            )
        return backend, steps, outcome.progress.history

    whole, losses, history = run(tmp_path / "a", 0)
    with pytest.raises(TransientError, match="step 3"):
        run(tmp_path / "b", 0, stop_after=3)
    rest, others, again = run(tmp_path / "b", 9)
    assert others == losses[3:]
    assert [row["validation_loss"] for row in again] == [row["validation_loss"] for row in history]
    assert all(np.array_equal(value, rest.state()[name]) for name, value in whole.state().items())


def test_training_lowers_the_loss():
    for supervised in (False, True):
        backend = backend_of(supervised=supervised)
        losses = [backend.train_step(np.arange(4), 3e-4) for _ in range(12)]
        assert losses[-1] < 0.97 * losses[0]
