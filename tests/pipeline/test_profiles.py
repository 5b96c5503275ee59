"""Profiles: any order gives one configuration, at most one engine and one executor, and GPU options only where a GPU is used.

All are rendered by Nextflow itself, 125 choices in one JVM. What needs a run is looked at with programs that only bear the
names of the container engines: they write down how they were called and run the task without a container.
"""

import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.pipeline

ROOT = Path(__file__).parents[2]
RENDERER = Path(__file__).with_name("render_profiles.groovy")
ENGINES = ["docker", "podman", "singularity", "apptainer", "charliecloud"]
CHOICES = [*ENGINES, "native", "gpu"]
EXECUTORS = {
    "slurm": "slurm", "awsbatch": "awsbatch", "google_batch": "google-batch", "azurebatch": "azurebatch", "k8s": "k8s",
}  # fmt: skip
PAIRS = [*itertools.product(CHOICES, EXECUTORS), *itertools.product([*ENGINES, "native"], ["gpu"])]
CONFLICTS = [*itertools.combinations([*ENGINES, "native"], 2), *itertools.combinations(EXECUTORS, 2)]
OTHERS = [
    "-",
    *CHOICES,
    *EXECUTORS,
    "test",
    "test_gpu",
    "test_failures",
    "stub",
    "debug",
    "stub,gpu",
    "test_gpu,native",
]
# Every engine and every executor at least once, GPU and native with and without an executor, and both kinds of conflict.
STRICT_SAMPLE = [
    "-", "gpu", "native,gpu", "docker,slurm", "slurm,docker", "gpu,slurm", "slurm,gpu", "podman,awsbatch",
    "singularity,google_batch", "apptainer,azurebatch", "charliecloud,k8s", "apptainer,gpu", "gpu,apptainer", "docker,podman",
    "slurm,k8s", "stub", "debug",
]  # fmt: skip


def render(jars: Path, project: Path, out: Path, profiles: list[str], parser: str) -> dict:
    """Return what render_profiles.groovy finds, with the Nextflow in a folder of jars."""
    java = os.environ.get("JAVA_HOME") and Path(os.environ["JAVA_HOME"]) / "bin" / "java"
    environment = os.environ | {
        "NXF_HOME": str(out.parent / "home"), "NXF_OFFLINE": "true", "NXF_PLUGINS_DEFAULT": "false", "NXF_PLUGINS_ALLOWED": "",
        "NXF_SYNTAX_PARSER": parser,
    }  # fmt: skip
    # Much is compiled and little of it runs long: the JVM's quick compiler alone halves the time.
    quick = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
    command = [java or "java", *quick, "-cp", f"{jars}/*", "groovy.ui.GroovyMain", RENDERER, project, out, *profiles]
    done = subprocess.run(list(map(str, command)), cwd=out.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def rendered(project, tmp_path_factory):
    """Return {profiles: configuration} of every choice, under the parser of the launcher."""
    jars = ROOT / ".nextflow-dist" / "lib"
    if not jars.is_dir():
        pytest.skip("no jars in .nextflow-dist/lib: `make setup` fetches them where no Nextflow is on PATH")
    profiles = (
        OTHERS + [",".join(pair) for one in PAIRS for pair in (one, one[::-1])] + [",".join(one) for one in CONFLICTS]
    )
    return render(jars, project, tmp_path_factory.mktemp("render") / "out.json", profiles, "v1")


@pytest.fixture(scope="module")
def strict(project, tmp_path_factory):
    """Return the same of a sample under the strict parser of Nextflow 25.04, which must be there already."""
    jars = Path(os.environ.get("NEXTFLOW_STRICT_JARS", ROOT / ".nextflow-dist" / "strict" / "lib"))
    if not jars.is_dir():
        pytest.skip(f"no jars of Nextflow 25.04 in {jars}; NEXTFLOW_STRICT_JARS names another folder")
    folder = tmp_path_factory.mktemp("strict")
    shutil.copytree(project / "conf", folder / "project" / "conf")
    for name in ("main.nf", "nextflow.config"):
        shutil.copy(project / name, folder / "project")
    return render(jars, folder / "project", folder / "out.json", STRICT_SAMPLE, "v2")


def enabled(config: dict) -> list[str]:
    return [engine for engine in ENGINES if config[engine]["enabled"]]


def expected_engine(choices: list[str]) -> list[str]:
    """Return the engine that must be on: the one named; for gpu alone on this machine docker."""
    named = [one for one in choices if one in ENGINES]
    if named or "native" in choices or "gpu" not in choices:
        return named
    return [] if set(choices) & set(EXECUTORS) else ["docker"]


def check(config: dict, profiles: str):
    choices = profiles.split(",")
    assert "error" not in config, config["error"]
    assert enabled(config) == expected_engine(choices)
    assert config["params"]["use_gpu"] is ("gpu" in choices)
    executors = [EXECUTORS[one] for one in choices if one in EXECUTORS]
    assert [config["process"].get("executor")] == (executors or [None])


def test_each_pair_gives_one_configuration_in_both_orders_with_at_most_one_engine(rendered):
    for pair in PAIRS:
        one, other = (rendered["rendered"][",".join(names)] for names in (pair, pair[::-1]))
        assert one == other, pair
        check(one, ",".join(pair))


@pytest.mark.parametrize("profiles", [*CHOICES, *EXECUTORS])
def test_one_profile_alone(rendered, profiles):
    check(rendered["rendered"][profiles], profiles)


def test_without_a_profile_nothing_is_switched_on(rendered):
    config = rendered["rendered"]["-"]
    assert enabled(config) == []
    assert "executor" not in config["process"]
    assert (config["params"]["use_gpu"], config["params"]["engine"], config["params"]["scheduler"]) == (
        False,
        None,
        None,
    )


def test_two_engines_or_two_executors_switch_nothing_on_and_are_no_value_of_the_schema(rendered, project):
    schema = json.loads((project / "nextflow_schema.json").read_text())["$defs"]["operation"]["properties"]
    for pair in CONFLICTS:
        config = rendered["rendered"][",".join(pair)]
        name = "scheduler" if pair[0] in EXECUTORS else "engine"
        both = [one.replace("native", "none") for one in pair]
        assert sorted(config["params"][name].split(",")) == sorted(both)
        assert config["params"][name] not in schema[name]["enum"]
        assert enabled(config) == []
        assert "executor" not in config["process"]


def test_cluster_profiles_drop_the_limits_of_the_launching_machine_and_never_repeat_on_their_own(rendered):
    for profile in EXECUTORS:
        assert rendered["rendered"][profile]["process"]["resourceLimits"] == {}
    assert rendered["rendered"]["-"]["process"]["resourceLimits"]["cpus"] == len(os.sched_getaffinity(0))
    assert rendered["rendered"]["awsbatch"]["aws"]["batch"]["maxSpotAttempts"] == 0
    assert rendered["rendered"]["google_batch"]["google"]["batch"]["maxSpotAttempts"] == 0


def test_profiles_of_tests(rendered):
    tiny, gpu, stub = (rendered["rendered"][name] for name in ("test", "test_gpu", "stub"))
    changed = {name for name, value in gpu["params"].items() if tiny["params"][name] != value}
    assert changed == {"use_gpu", "engine"}
    assert enabled(rendered["rendered"]["test_gpu,native"]) == []
    assert stub["stubRun"] is True
    assert enabled(rendered["rendered"]["stub,gpu"]) == []
    assert rendered["rendered"]["debug"]["dumpHashes"] == "json"


GPU_PROCESSES = {"CHECK_DEVICE", "TRAIN", "RECONSTRUCT", "LSQML"}
GPU_FLAG = {"docker": "--gpus all", "podman": "--device nvidia.com/gpu=all", "singularity": "--nv", "apptainer": "--nv"}


def test_gpu_options_of_each_engine(rendered):
    for one in rendered["options"]:
        flag = GPU_FLAG.get(one["engine"]) if one["gpu"] else None
        given = [part for part in one["containerOptions"].split(" ${PTYCHOFLOW")[:1] if not part.startswith("${")]
        assert given == ([flag] if flag else []) or (flag is None and given == [""]), one
        assert ("PTYCHOFLOW_CHECKPOINT_DIR:+" in one["containerOptions"]) is (one["engine"] is not None)


def test_lines_before_a_task_survive_any_folder_name(rendered, tmp_path):
    """A quote and a space in the output folder; the lease belongs to the local executor alone."""
    for one in rendered["options"]:
        lines = one["beforeScript"].splitlines()
        assert [line for line in lines if "gpu_lease" in line] == (
            ["source '/pro ject/bin/gpu_lease.sh' ''"] if one["gpu"] else []
        )
        script = "\n".join(line for line in lines if line.startswith("export"))
        shown = subprocess.run(
            ["bash", "-euc", f'{script}\necho "$PTYCHOFLOW_CHECKPOINT_DIR"'], capture_output=True, text=True
        )
        assert shown.stdout == "/lau nch/it's/.checkpoints\n", shown.stderr


def test_a_sample_under_the_strict_parser(strict, rendered):
    for profiles in STRICT_SAMPLE:
        config = strict["rendered"][profiles]
        assert "error" not in config, config.get("error")
        loose = rendered["rendered"][profiles]
        for scope in (*ENGINES, "aws", "google", "azure", "k8s", "executor", "stubRun", "dumpHashes"):
            assert config.get(scope) == loose.get(scope), (profiles, scope)
        if profiles not in (",".join(pair) for pair in CONFLICTS):
            assert config["params"] == loose["params"], profiles
        assert config["process"] == loose["process"], profiles


def test_a_second_engine_and_a_second_executor_are_refused_by_name(nextflow, project, tmp_path):
    launch = nextflow(tmp_path, "run", project, "-profile", "docker,podman,slurm,k8s", "--study", "lines")
    assert launch.returncode == 1
    engines, executors = ", ".join([*ENGINES, "none", "auto"]), ", ".join(EXECUTORS)
    assert f"--engine must be one of {engines}, got 'docker,podman'" in launch.text
    assert f"--scheduler must be one of {executors}, got 'slurm,k8s'" in launch.text
    assert launch.trace() == []


# Runs what follows the image's name, after it has written all its arguments down; `pull` makes the image's file.
SHIM = """#!/bin/bash
printf '%s\\n' "${0##*/} $*" >> 'LOG'
if [[ $1 == pull ]]; then touch "$3"; exit; fi
for name in "${!APPTAINERENV_@}"; do export "${name#APPTAINERENV_}=${!name}"; done
while (($#)); do
    if [[ $1 == ptychoflow/* || $1 == *.img ]]; then shift; exec "$@"; fi
    shift
done
"""


@pytest.fixture
def shims(tmp_path, monkeypatch):
    """Return the log of programs called docker and apptainer that run tasks without any container."""
    log = tmp_path / "shims.log"
    (tmp_path / "shims").mkdir()
    for name in ("docker", "apptainer"):
        (tmp_path / "shims" / name).write_text(SHIM.replace("LOG", str(log)))
        (tmp_path / "shims" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'shims'}:{os.environ['PATH']}")
    monkeypatch.setenv("PTYCHOFLOW_LEASE_DIR", str(tmp_path / "leases"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-7")
    return log


@pytest.mark.parametrize("engine", ["docker", "apptainer"])
def test_images_and_gpu_options_of_a_run(nextflow, project, tmp_path, shims, engine):
    launch = nextflow(tmp_path / "launch", "run", project, "-stub-run", "-profile", f"{engine},gpu", "--study", "lines")
    assert launch.returncode == 0, launch.text
    calls = [line for line in shims.read_text().splitlines() if "/bin/bash" in line]
    assert len(calls) == len(launch.trace())
    arms = [line for line in calls if "ptychoflow/cuda:" in line or "ptychoflow-cuda-" in line]
    assert len(arms) == len([row for row in launch.trace() if row["process"] in GPU_PROCESSES])
    for line in calls:
        assert (GPU_FLAG[engine] in line) is (line in arms), line
        assert f"{tmp_path}/launch/results/.checkpoints" in line or line not in arms
    for row in launch.trace():
        log = (Path(row["workdir"]) / ".command.run").read_text()
        assert ("gpu_lease.sh" in log) is (row["process"] in GPU_PROCESSES)


def test_images_are_those_of_the_lock_file(rendered):
    lock = json.loads((ROOT / "containers" / "containers.lock.json").read_text())["images"]
    process = rendered["rendered"]["-"]["process"]
    assert process["container"] == lock["cpu"]["image"]
    assert process["withLabel:process_gpu"]["container"] == lock["cuda"]["image"]
