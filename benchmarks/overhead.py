"""What the workflow costs beside its science: a no-op command, 20 no-op tasks, 200 planned runs as stubs.

Nextflow runs a copy of the project in a temporary folder, in which the flow is one process that asks for the version, or in
which PLAN is real and everything after it a stub: 2 conditions x 2 arms x 50 seeds are 610 tasks.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOOP = '''process NOOP {
    tag "${n}"
    label 'process_low'

    input:
    val n

    output:
    val n

    script:
    """
    ptychoflow --version
    """
}
workflow { NOOP(channel.of(1..20)) }
'''
STUDY = ["--study", "lines", "--doses", "1e9,1e6", "--models", "pinn_torch,baseline_torch"]
SEEDS = ["--seeds", ",".join(map(str, range(50)))]


def copy_of_the_project(folder: Path) -> Path:
    for part in ("modules", "conf", "bin", "python", "containers"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("main.nf", "nextflow.config", "nextflow_schema.json"):
        shutil.copy(ROOT / name, folder)
    return folder


def with_a_real_plan(project: Path) -> Path:
    """Let a stub run make its plan as a real one does."""
    path = project / "modules" / "plan.nf"
    head, script = path.read_text().split("    script:\n", 1)
    script = script.split("\n    //", 1)[0].split("    stub:\n", 1)[0]
    path.write_text(f"{head}    script:\n{script}\n\n    stub:\n{script}\n}}\n")
    return project


def timed(what: str, command: list[str], folder: Path) -> None:
    """Print wall and CPU seconds of a command; ends with its output where it fails."""
    environment = os.environ | {"NXF_HOME": str(folder / "home"), "PTYCHOFLOW_PYTHON": sys.executable}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{what}: {wall:.2f} s, {cpu:.2f} CPU-seconds, {os.cpu_count()} cores")


def main() -> None:
    shim = str(ROOT / "bin" / "ptychoflow")
    nextflow = str(ROOT / ".nextflow-dist" / "nextflow")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        timed("ptychoflow --version", [shim, "--version"], folder)
        timed("ptychoflow validate --help", [shim, "validate", "--help"], folder)
        tasks = copy_of_the_project(folder / "tasks")
        (tasks / "main.nf").write_text(NOOP)
        timed("20 tasks that ask for the version", [nextflow, "run", str(tasks)], folder)
        study = with_a_real_plan(copy_of_the_project(folder / "study"))
        timed("200 planned runs as stubs", [nextflow, "run", str(study), "-stub-run", *STUDY, *SEEDS], folder)


if __name__ == "__main__":
    main()
