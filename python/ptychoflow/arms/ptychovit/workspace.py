"""The folder of one external run, and the config.yaml that upstream reads in it.

    out/   stdout.log stderr.log best_model.pth (inference) checkpoints/run1/ (training)
           bridge_work/  config.yaml normalization.pkl driver.py data/train/ data/test/ home/

The config starts from the checkpoint's own (inference, resume, finetune) or from the checkout's (train). What the bridge must know
is overwritten; model, loss and learning rates are copied unchanged. No absolute path that lies outside of the run may be left:
shipped configs name their authors' cluster. Source: PtychoViT bridge reference, sections 6, 9 and 12.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import yaml

from ptychoflow.arms.ptychovit.contract import SIDE, Violation, violation
from ptychoflow.arms.ptychovit.restore import CONFIG, PtychoVitConfig, Restore
from ptychoflow.data.plain_yaml import read_yaml
from ptychoflow.data.storage import atomic_write

RUN_NUMBER = 1
"""Upstream writes into `run<number>` and never counts up; a folder of its own makes it unique."""
RATES = ("encoder_lr", "amp_decoder_lr", "ph_decoder_lr")
"""Learning rates of the parts, which win over `learning_rate`."""
FROM_BASE = {
    "data": ("scale",),
    "training": ("mode", "batch_size", "learning_rate", "epochs", "loss_function"),
}
"""Keys that upstream looks up directly and that only the base config can tell."""


@dataclass(frozen=True)
class Workspace:
    """Paths of one run, all below `out`."""

    out: Path

    @property
    def work(self) -> Path:
        """Working folder of the external programs."""
        return self.out / "bridge_work"

    @property
    def config(self) -> Path:
        """The effective config.yaml."""
        return self.work / CONFIG

    @property
    def dictionary(self) -> Path:
        """The normalization dictionary."""
        return self.work / "normalization.pkl"

    @property
    def driver(self) -> Path:
        """The driver's own copy: it is all that an external program sees of ptychoflow."""
        return self.work / "driver.py"

    @property
    def home(self) -> Path:
        """Caches of the external programs."""
        return self.work / "home"

    @property
    def checkpoints(self) -> Path:
        """What upstream's `paths.model_save_path` names."""
        return self.out / "checkpoints"

    @property
    def run(self) -> Path:
        """Where upstream writes its checkpoints."""
        return self.checkpoints / f"run{RUN_NUMBER}"

    @property
    def stdout(self) -> Path:
        """Standard output of all external programs of the run, in order."""
        return self.out / "stdout.log"

    @property
    def stderr(self) -> Path:
        """Standard error of the same."""
        return self.out / "stderr.log"

    def data(self, part: str) -> Path:
        """Return the folder of the pairs of one part, `train` or `test`: apart, since upstream trains on all that it finds."""
        return self.work / "data" / part


def make_workspace(out: Path) -> Workspace:
    """Make the folders of a run, empty logs and the driver's copy; upstream makes one level of folders only."""
    space = Workspace(out.resolve())
    for folder in (space.home, space.data("train"), space.data("test")):
        folder.mkdir(parents=True, exist_ok=True)
    for log in (space.stdout, space.stderr):
        log.write_bytes(b"")
    shutil.copyfile(Path(__file__).with_name("driver.py"), space.driver)
    return space


def place_pairs(files: Iterable[Path], folder: Path) -> None:
    """Link files into a folder of the run; those that lie there already stay."""
    for file in files:
        if file.parent.resolve() != folder.resolve():
            (folder / file.name).symlink_to(file.resolve())


def seed_run(space: Workspace, source: Path, names: Sequence[str]) -> None:
    """Copy a checkpoint's files into the new run folder, and its config beside the effective one."""
    space.run.mkdir(parents=True)
    for name in names:
        shutil.copyfile(source / name, space.run / name)
    shutil.copyfile(source / CONFIG, space.run / "config.parent.yaml")
    shutil.copyfile(space.config, space.run / CONFIG)


def probe_modes(para_files: Iterable[Path]) -> int:
    """Return the largest number of probe modes in some valid pairs: batches need one number."""
    numbers = []
    for path in para_files:
        with h5py.File(path, "r") as file:
            numbers.append(int(file["probe"].shape[1]))
    return max(numbers)


def read_base(path: Path) -> tuple[dict[str, Any], list[Violation]]:
    """Return a base config, and what makes it unusable; blocks that are missing are empty."""
    try:
        found = read_yaml(path.read_text())
    except (OSError, ValueError) as error:
        return {}, [violation("PV-CFG", f"{path.name} cannot be read: {error}")]
    blocks = ("data", "training", "model", "paths", "trainer", "wandb")
    if not isinstance(found, dict) or any(not isinstance(found.get(name) or {}, dict) for name in blocks):
        return {}, [violation("PV-CFG", f"{path.name} must hold the blocks {', '.join(blocks)} as mappings")]
    base = {**found, **{name: dict(found.get(name) or {}) for name in blocks}}
    missing = [f"{block}.{key}" for block, keys in FROM_BASE.items() for key in keys if base[block].get(key) is None]
    missing += [] if base["model"] else ["model"]
    problems = [violation("PV-CFG", f"{path.name} lacks {', '.join(missing)}")] if missing else []
    return base, problems + _model_problems(base["model"])


def _model_problems(model: Mapping[str, Any]) -> list[Violation]:
    """Return what the bridge cannot run of a model block."""
    found = []
    sizes = {key: next(_values(model, key), None) for key in ("img_size", "patch_size", "num_stages")}
    if sizes["img_size"] not in (None, SIDE):
        found.append(violation("PV-CFG", f"model img_size is {sizes['img_size']}, expected {SIDE}"))
    patch, stages = sizes["patch_size"], sizes["num_stages"]
    if isinstance(patch, int) and isinstance(stages, int) and patch != 2**stages:
        found.append(violation("PV-CFG", f"model patch_size is {patch}, but num_stages = {stages} needs {2**stages}"))
    kind = model.get("encoder_type", "custom")
    download = (model.get("timm_kwargs") or {}).get("pretrained")
    if kind != "custom" and download is not False:
        problem = f"model.encoder_type '{kind}' with timm_kwargs.pretrained {download!r} would download weights"
        found.append(violation("PV-CFG", problem, remedy="set timm_kwargs.pretrained: false"))
    return found


def _values(block: Any, key: str) -> Iterator[Any]:
    """Yield the values of a key anywhere below a block."""
    if isinstance(block, Mapping):
        if key in block:
            yield block[key]
        for value in block.values():
            yield from _values(value, key)


def effective_config(
    base: Mapping[str, Any], space: Workspace, *, config: PtychoVitConfig, restore: Restore, device: str, seed: int,
    max_probe_modes: int, test_dp: str,
) -> tuple[dict[str, Any], list[Violation]]:  # fmt: skip
    """Return the config.yaml of a run and the absolute paths in it that lie elsewhere.

    Args:
        base: a config that `read_base` found complete.
        space: folders of the run.
        config: epochs, batch size and split, where the caller sets them.
        restore: whether upstream resumes.
        device: `cpu` or `cuda`.
        seed: seed of the split and the sampler; the training's noise has none.
        max_probe_modes: modes that every probe is filled up to.
        test_dp: name of the pair that upstream draws its test pictures from.
    """
    data, training = base["data"], base["training"]
    epochs = config.epochs or training["epochs"]
    rate = training["learning_rate"]
    workers = (
        {}
        if device == "cuda"
        else {"num_workers": 0, "prefetch_factor": None, "pin_memory": False, "persistent_workers": False}
    )
    made = {
        **base,
        "data": {
            **data,
            **workers,
            "data_path": str(space.data("train")),
            "test_path": str(space.data("test") / test_dp),
            "normalization_dict_path": str(space.dictionary),
            "test_normalization": str(space.dictionary),
            "max_probe_modes": max_probe_modes,
            "train_split": config.train_split,
            "random_seed": seed,
            "cache_object": True,
            "sharding_strategy": "static",
            "use_cuda_prefetcher": device == "cuda",
        },
        "training": {
            **training,
            **{key: training.get(key, rate) for key in RATES},
            "epochs": epochs,
            "batch_size": config.batch_size or training["batch_size"],
            "validation_plot_freq": epochs + 1,
            "test_plot_freq": epochs + 1,
            "resume_from_checkpoint": restore.resumes,
        },
        "paths": {**base["paths"], "model_save_path": str(space.checkpoints)},
        "trainer": {**base["trainer"], "run_num": RUN_NUMBER},
        "wandb": {**base["wandb"], "enabled": False},
    }
    foreign = [
        violation("PV-CFG", f"config key {key} still names {value}, outside of the run's folder")
        for key, value in _absolute_paths(made)
        if not Path(value).is_relative_to(space.out)
    ]
    return made, foreign


def _absolute_paths(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield key and text of every absolute path in a config."""
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from _absolute_paths(below, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for place, below in enumerate(value):
            yield from _absolute_paths(below, f"{key}[{place}]")
    elif isinstance(value, str) and value.startswith(("/", "~")):
        yield key, value


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write a config.yaml in the order of its keys."""
    with atomic_write(path) as stream:
        stream.write(yaml.safe_dump(dict(config), sort_keys=False).encode())
