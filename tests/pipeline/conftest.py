"""Launching the workflow in tests: a frozen copy of the project, a folder per launch, one launch for many assertions."""

import csv
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from background_launch import environment_of

ROOT = Path(__file__).parents[2]
PROJECT_PARTS = ("main.nf", "nextflow.config", "nextflow_schema.json", "modules", "conf", "bin", "python")
LIMIT_S = 1200
"""After this a launch hangs. The longest takes three minutes alone on two cores, and up to five times that beside others."""

LONGEST = ("test_dose_overlap", "test_arms", "test_real_run", "test_failures", "test_ptychovit")
"""Files of tests that come first: what takes minutes must not start when the other process has nothing left to do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@dataclass(frozen=True)
class Launch:
    """One finished `nextflow` call."""

    returncode: int
    text: str
    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def trace(self) -> list[dict[str, str]]:
        """Return one row per task, the last attempt where there are several; none when no task was started."""
        path = self.results / "pipeline_info" / "trace.tsv"
        if not path.exists():
            return []
        with path.open(newline="") as stream:
            rows = {row["name"]: row for row in csv.DictReader(stream, delimiter="\t")}
        return [row | {"process": row["process"].split(":")[-1]} for row in rows.values()]

    def tasks(self, *statuses: str) -> dict[str, list[str]]:
        """Return the tags of tasks by process, of all tasks or of those with one of the statuses."""
        found: dict[str, list[str]] = {}
        for row in self.trace():
            if not statuses or row["status"] in statuses:
                found.setdefault(row["process"], []).append(row["tag"])
        return {process: sorted(tags) for process, tags in found.items()}

    def states(self) -> dict[str, str]:
        """Return the state of every run in run_status.tsv."""
        with (self.results / "summary" / "run_status.tsv").open(newline="") as stream:
            return {row["run_id"]: row["state"] for row in csv.DictReader(stream, delimiter="\t")}

    def made(self) -> dict[str, set[str]]:
        """Return the names of the files that each process made in its task folders (staged inputs are links)."""
        names: dict[str, set[str]] = {}
        for row in self.trace():
            folder = Path(row["workdir"])
            files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
            own = {path.relative_to(folder).as_posix() for path in files if not path.name.startswith(".")}
            names.setdefault(row["process"], set()).update(own)
        return names


def copy_project(target: Path) -> Path:
    """Return a copy of the workflow and its package that a test may edit, and that nobody else edits meanwhile."""
    target.mkdir(parents=True)
    for part in PROJECT_PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, target / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target / part)
    return target


def launcher() -> str | None:
    """Return the Nextflow to use: $NEXTFLOW, the one that `make setup` made, or the one on PATH."""
    made = ROOT / ".nextflow-dist" / "nextflow"
    return os.environ.get("NEXTFLOW") or (str(made) if made.exists() else shutil.which("nextflow"))


@pytest.fixture(scope="session")
def nextflow():
    """Return `call(folder, *arguments)`, which runs Nextflow with `folder` as launch folder and its own NXF_HOME."""
    command = launcher()
    if command is None:
        pytest.skip("no Nextflow: run `make setup`, or set NEXTFLOW")

    def call(folder: Path, *arguments: object) -> Launch:
        folder.mkdir(parents=True, exist_ok=True)
        with subprocess.Popen(
            [command, *map(str, arguments)], cwd=folder, env=environment_of(folder), text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            try:
                text, _ = process.communicate(timeout=LIMIT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return Launch(process.returncode, text, folder)

    return call


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    """Return a copy of the project that no test edits."""
    return copy_project(tmp_path_factory.mktemp("project") / "ptychoflow")


@pytest.fixture(scope="session")
def own_project():
    """Return `copy(target)`, which makes a copy of the project that the test may edit."""
    return copy_project


@pytest.fixture(scope="session")
def stub_launch(nextflow, project, tmp_path_factory) -> Launch:
    """Return a stub run of the whole flow."""
    return nextflow(tmp_path_factory.mktemp("stub"), "run", project, "-stub-run", "--study", "lines")


@pytest.fixture(scope="session")
def real_launch(nextflow, project, tmp_path_factory) -> Launch:
    """Return `-profile test` on scans of 128 px and for two epochs: everything is real, but no picture is good."""
    tiny = ("--size", "128", "--step_train_px", "8", "--epochs", "2")
    return nextflow(tmp_path_factory.mktemp("real"), "run", project, "-profile", "test", *tiny)
