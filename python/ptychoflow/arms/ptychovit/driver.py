"""Runs in the external environment: checks it and the checkpoint, and predicts. Never imported by ptychoflow, nor imports it.

    PYTHON driver.py check REQUEST.json ANSWER.json       versions, imports, device, placement, checkpoint, state
    PYTHON driver.py state REQUEST.json ANSWER.json       epochs and losses of a training that ended
    PYTHON driver.py predict REQUEST.json ANSWER.json     a patch for every scan point of every pair, and what the loader used

Needs the standard library, torch, numpy, and of the checkout (on PYTHONPATH) `data.PtychographyDataset`, `model.model.PtychoViT`
and `utils.ptychi_utils.place_patches_fourier_shift`. What is wrong is told in the answer as [code, message] of the bridge's
violation table; no answer means that this program itself failed. Source: PtychoViT bridge reference, sections 5, 7 to 9.
"""

import ast
import importlib
import importlib.metadata
import importlib.util
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

SIDE = 256
NAMED = ("torch", "numpy", "h5py", "timm", "PyYAML", "matplotlib", "wandb")
"""Packages whose versions go into the manifest."""
OWN = ("data", "model.model", "utils.ptychi_utils")
"""Modules of the checkout that are imported here."""


def check(request: dict[str, Any]) -> dict[str, Any]:
    """Return what the environment and the checkpoint are, and every reason why the run must not start."""
    answer: dict[str, Any] = {"python": platform.python_version(), "versions": versions(), "problems": []}
    problems: list[list[str]] = answer["problems"]
    modules = {}
    for name in OWN:
        try:
            modules[name] = importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - foreign code may raise anything; what it raised is the answer
            problems.append(["PV-ENV", f"importing {name} of the checkout fails: {type(error).__name__}: {error}"])
    if request["trains"]:
        missing = missing_imports(Path(request["checkout"]))
        if missing:
            problems.append(["PV-ENV", f"the environment lacks {', '.join(missing)}, which the checkout imports"])
    if problems:
        return answer
    import torch

    answer["cuda"] = torch.cuda.is_available()
    answer["device_name"] = torch.cuda.get_device_name(0) if answer["cuda"] else platform.processor() or "cpu"
    if request["device"] == "cuda" and not answer["cuda"]:
        problems.append(["PV-ENV", f"a GPU was asked for and torch {torch.__version__} sees none"])
    check_placement(modules["utils.ptychi_utils"], Path(request["placement"]), Path(request["placed"]), problems)
    model = modules["model.model"].PtychoViT(config=request["model"])
    answer["n_parameters"] = sum(parameter.numel() for parameter in model.parameters())
    for path in request["weights"]:
        check_weights(Path(path), model.state_dict(), problems)
    if request["state"] is not None:
        answer["state"] = state(request, problems)
    return answer


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide results."""
    found = {}
    for name in NAMED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def missing_imports(checkout: Path) -> list[str]:
    """Return the modules that the checkout imports on loading and that are neither its own nor installed; starts none of them."""
    own = {path.stem for path in checkout.glob("*.py")} | {path.name for path in checkout.iterdir() if path.is_dir()}
    asked = set()
    for path in [checkout / "main.py", *checkout.glob("*/*.py"), *checkout.glob("*.py")]:
        if path.parent.name in ("scripts", "tests", "docs") or path.name in ("inference.py", "setup.py"):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                asked |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                asked.add(str(node.module).split(".")[0])
    return sorted(name for name in asked - own - set(sys.stdlib_module_names) if importlib.util.find_spec(name) is None)


def check_placement(utils: Any, given: Path, placed: Path, problems: list[list[str]]) -> None:
    """Place the bridge's test patches with the checkout's own function, for the bridge to compare."""
    import numpy as np
    import torch

    with np.load(given) as arrays:
        patches, centres = (torch.from_numpy(arrays[name]) for name in ("patches", "centres"))
        shape = tuple(int(length) for length in arrays["shape"])
        pad = int(arrays["pad"])
    try:
        image = utils.place_patches_fourier_shift(
            image=torch.zeros(shape), positions=centres, patches=patches, op="add", adjoint_mode=False, pad=pad
        )
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything; what it raised is the answer
        problems.append(["PV-STITCH", f"place_patches_fourier_shift cannot be used: {type(error).__name__}: {error}"])
        return
    if tuple(image.shape) != shape:
        problem = f"place_patches_fourier_shift gives a canvas of {tuple(image.shape)} for one of {shape}"
        problems.append(["PV-COUNT", problem])
        return
    np.save(placed, image.detach().cpu().numpy())


def check_weights(path: Path, expected: Any, problems: list[list[str]]) -> None:
    """Compare a checkpoint's names and shapes with those of the model that its config describes."""
    import torch

    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        found = {name: tuple(value.shape) for name, value in weights.items()}
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything; what it raised is the answer
        problems.append(["PV-CKPT", f"{path.name} cannot be read: {type(error).__name__}: {error}"])
        return
    wanted = {name: tuple(value.shape) for name, value in expected.items()}
    different = [name for name in [*wanted, *found] if wanted.get(name) != found.get(name)]
    if different:
        name = different[0]
        problem = f"{path.name} differs from the config's model, first in '{name}': "
        problem += f"{found.get(name, 'missing')} in the file, {wanted.get(name, 'missing')} in the model"
        problems.append(["PV-CKPTARCH", problem])
        return
    bad = [name for name, value in weights.items() if not bool(torch.isfinite(value).all())]
    if bad:
        problems.append(["PV-CKPT", f"{path.name} holds values that are not finite, first in '{bad[0]}'"])


def state(request: dict[str, Any], problems: list[list[str]]) -> dict[str, Any] | None:
    """Return what the state file holds, None (and why) where it cannot be read."""
    path = Path(request["state"])
    try:
        return read_state(path)
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything; what it raised is the answer
        problems.append(["PV-RESUME", f"{path.name} cannot be read: {type(error).__name__}: {error}"])
        return None


def ended_state(request: dict[str, Any]) -> dict[str, Any]:
    """Return what the state file of a training holds."""
    problems: list[list[str]] = []
    return {"state": state(request, problems), "problems": problems}


def read_state(path: Path) -> dict[str, Any]:
    """Return epochs, losses, learning rates and original devices of a training's state."""
    import torch

    devices = {"cpu"}

    def keep(storage: Any, location: str) -> Any:
        devices.add(str(location))
        return storage

    state = torch.load(path, map_location=keep, weights_only=True)
    tracker = {name: value for name, value in state["loss_tracker"].items() if isinstance(value, list)}
    return {
        "current_epoch": int(state["current_epoch"]),
        "devices": sorted(devices),
        "learning_rates": [float(group["lr"]) for group in state["optimizer_state_dict"]["param_groups"]],
        # JSON has no NaN; the bridge judges losses that are not finite, so they travel as text.
        "losses": {name: [repr(float(value)) for value in values] for name, values in tracker.items()},
    }


def predict(request: dict[str, Any]) -> dict[str, Any]:
    """Predict every pair; amplitude and phase patches go to (n, 256, 256) float32 files, centres to (n, 2) float64 ones."""
    import torch

    dataset_type = importlib.import_module("data").PtychographyDataset
    model = importlib.import_module("model.model").PtychoViT(config=request["model"])
    answer: dict[str, Any] = {"problems": [], "pairs": []}
    check_weights(Path(request["weights"]), model.state_dict(), answer["problems"])
    if answer["problems"]:
        return answer
    device = torch.device(request["device"])
    model.load_state_dict(torch.load(request["weights"], map_location="cpu", weights_only=True), strict=True)
    model.to(device).eval()
    for pair in request["pairs"]:
        dataset = dataset_type(
            pair["dp"],
            scale=request["scale"],
            normalization_dict_path=request["normalization"],
            apply_noise=False,
            cache_object=True,
            max_probe_modes=request["max_probe_modes"],
        )
        started = time.monotonic()
        count = predict_pair(model, dataset, pair, request["batch_size"], device, answer["problems"])
        answer["pairs"].append(
            {
                "name": pair["name"],
                "normalization": float(dataset.normalization),
                "object_shape": [int(length) for length in dataset.object_shape],
                "n_patterns": len(dataset),
                "n_predicted": count,
                "seconds": time.monotonic() - started,
            }
        )
    if device.type == "cuda":
        answer["peak_gpu_bytes"] = int(torch.cuda.max_memory_allocated(device))
    return answer


def predict_pair(
    model: Any, dataset: Any, pair: dict[str, Any], batch_size: int, device: Any, problems: list[list[str]]
) -> int:
    """Write the patches of one pair and return how many there are; stops at the first batch that is not whole."""
    import numpy as np
    import torch

    n = len(dataset)
    amplitudes, phases = (
        np.lib.format.open_memmap(pair[part], mode="w+", dtype=np.float32, shape=(n, SIDE, SIDE))
        for part in ("amplitude", "phase")
    )
    centres = np.zeros((n, 2))
    for first in range(0, n, batch_size):
        items = [dataset[index] for index in range(first, min(first + batch_size, n))]
        pattern, _, _, probe, centre, normalization, scale = zip(*items, strict=True)
        with torch.no_grad():
            _, amplitude, phase = model(
                torch.stack(pattern).to(device, torch.float32),
                torch.view_as_real(torch.stack(probe)).to(device),
                # Python floats would make the predicted pattern float64.
                torch.tensor([float(value) for value in normalization], dtype=torch.float32, device=device),
                torch.tensor([float(value) for value in scale], dtype=torch.float32, device=device),
            )
        expected = (len(items), 1, SIDE, SIDE)
        if tuple(amplitude.shape) != expected or tuple(phase.shape) != expected:
            problem = f"object '{pair['name']}': the model gives {tuple(amplitude.shape)} amplitudes and {tuple(phase.shape)} "
            problems.append(["PV-COUNT", problem + f"phases for the {len(items)} scan points from {first} on"])
            return first + int(amplitude.shape[0])
        rows = slice(first, first + len(items))
        amplitudes[rows], phases[rows] = amplitude[:, 0].cpu().numpy(), phase[:, 0].cpu().numpy()
        centres[rows] = np.array([[float(value) for value in one] for one in centre])
    for stack in (amplitudes, phases):
        stack.flush()
    np.save(pair["centres"], centres)
    return n


def main() -> None:
    """Answer one request; the answer appears whole or not at all."""
    stage, asked, answered = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    answer = {"check": check, "state": ended_state, "predict": predict}[stage](json.loads(asked.read_text()))
    scratch = answered.with_name(f".{answered.name}.new")
    scratch.write_text(json.dumps(answer, indent=1, sort_keys=True, allow_nan=False) + "\n")
    scratch.replace(answered)


if __name__ == "__main__":
    main()
