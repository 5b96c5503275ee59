"""The layers that need more of the machine: what they say where it lacks something, with doubles of whatever sets it up."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASICS = ("bash", "cat", "dirname", "id", "mkdir", "mktemp", "rm", "tail")


class Machine:
    """A checkout with a test for each layer of machines, Docker made ready by a double, and a PATH of basic commands."""

    def __init__(self, home: Path):
        self.home, self.bin = home, home / "bin"
        shutil.copytree(ROOT / "tools", home / "checkout" / "tools", ignore=shutil.ignore_patterns("__pycache__"))
        self.bin.mkdir()
        for name in BASICS:
            found = shutil.which(name)
            assert found is not None
            (self.bin / name).symlink_to(found)
        self.script(home / "checkout" / ".venv" / "bin" / "python", f'exec "{sys.executable}" "$@"')
        (home / "checkout" / "pytest.ini").write_text(
            "[pytest]\nmarkers = pipeline\n  browser\n  tensorflow\n  docker\n  slurm\n"
        )
        self.tests("def test_shown(): pass")
        self.infra("docker-ready", "exit 0")
        self.infra("docker-down", "exit 0")
        self.infra("slurm-down", "exit 0")
        self.script(home / "checkout" / "tests" / "slurm" / "slurm-ready.sh", "exit 0")
        apart = home / "checkout" / "tests" / "tf" / "test_apart.py"
        apart.parent.mkdir(parents=True)
        apart.write_text("import pytest\n@pytest.mark.tensorflow\ndef test_apart(): pass\n")

    def tests(self, text: str) -> None:
        text = f"import pytest\ndef test_plain(): pass\n@pytest.mark.browser\n{text}\n"
        text += "@pytest.mark.docker\ndef test_image(): pass\n@pytest.mark.slurm\ndef test_job(): pass\n"
        (self.home / "checkout" / "test_both.py").write_text(text)

    def script(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(f"#!{shutil.which('bash')}\n{text}\n")
        path.chmod(0o755)

    def infra(self, name: str, text: str) -> None:
        self.script(self.home / "checkout" / "tests" / "infra" / f"{name}.sh", text)

    def double(self, name: str, text: str) -> None:
        self.script(self.bin / name, text)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(self.home / "checkout" / "tools" / "test.sh"), *arguments]
        environment = {"PATH": str(self.bin), "HOME": str(self.home)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def lines(done: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    """Return the lines of the layers browser and docker; Slurm's comes last."""
    browser, docker, slurm = done.stdout.splitlines()[-3:]
    assert slurm.startswith("slurm: ran 1 (1 passed")
    return browser, docker


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.double("id", "echo 1000")
    return machine


def test_with_a_browser_its_tests_alone_run(machine: Machine) -> None:
    machine.double("chromium", "exit 1")
    done = machine.run("machines")
    assert done.returncode == 0, done.stdout + done.stderr
    browser, docker = lines(done)
    assert browser.startswith("browser: ran 1 (1 passed, 0 failed, 0 skipped in")
    assert docker.startswith("docker: ran 1 (1 passed, 0 failed, 0 skipped in")
    assert (machine.home / "checkout" / "results" / "tests" / "machines.txt").read_text().startswith("browser: ran 1")


def test_a_failing_browser_test_fails_the_layer(machine: Machine) -> None:
    machine.double("chromium", "exit 1")
    machine.tests("def test_shown(): assert 0")
    done = machine.run("machines")
    assert done.returncode == 1
    assert lines(done)[0].startswith("browser: ran 1 (0 passed, 1 failed")


def test_without_a_browser_a_user_is_told_and_nothing_fails(machine: Machine) -> None:
    done = machine.run("machines")
    assert done.returncode == 0, done.stderr
    browser = lines(done)[0]
    assert browser.startswith("browser: skipped: there is no chromium")
    assert "apt-get install chromium" in browser


def test_root_installs_the_browser_and_says_so(machine: Machine) -> None:
    machine.double("id", "echo 0")
    install = f"printf '#!{shutil.which('bash')}\\n' >{machine.bin}/chromium; {shutil.which('chmod')} 755 {machine.bin}/chromium"
    machine.double("apt-get", f'case "$*" in *install*chromium) {install} ;; esac; echo noise; echo noise >&2')
    done = machine.run("machines")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == "machines: installing Debian's chromium\n"
    assert "noise" not in done.stdout
    assert lines(done)[0].startswith("browser: ran 1")


def test_a_browser_that_root_could_not_install_fails_the_run(machine: Machine) -> None:
    machine.double("id", "echo 0")
    machine.double("apt-get", "echo 'no route to the mirror'; exit 100")
    done = machine.run("machines")
    assert done.returncode == 1
    assert "no route to the mirror" in done.stderr
    assert lines(done)[0] == "browser: skipped: apt-get could not install chromium: see above"


@pytest.mark.parametrize(("code", "returned"), [(77, 0), (69, 1)])
def test_docker_that_is_not_to_be_had_is_skipped_and_fails_where_root_tried(
    machine: Machine, code: int, returned: int
) -> None:
    machine.double("chromium", "exit 1")
    machine.infra("docker-ready", f"echo 'no engine'; exit {code}")
    done = machine.run("machines")
    assert done.returncode == returned
    assert lines(done)[1] == "docker: skipped: no engine"


def test_a_user_without_an_engine_is_told_who_can_start_one(machine: Machine) -> None:
    shutil.copy(ROOT / "tests" / "infra" / "docker-ready.sh", machine.home / "checkout" / "tests" / "infra")
    machine.double("chromium", "exit 1")
    done = machine.run("machines")
    assert done.returncode == 0
    assert lines(done)[1].startswith("docker: skipped: no Docker engine answers, and only root on Debian can start one")


def test_tests_of_machines_are_in_no_other_layer(machine: Machine) -> None:
    done = machine.run()
    unit, tensorflow, pipeline = done.stdout.splitlines()[-3:]
    assert unit.startswith("unit: ran 1 (1 passed")
    assert tensorflow.startswith("tensorflow: ran 1 (1 passed")
    assert pipeline.startswith("pipeline: ran 0")


def test_an_unknown_group_is_refused(machine: Machine) -> None:
    done = machine.run("machine")
    assert done.returncode == 64
    assert "got 'machine'" in done.stderr
