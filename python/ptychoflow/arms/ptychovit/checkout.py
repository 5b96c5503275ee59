"""Which external code a run may use: the way it is supplied, what the tree is, and why another one is refused.

Exactly one way, without defaults: a checkout with the interpreter of its environment, or an image that holds both at fixed places.
Nothing is cloned, installed or imported here. A tree with git metadata must be the pinned commit, unchanged. Without, its digest
must equal both the record inside and a value given from outside, since a record alone proves nothing about its origin.
Source: PtychoViT bridge reference, section 2; its family markers, section 19.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ptychoflow.arms.ptychovit.contract import PIN, Violation, entry_sha256, tree_digest, tree_files, violation
from ptychoflow.errors import UsageError

IMAGE_TREE = Path("/opt/ptycho-vit")
"""Where an image holds the tree."""
IMAGE_PYTHON = Path("/opt/ptycho-vit-env/bin/python")
"""Interpreter of the external environment in an image."""
DOUBLE_MARKER = "CONTRACT_DOUBLE"
"""File that marks a contract double (section 18)."""
WATCHED = (".py", ".yaml", ".yml")
"""Untracked files of these kinds could change what runs."""
GIT_LIMIT_S = 120.0
"""A git command that takes longer hangs."""


@dataclass(frozen=True)
class Way:
    """How the external code is supplied.

    Attributes:
        root: absolute path of the tree.
        python: absolute path of the interpreter; never resolved, since an environment is found by its link.
        image: name of the image that this process runs in, else None.
    """

    root: Path
    python: Path
    image: str | None


@dataclass(frozen=True)
class Checkout:
    """A tree that may be run.

    Attributes:
        way: how it was supplied.
        kind: `real`, or `double` for the contract double of the tests.
        commit: git commit that it was found to be, or that its record states.
        tree_sha256: digest of its files.
        n_files: number of files in the digest.
        evidence: `git`, or `digest` for a tree without git metadata.
        dialect: family of the source; `P` is the only one that is run.
    """

    way: Way
    kind: Literal["real", "double"]
    commit: str
    tree_sha256: str
    n_files: int
    evidence: Literal["git", "digest"]
    dialect: str = "P"

    @property
    def pin_verified(self) -> bool:
        """Whether this is the pinned source itself; never true of a double."""
        return self.kind == "real" and self.commit == PIN.commit


def choose_way(repo: str | None, python: str | None, image: str | None) -> Way:
    """Return how the external code is supplied.

    Args:
        repo: `--ptychovit_repo`, an absolute path.
        python: `--ptychovit_python`, the absolute path of the interpreter that goes with it.
        image: `--ptychovit_image`, the name of the image that this process runs in.

    Raises:
        UsageError: neither way, both, half of one, or a path that is not absolute.
    """
    given = [name for name, value in (("repo", repo), ("python", python), ("image", image)) if value]
    if given == ["image"]:
        return Way(IMAGE_TREE, IMAGE_PYTHON, image)
    if given != ["repo", "python"] or repo is None or python is None:
        got = ", ".join(f"--ptychovit_{name}" for name in given) or "none of them"
        raise UsageError(
            "the external checkout is supplied in exactly one way: --ptychovit_repo with --ptychovit_python (a checkout and the "
            f"interpreter of its environment), or --ptychovit_image; got {got}"
        )
    for name, value in (("repo", repo), ("python", python)):
        if "://" in value or not Path(value).is_absolute():
            raise UsageError(
                f"PV-REPO: --ptychovit_{name} must be an absolute path on this machine, got '{value}'; "
                "nothing is cloned or downloaded"
            )
    return Way(Path(repo), Path(python), None)


def examine(
    way: Way, *, out_dir: Path, search_path: Sequence[str], digest: str | None, allow_double: str | None
) -> tuple[Checkout | None, list[Violation]]:
    """Return the tree if it may be run, and everything that was found about it.

    Args:
        way: how it is supplied.
        out_dir: output folder of the run; neither may lie in the other.
        search_path: import path of this process, on which the tree must not be.
        digest: tree digest given from outside; required without git metadata.
        allow_double: digest of the one contract double that is admitted; None admits none.
    """
    found = _place_problems(way, out_dir, search_path)
    if found:
        return None, found
    found = _layout_problems(way.root) + _missing_files(way.root)
    is_double = (way.root / DOUBLE_MARKER).exists()
    outside = digest
    if is_double and allow_double is None:
        what = f"{way.root.name} is a contract double ({DOUBLE_MARKER}); only tests admit one, by --allow_double with its digest"
        found.append(violation("PV-REPO", what))
    elif is_double:
        outside = allow_double
    elif allow_double is not None:
        found.append(violation("PV-REPO", f"--allow_double was given, but {way.root.name} has no {DOUBLE_MARKER}"))
    if any(one.kind == "E" for one in found):
        return None, found
    with_git = (way.root / ".git").exists()
    commit, files, more = _by_git(way.root) if with_git else _by_record(way.root)
    found += more
    total = tree_digest(files)
    if not with_git and outside is None:
        problem = f"the tree has no git metadata and no digest was given from outside; found tree_sha256 {total}"
        found.append(violation("PV-PIN", problem, remedy="give the digest of the image build by --tree_digest"))
    elif outside is not None and total != outside:
        found.append(violation("PV-PIN", f"tree_sha256 must be {outside}, found {total} of {len(files)} files"))
    if commit != PIN.commit and not is_double:
        found.append(violation("PV-PIN", f"the commit must be {PIN.commit}, found {commit or 'none'}"))
    if any(one.kind == "E" for one in found):
        return None, found
    evidence: Literal["git", "digest"] = "git" if with_git else "digest"
    return Checkout(way, "double" if is_double else "real", str(commit), total, len(files), evidence), found


def _place_problems(way: Way, out_dir: Path, search_path: Sequence[str]) -> list[Violation]:
    """Return why the paths themselves cannot be used."""
    if not way.root.is_dir():
        where = f"image {way.image} holds no tree at {way.root}" if way.image else f"{way.root} is no folder"
        return [violation("PV-REPO", where)]
    found = []
    root, out = way.root.resolve(), out_dir.resolve()
    if root == out or root in out.parents or out in root.parents:
        found.append(
            violation("PV-REPO", f"checkout {root} and output folder {out} lie in each other; keep them apart")
        )
    if any(part and Path(part).resolve() == root for part in search_path):
        problem = f"{root} is on the import path of ptychoflow itself; take it off PYTHONPATH"
        found.append(violation("PV-REPO", problem))
    if not (way.python.is_file() and os.access(way.python, os.X_OK)):
        found.append(violation("PV-ENV", f"interpreter {way.python} is no program that can be run"))
    return found


def _layout_problems(root: Path) -> list[Violation]:
    """Return the marks of a later family, which the bridge does not know."""
    foreign = [name for name in PIN.foreign if (root / name).is_dir()]
    main = root / "main.py"
    if main.is_file() and PIN.foreign_option in main.read_text(errors="replace"):
        foreign.append(f"option {PIN.foreign_option} in main.py")
    if not foreign:
        return []
    return [violation("PV-REPO", f"{root.name} is of a later family, found {', '.join(foreign)}")]


def _missing_files(root: Path) -> list[Violation]:
    """Return the required and (as a warning) the expected files that are not there."""
    found = []
    for names, kind in ((PIN.required, "E"), (PIN.expected, "W")):
        missing = [name for name in names if not (root / name).is_file()]
        if missing:
            there = [name for name in names if name not in missing]
            problem = (
                f"{root.name} lacks {', '.join(missing)}; found {', '.join(there) or 'none of the expected files'}"
            )
            found.append(violation("PV-REPO", problem, kind="E" if kind == "E" else "W"))
    return found


def _by_git(root: Path) -> tuple[str | None, dict[str, str], list[Violation]]:
    """Return commit, sha256 by path of the tracked files as they lie there, and what differs from the commit."""
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        tracked = _git(root, "ls-files", "-z").split("\0")
        status = _git(root, "--no-optional-locks", "status", "--porcelain", "-z", "--untracked-files=all").split("\0")
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or error
        return None, {}, [violation("PV-PIN", f"git cannot tell what {root.name} is: {str(told).strip()}")]
    # A tracked file that is gone shows in the status.
    files = {
        name: entry_sha256(root / name) for name in tracked if (root / name).is_symlink() or (root / name).is_file()
    }
    changed = [entry for entry in status if entry and (not entry.startswith("??") or entry.endswith(WATCHED))]
    found = [violation("PV-PIN", f"the tree is not clean: {', '.join(changed)}")] if changed else []
    return commit, files, found


def _git(root: Path, *arguments: str) -> str:
    """Return what a git command prints, with nothing of the user's configuration, environment or hooks."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    with tempfile.NamedTemporaryFile("w", prefix="gitconfig-") as config:
        # A mounted tree belongs to another user as a rule, and git then refuses to look at it.
        config.write("[safe]\n\tdirectory = *\n")
        config.flush()
        environment |= {"GIT_CONFIG_GLOBAL": config.name, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
        command = ["git", "-C", str(root), "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", *arguments]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=GIT_LIMIT_S)
    return done.stdout


def _by_record(root: Path) -> tuple[str | None, dict[str, str], list[Violation]]:
    """Return the commit that the tree's own record states, sha256 by path of its files, and how the record fails."""
    files = tree_files(root)
    path = root / PIN.record
    try:
        record: Any = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        return None, files, [violation("PV-PIN", f"no git metadata, and {PIN.record} cannot be read: {error}")]
    if not isinstance(record, dict):
        return (
            None,
            files,
            [violation("PV-PIN", f"{PIN.record} must hold commit, tree_sha256 and n_files, got {record!r}")],
        )
    own = {"tree_sha256": tree_digest(files), "n_files": len(files)}
    wrong = [
        f"{name} {record.get(name)!r}, found {value!r}" for name, value in own.items() if record.get(name) != value
    ]
    found = [violation("PV-PIN", f"{PIN.record} states {'; '.join(wrong)}")] if wrong else []
    return record.get("commit"), files, found


def facts(checkout: Checkout) -> dict[str, Any]:
    """Return what a manifest says of the tree."""
    return {
        "ptychovit_repo": checkout.way.root.name,
        "ptychovit_image": checkout.way.image,
        "checkout_kind": checkout.kind,
        "dialect": checkout.dialect,
        "pin": {
            "expected": PIN.commit,
            "found": checkout.commit,
            "tree_sha256": checkout.tree_sha256,
            "n_files": checkout.n_files,
            "evidence": checkout.evidence,
            "verified": checkout.pin_verified,
            "validated_on": PIN.validated_on,
            "data_files": list(PIN.data_files),
            "checkpoint_files": list(PIN.checkpoint_files),
        },
    }
