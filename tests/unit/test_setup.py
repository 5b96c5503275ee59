"""The set-up and the launcher, with doubles of Python, uv, Java, Maven and Nextflow on an otherwise bare PATH."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COREUTILS = (
    "bash cat chmod cmp cp dirname env flock grep head install mkdir mv readlink rm sha256sum sleep stat timeout"
)

JAVA = (
    'if [[ $1 == -version ]]; then echo \'openjdk version "{version}"\' >&2; else echo "java ${{NXF_OFFLINE:-}} $*"; fi'
)
NEXTFLOW = """
if [[ $1 == -v ]]; then echo asked >>"$LOG"; echo "nextflow version {version}"; exit; fi
echo "own {version} ${{NXF_OFFLINE:-untouched}} $*"
"""
# Does what `python -m venv` and `pip install uv` leave behind: a python and a uv that log what they are asked.
PYTHON = """
case "$1 $2 $3" in
"-m venv "*) echo venv >>"$LOG"; mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
"-m pip install") uv=${0%/*}/uv; printf '#!/usr/bin/env bash\n%s\n' "$UV_DOUBLE" >"$uv"; chmod 755 "$uv" ;;
"-m pip config") exit 1 ;;
"--version  ") echo "Python 3.11.0" ;;
esac
"""
MAVEN = 'for a; do case $a in -DoutputDirectory=*) mkdir -p "${a#*=}"; printf jar >"${a#*=}/nextflow.jar" ;; esac; done'


@dataclass
class Machine:
    """A checkout with only tools/ and requirements/, and a PATH with the basic commands and chosen doubles."""

    home: Path
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shutil.copytree(ROOT / "tools", self.checkout / "tools", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "requirements", self.checkout / "requirements")
        self.bin.mkdir()
        for name in COREUTILS.split():
            found = shutil.which(name)
            assert found is not None
            (self.bin / name).symlink_to(found)
        self.double("uname", 'echo "Linux x86_64"')
        self.double("java", JAVA.format(version="17.0.15"))
        self.double("python3.11", PYTHON)
        self.double("nextflow", NEXTFLOW.format(version="24.10.0.5928"))
        self.variables = {"LOG": str(self.log), "UV_DOUBLE": f'echo sync >>"{self.log}"'}

    @property
    def checkout(self) -> Path:
        return self.home / "checkout"

    @property
    def bin(self) -> Path:
        return self.home / "bin"

    @property
    def log(self) -> Path:
        return self.home / "log"

    @property
    def launcher(self) -> Path:
        return self.checkout / ".nextflow-dist" / "nextflow"

    @property
    def stamp(self) -> str:
        return (self.checkout / ".venv" / ".ptychoflow-stamp").read_text()

    def double(self, name: str, script: str) -> None:
        (self.bin / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (self.bin / name).chmod(0o755)

    def without(self, name: str) -> None:
        (self.bin / name).unlink()

    def logged(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    def call(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        variables = {"PATH": str(self.bin), "HOME": str(self.home), **self.variables}
        return subprocess.run(
            command, env=variables, cwd=self.home, capture_output=True, text=True, check=False, timeout=60
        )

    def setup(self) -> subprocess.CompletedProcess[str]:
        return self.call("bash", self.checkout / "tools" / "setup.sh")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def launched(machine: Machine) -> Machine:
    """A machine on which the launcher stands beside a folder of jars."""
    (machine.launcher.parent / "lib").mkdir(parents=True)
    shutil.copy(ROOT / "tools" / "nextflow.sh", machine.launcher)
    machine.launcher.chmod(0o755)
    return machine


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 69
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert all(word in lines[0] for word in words), lines[0]
    assert done.stdout == ""


def test_another_platform_is_refused(machine: Machine) -> None:
    machine.double("uname", 'echo "Darwin arm64"')
    assert_refused(machine.setup(), "Linux x86_64", "Darwin arm64")


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("java", ("Java 17", "openjdk-17-jre-headless")),
        ("python3.11", ("Python 3.11, 3.12 or 3.13", "python3-venv")),
        ("nextflow", ("Nextflow 24.10", "Maven", "apt-get install maven")),
    ],
)
def test_what_is_missing_is_named_with_its_package(machine: Machine, missing: str, words: tuple[str, ...]) -> None:
    machine.without(missing)
    assert_refused(machine.setup(), *words)
    assert machine.logged() in ([], ["asked"])
    assert not (machine.checkout / ".venv").exists()


@pytest.mark.parametrize("version", ["11.0.22", "1.8.0_392"])
def test_an_old_java_is_refused_with_its_version(machine: Machine, version: str) -> None:
    machine.double("java", JAVA.format(version=version))
    assert_refused(machine.setup(), "Java 17", version, "JAVA_HOME")


def test_a_python_that_does_not_run_is_passed_by(machine: Machine) -> None:
    machine.double("python3.13", "echo 'shim: command not found' >&2; exit 127")
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert "Python 3.11.0" in done.stdout


def test_a_second_call_does_nothing(machine: Machine) -> None:
    first = machine.setup()
    assert first.returncode == 0, first.stderr
    assert machine.logged() == ["asked", "venv", "sync"]
    assert os.access(machine.launcher, os.X_OK)
    second = machine.setup()
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert machine.logged() == ["asked", "venv", "sync"]


def test_a_set_up_that_was_cut_off_starts_from_an_empty_folder(machine: Machine) -> None:
    uv = machine.variables["UV_DOUBLE"]
    machine.variables["UV_DOUBLE"] = "exit 2"
    assert machine.setup().returncode != 0
    assert machine.stamp == "unfinished\n"
    leftover = machine.checkout / ".venv" / "half-installed"
    leftover.touch()
    machine.variables["UV_DOUBLE"] = uv
    assert machine.setup().returncode == 0
    assert not leftover.exists()
    assert machine.logged() == ["asked", "venv", "venv", "sync"]


def test_of_two_set_ups_at_once_one_does_the_work(machine: Machine) -> None:
    machine.variables["UV_DOUBLE"] = f"sleep 0.5; {machine.variables['UV_DOUBLE']}"
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: machine.setup(), range(2)))
    assert [one.returncode for one in done] == [0, 0]
    assert machine.logged().count("venv") == machine.logged().count("sync") == 1
    assert sorted("waiting" in one.stdout for one in done) == [False, True]


def test_a_changed_lock_brings_the_venv_up_to_date(machine: Machine) -> None:
    machine.setup()
    before = machine.stamp
    with (machine.checkout / "requirements" / "dev.lock").open("a") as lock:
        lock.write("# changed\n")
    assert machine.setup().returncode == 0
    assert machine.logged() == ["asked", "venv", "sync", "sync"]
    assert machine.stamp != before


def test_jars_come_from_maven_and_are_checked(machine: Machine) -> None:
    machine.without("nextflow")
    machine.double("mvn", MAVEN)
    pins = machine.checkout / "tools" / "nextflow.sha256"
    pins.write_text(f"{hashlib.sha256(b'other').hexdigest()}  nextflow.jar\n")
    done = machine.setup()
    assert done.returncode == 69
    assert "not those of tools/nextflow.sha256" in done.stderr
    assert not (machine.launcher.parent / "lib").exists()

    pins.write_text(f"{hashlib.sha256(b'jar').hexdigest()}  nextflow.jar\n")
    assert machine.setup().returncode == 0
    machine.without("mvn")  # with the jars in place nobody asks for Maven again
    assert machine.setup().returncode == 0
    assert "nextflow.cli.Launcher" in machine.call(machine.launcher, "run", "main.nf").stdout


@pytest.mark.parametrize("version", ["24.10.0.5928", "25.04.1", "26.01.0-edge"])
def test_the_users_nextflow_runs_in_its_own_environment(launched: Machine, version: str) -> None:
    launched.double("nextflow", NEXTFLOW.format(version=version))
    assert launched.call(launched.launcher, "run", "main.nf").stdout == f"own {version} untouched run main.nf\n"


@pytest.mark.parametrize("script", [NEXTFLOW.format(version=v) for v in ("24.9.1", "23.10.1")] + ["exit 1"])
def test_an_old_or_broken_nextflow_gives_way_to_the_jars(launched: Machine, script: str) -> None:
    launched.double("nextflow", script)
    done = launched.call(launched.launcher, "run", "main.nf")
    assert done.stdout.startswith("java true ")
    assert done.stdout.endswith(f"-cp {launched.launcher.parent}/lib/* nextflow.cli.Launcher run main.nf\n")


def test_a_launcher_on_path_does_not_call_itself(launched: Machine) -> None:
    launched.without("nextflow")
    shutil.copy(launched.launcher, launched.bin / "nextflow")  # as of another checkout
    (launched.home / "more").mkdir()
    (launched.home / "more" / "nextflow").symlink_to(launched.launcher)
    launched.variables["PATH"] = f"{launched.bin}:{launched.home / 'more'}"
    assert launched.call(launched.home / "more" / "nextflow", "-v").stdout.endswith("nextflow.cli.Launcher -v\n")


def test_the_version_is_asked_once_for_each_nextflow(launched: Machine) -> None:
    for _ in range(2):
        launched.call(launched.launcher, "run")
    assert launched.logged() == ["asked"]
    launched.double("nextflow", NEXTFLOW.format(version="25.10.0"))
    assert launched.call(launched.launcher, "run").stdout == "own 25.10.0 untouched run\n"
    assert launched.logged() == ["asked", "asked"]


def test_a_launcher_without_java_says_what_to_do(launched: Machine) -> None:
    launched.without("nextflow")
    launched.without("java")
    assert_refused(launched.call(launched.launcher, "run"), "Java", "make setup")


@pytest.mark.parametrize(
    ("pipeline_test", "code", "line"),
    [
        ("", 1, "pipeline: ran 0 (0 passed, 0 failed, 0 skipped"),
        ("@pytest.mark.pipeline\ndef test_b(): pass", 0, "pipeline: ran 1 (1 passed, 0 failed, 0 skipped"),
        ("@pytest.mark.pipeline\ndef test_b(): pytest.skip('no')", 1, "pipeline: ran 0 (0 passed, 0 failed, 1 skipped"),
        ("@pytest.mark.pipeline\ndef test_b(): assert 0", 1, "pipeline: ran 1 (0 passed, 1 failed, 0 skipped"),
    ],
)
def test_a_layer_counts_what_ran_and_fails_when_nothing_did(
    tmp_path: Path, pipeline_test: str, code: int, line: str
) -> None:
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "test.sh", tmp_path / "tools")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/usr/bin/env bash\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = pipeline\n  browser\n  tensorflow\n  docker\n  slurm\n")
    apart = tmp_path / "tests" / "tf" / "test_apart.py"
    apart.parent.mkdir(parents=True)
    apart.write_text("import pytest\n@pytest.mark.tensorflow\ndef test_apart(): pass\n")
    (tmp_path / "test_layers.py").write_text(f"import pytest\ndef test_a(): pass\n{pipeline_test}\n")
    done = subprocess.run(
        ["bash", tmp_path / "tools" / "test.sh"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == code, done.stdout + done.stderr
    unit, tensorflow, pipeline = done.stdout.splitlines()[-3:]
    assert unit.startswith("unit: ran 1 (1 passed")
    assert tensorflow.startswith("tensorflow: ran 1 (1 passed")
    assert pipeline.startswith(line)


def test_help_lists_every_target() -> None:
    shown = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert [line.split()[1] for line in shown.splitlines()] == phony[1].split()


def test_nothing_that_sets_up_names_an_address() -> None:
    files = [ROOT / "Makefile", *(ROOT / "tools").glob("*"), *(ROOT / "requirements").glob("*")]
    assert [file.name for file in files if file.is_file() and re.search(r"https?://", file.read_text())] == []
