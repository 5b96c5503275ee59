"""A contract double of ptycho-vit: a small fake checkout, a git repository of its own, for tests of the bridge.

Written from the project's reference page on ptycho-vit alone (its section 18); it holds no upstream code and imports nothing of
ptychoflow. It needs torch, numpy, h5py, pyyaml and matplotlib, and trains on the CPU in seconds.

    python -m tests.doubles.ptychovit make DIR [--dialect D] [--head H] [--fault F ...]
    python -m tests.doubles.ptychovit faults

`make` prints one line of JSON: commit, tree_sha256 and n_files, which a bridge is to expect. The same switches give the same
commit on every machine: author, date and git's settings are fixed. Switches stand in the double's `double.json`, not in the
environment, which a bridge scrubs; `CONTRACT_DOUBLE` marks the tree as a double.

Dialects: `P` (the pinned family); `P-noprefetch` (no key use_cuda_prefetcher, no prefetcher); `L`, `F` (later families, to be
refused). Heads: `net` (the tiny network), `flat` (constant amplitude and phase), `bump` (a Gaussian at the patch centre, standard
deviation 3 px: 0.04 below 0.975 in amplitude, 1 rad in phase), `saturated` (amplitude within 4e-4 of its upper bound). Faults:
`FAULTS`, told by the command `faults`.

What the double cannot prove: what upstream imports, its memory and time, that real weights load strictly, the pin's constants.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .dialects import EDITS, tree

DIALECTS = tuple(EDITS)
HEADS = ("net", "flat", "bump", "saturated")

FAULTS = {
    "exit0_nothing": ("main.py exits 0 while it imports, and writes nothing", "PV-ARTIFACT"),
    "stale_ckpt": ("main.py exits 0 and leaves the run folder as it was", "PV-ARTIFACT"),
    "no_checkpoint": ("trains, exits 0, and never writes checkpoint_model.pth and checkpoint.state", "PV-ARTIFACT"),
    "crash_mid_epoch": ("raises after the first improvement: only best_model.pth", "PV-EXIT, later PV-RESUME"),
    "rc3": ("trains, writes everything, exit code 3", "PV-EXIT"),
    "stderr_noise": ("harmless lines on stderr, exit 0", "valid"),
    "hang": ("main.py sleeps (an hour) with a child process, whose id it prints", "PV-TIMEOUT"),
    "norm_missing": ("loader takes 100000, says that the dictionary is not there", "PV-NORMFALL"),
    "norm_key": ("loader takes 100000, says that the object is not in the dictionary", "PV-NORMFALL"),
    "norm_corrupt": ("loader takes 100000, says that the dictionary cannot be read", "PV-NORMFALL"),
    "norm_silent": ("loader takes 100000 and says nothing", "PV-NORMFALL by value"),
    "nan_val": ("validation losses are NaN, so no best_model.pth; exit 0", "PV-NAN"),
    "nan_pred": ("the first patch that a driver predicts is NaN", "PV-NAN"),
    "drop_pred": ("a driver gets one patch fewer than it asked for", "PV-COUNT"),
    "wrong_shape": ("place_patches_fourier_shift gives a canvas one column short (for inference)", "PV-COUNT"),
    "no_place": ("place_patches_fourier_shift does not exist (training fails at import)", "PV-STITCH"),
    "place_raises": ("place_patches_fourier_shift raises (training fails at its first test picture)", "PV-STITCH"),
    "arch_drift": ("checkpoints hold encoder.cls_token, which no model has", "PV-CKPTARCH"),
    "gpu_state": ("checkpoint.state says that its tensors live on cuda:0", "PV-RESUME"),
    "import_missing": ("model.model needs timm, which is not there", "PV-ENV"),
    "dirty": ("a tracked file is changed after the commit", "PV-PIN"),
    "other_commit": ("one more commit lies on top of the one that `make` names", "PV-PIN"),
    "file_removed": ("the commit lacks training.py", "PV-REPO"),
}
"""Behaviour of every fault, and the code of the reference page that a bridge should end with."""

GIT_SETTINGS = {
    "GIT_AUTHOR_NAME": "contract double",
    "GIT_AUTHOR_EMAIL": "double@example.invalid",
    "GIT_AUTHOR_DATE": "2001-09-09T01:46:40+00:00",
    "GIT_COMMITTER_NAME": "contract double",
    "GIT_COMMITTER_EMAIL": "double@example.invalid",
    "GIT_COMMITTER_DATE": "2001-09-09T01:46:40+00:00",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}


@dataclass(frozen=True)
class Double:
    """A double on disk, and what a bridge is to expect of it."""

    path: Path
    commit: str
    """Hex id of the commit to expect: HEAD, unless the fault is `other_commit`."""
    tree_sha256: str
    """`digest` of the commit's files."""
    n_files: int


def make_double(dest: Path | str, dialect: str = "P", faults: Sequence[str] = (), head: str = "net") -> Double:
    """Write a double as a git repository into a new or empty folder.

    Args:
        dest: the folder of the checkout.
        dialect: one of `DIALECTS`.
        faults: names of `FAULTS`; several act together.
        head: one of `HEADS`.

    Raises:
        ValueError: an unknown name, or a folder that holds something.
    """
    path = Path(dest)
    for kind, given, known in (("dialect", [dialect], DIALECTS), ("fault", faults, FAULTS), ("head", [head], HEADS)):
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"{kind}: expected of {', '.join(known)}, got {', '.join(unknown)}")
    if path.exists() and any(path.iterdir()):
        raise ValueError(f"{path}: expected a new or empty folder; remove what is there or name another")
    files = tree(dialect)
    if "file_removed" in faults:
        del files[next(name for name in files if Path(name).name == "training.py")]
    switches = {"dialect": dialect, "faults": sorted(faults), "head": head}
    files["double.json"] = json.dumps(switches, indent=1) + "\n"
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(text.encode())
    _git(path, "init", "--quiet", "--template=", "--initial-branch=main")
    double = Double(path, _commit(path, "Contract double"), digest(path, files), len(files))
    if "other_commit" in faults:
        (path / "NEWS").write_text("A commit that nobody verified.\n")
        _commit(path, "One more")
    if "dirty" in faults:
        with (path / "config.yaml").open("a") as stream:
            stream.write("# edited in place\n")
    return double


def digest(root: Path, names: Sequence[str] | dict[str, str]) -> str:
    """Return the source tree digest: SHA-256 over `path NUL sha256 LF` of the named files, in the order of path bytes."""
    total = hashlib.sha256()
    for name in sorted(name.encode() for name in names):
        content = (Path(root) / name.decode()).read_bytes()
        total.update(name + b"\0" + hashlib.sha256(content).hexdigest().encode() + b"\n")
    return total.hexdigest()


def _commit(path: Path, message: str) -> str:
    """Commit everything in a folder and return the commit's id."""
    _git(path, "add", "--all")
    _git(path, "commit", "--quiet", "--no-verify", f"--message={message}")
    return _git(path, "rev-parse", "HEAD").strip()


def _git(path: Path, *arguments: str) -> str:
    # Variables such as GIT_DIR, set where a hook of another repository calls the tests, would lead there.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-c", "core.autocrlf=false", "-c", "core.fileMode=false", *arguments]
    done = subprocess.run(command, cwd=path, env=environment | GIT_SETTINGS, check=True, capture_output=True, text=True)
    return done.stdout
