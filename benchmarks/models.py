"""Training and inference of the neural arms on both frameworks, N = 64, 128, 256, gridsize 1 and 2; beside a bare Keras loop.

Each row is a child process (TensorFlow and PyTorch never share one), so its peak memory is its own. The bare loop is the same
network, physics and loss under Keras' own Adam and a `tf.function`, everything in memory. Prints a Markdown table.

    python benchmarks/models.py                    # all rows, several minutes
    python benchmarks/models.py torch 64 1         # one row
"""

import json
import resource
import subprocess
import sys
import time

BATCH = {64: 16, 128: 8, 256: 4}
STEPS = {64: 8, 128: 4, 256: 3}
REPEATS = 3
BACKENDS = {"torch": "pinn_torch", "tensorflow": "pinn"}


def timed(work, items):
    """Return (items per second, items per CPU-second) of the fastest of a few repeats; the first call is not counted."""
    work()
    best = None
    for _ in range(REPEATS):
        clock, cpu = time.perf_counter(), time.process_time()
        work()
        found = time.perf_counter() - clock, time.process_time() - cpu
        best = found if best is None or found[0] < best[0] else best
    return items / best[0], items / best[1]


def bare_keras(backend, batch):
    """Return a function that takes one step the way one would write it by hand in Keras."""
    import keras
    import tensorflow as tf

    model, optimizer = backend.model, keras.optimizers.Adam(1e-3)
    tensors = [tf.constant(part) for part in backend._tensors(batch, training=True)]

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = backend._loss(*tensors)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    return lambda: float(step())


def measure(framework, n, gridsize):
    """Return the rates of one row."""
    import numpy as np

    from ptychoflow.arms.neural import framework as module_of
    from ptychoflow.config import ModelConfig, TrainConfig
    from ptychoflow.data.normalize import measure_normalization
    from ptychoflow.models.forward import padding_px
    from ptychoflow.models.spec import network_spec
    from ptychoflow.physics.probe import ideal_disk

    module, model, members = module_of(framework), ModelConfig(), gridsize**2
    runtime = module.choose_runtime("cpu", "auto")
    spec = network_spec(n, gridsize, model)
    rng = np.random.default_rng(0)
    frames = rng.uniform(0, 1, (BATCH[n], members, n, n)).astype(np.float32)
    offsets = rng.uniform(-8, 8, (BATCH[n], members, 2)).astype(np.float32) * (members > 1)
    probe = ideal_disk(n).astype(np.complex64)
    norm = measure_normalization(frames[:, 0], np.arange(BATCH[n]), probe, photons_per_intensity=1.0)
    backend = module.PhysicsBackend(
        module.build_network(spec, model, runtime, seed=0), runtime, TrainConfig(mae_weight=1, nll_weight=0),
        lambda batch: frames[batch], offsets_of=lambda batch: offsets[batch], probe=probe, normalization=norm,
        pad_px=padding_px(offsets, jitter_px=0),
    )  # fmt: skip
    batch = np.arange(BATCH[n])

    def steps(one):
        return lambda: [one() for _ in range(STEPS[n])]

    train = timed(steps(lambda: backend.train_step(batch, 1e-3)), BATCH[n] * STEPS[n])
    infer = timed(steps(lambda: module.predict_patches(backend.network, frames, runtime)), BATCH[n] * STEPS[n])
    bare = timed(steps(bare_keras(backend, batch)), BATCH[n] * STEPS[n]) if framework == "tensorflow" else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"train": train, "infer": infer, "bare": bare, "peak_gib": peak, "precision": runtime.precision}


def row(framework, n, gridsize):
    """Return one row of the table, measured in a child process."""
    done = subprocess.run(
        [sys.executable, __file__, framework, str(n), str(gridsize), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    train, infer, bare = found["train"], found["infer"], found["bare"]
    return (
        f"| `{BACKENDS[framework]}` | {n} | {gridsize} | {BATCH[n]} | {train[0]:.3g} | {train[1]:.3g} | {infer[0]:.3g} | "
        f"{infer[0] / train[0]:.2f} | {'–' if bare is None else f'{bare[0] / train[0]:.2f}'} | {found['peak_gib']:.2f} |"
    )


def main():
    """Print one row as JSON, or the table of the rows asked for."""
    arguments = [word for word in sys.argv[1:] if word != "--json"]
    if "--json" in sys.argv:
        print(json.dumps(measure(arguments[0], int(arguments[1]), int(arguments[2]))))
        return
    rows = (
        [(arguments[0], int(arguments[1]), int(arguments[2]))]
        if arguments
        else [(name, n, gridsize) for n in BATCH for gridsize in (1, 2) for name in BACKENDS]
    )
    print("| arm | N | gridsize | batch | training, groups/s | groups per CPU-second | inference, groups/s | inference / training "
          "| time of a step against bare Keras | peak memory, GiB |")  # fmt: skip
    print("|" + "---|" * 10)
    for one in rows:
        print(row(*one), flush=True)


if __name__ == "__main__":
    main()
