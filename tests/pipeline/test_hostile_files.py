"""Hostile names on the way through Nextflow: what its shell would expand or run is refused in words, all else is only a name.

How names are judged and staged is looked at for hundreds of them, with Nextflow's own code and a real shell; one real run and
one refused run show that the flow keeps to it. Names that PLAN judges: tests/property/test_hostile_names.py.
"""

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from background_launch import ROOT
from scan_files import N, scan_arrays, write

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

FOLDER = 'it\'s "here" $(touch pwned) `touch pwned`; & é'
SECRET = "hunter2-a-secret-of-the-environment"
PIECES = [*" '\"`$(){}[]<>|&;*?!#~\\.-_:=%^,+@\t\n\x1b", "$(id)", "$HOME", "`id`", "é", "a", "b", "0", "1"]
FIXED = [
    "-rf",
    "--scan",
    "a\nid",
    "$(touch pwned)",
    "$",
    "$$",
    "${HOME}",
    "~",
    "~root",
    "#",
    "a b",
    "*",
    "{a,b}",
    "!!",
    "a\\",
    "\\n",
]


def names():
    """Return file names: short random strings of what a shell takes notice of, the same ones each time."""
    draw = random.Random(7)
    made = ["".join(draw.choices(PIECES, k=draw.randint(1, 6))) for _ in range(400)]
    return sorted({*FIXED, *made} - {".", ".."})


@pytest.fixture(scope="module")
def staged(project, tmp_path_factory):
    """Return {name: fault, staging command, quoted path, JSON text in a script}."""
    jars = ROOT / ".nextflow-dist" / "lib"
    if not jars.is_dir():
        pytest.skip("no jars in .nextflow-dist/lib: `make setup` fetches them where no Nextflow is on PATH")
    folder = tmp_path_factory.mktemp("names")
    (folder / "names.json").write_text(json.dumps(names()))
    script = Path(__file__).with_name("stage_names.groovy")
    java = Path(os.environ["JAVA_HOME"]) / "bin" / "java" if os.environ.get("JAVA_HOME") else "java"
    command = [java, "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*", "groovy.ui.GroovyMain", script]
    arguments = [project / "modules" / "functions.nf", folder / "names.json", folder / "out.json"]
    subprocess.run(list(map(str, [*command, *arguments])), check=True, cwd=folder, capture_output=True)
    return dict(zip(names(), json.loads((folder / "out.json").read_text()), strict=True))


def shell(folder, lines):
    """Run lines as a task's script would, with decoys that a glob could match; return what was printed, split at NUL."""
    script = folder / "script.sh"
    script.write_text("set -eu\n" + "\n".join(lines) + "\n")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", script.name], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]


def test_a_name_that_is_not_refused_reaches_its_task_unchanged(staged, tmp_path):
    """Oracle: what a shell makes of Nextflow's own lines. The file's name is the link's target and the task's argument."""
    usable = {name: found for name, found in staged.items() if found["fault"] is None}
    assert len(usable) > 100
    for number in range(len(usable)):
        (tmp_path / str(number)).mkdir()
    for decoy in ("a", "b", "0", "1"):
        (tmp_path / decoy).mkdir(exist_ok=True)
    (tmp_path / "tasks").mkdir()
    lines = []
    for number, found in enumerate(usable.values()):
        (tmp_path / "tasks" / str(number)).mkdir()
        lines += [f"cd {tmp_path}/tasks/{number}", found["stage"], f"printf '%s\\0' {found['shown']}"]
    printed = shell(tmp_path, lines)
    assert printed == [f"/in/{name}" for name in usable]
    for number, name in enumerate(usable):
        (link,) = (path for path in (tmp_path / "tasks" / str(number)).rglob("*") if path.is_symlink())
        assert (str(link.readlink()), link.name) == (f"/in/{name}", name)
    assert not list(tmp_path.rglob("pwned"))


def test_a_name_that_a_shell_would_change_or_run_is_refused_and_shown_on_one_line(staged):
    refused = {name: found["fault"] for name, found in staged.items() if found["fault"]}
    assert {"a\nid", "$$", "${HOME}", "*", "{a,b}"} <= refused.keys()
    for name, fault in refused.items():
        assert fault.isprintable(), name
        assert "rename it" in fault


def test_texts_between_single_quotes_survive_the_shell(staged, tmp_path):
    """Oracle: Python's own JSON reader, behind a shell that was given the line of a task's script."""
    printed = shell(tmp_path, [f"printf '%s\\0' '{found['text']}'" for found in staged.values()])
    assert [json.loads(text)["id"] for text in printed] == list(staged)


def sheet_of_one_reconstruction(folder, name):
    """Write scan, reconstruction and sheet of that name into a folder; return the sheet."""
    folder.mkdir(parents=True)
    arrays = scan_arrays()
    write(folder, arrays, f"{name}.npz")
    image = arrays["objectGuess"]
    write(
        folder,
        {
            "object": image,
            "weight": np.ones(image.shape, np.float32),
            "origin_rc_px": np.zeros(2, np.int64),
            "metadata": np.array("{}"),
        },
        f"{name} recon.npz",
    )
    sheet = folder / f"{name}.csv"
    with sheet.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["recon", "scan", "label", "object", "N"])
        rows.writerow([f"{name} recon.npz", f"{name}.npz", "mine", "star", N])
    return sheet


def test_a_run_on_files_of_hostile_names_reads_them_and_tells_no_secret(nextflow, project, tmp_path, monkeypatch):
    """Launch folder, sheet, scan and reconstruction have such names; the tasks' scripts please shellcheck.

    What the environment holds is in no file of the run.
    """
    for name in ("AWS_SECRET_ACCESS_KEY", "MY_TOKEN", "DB_PASSWORD"):
        monkeypatch.setenv(name, SECRET)
    sheet = sheet_of_one_reconstruction(tmp_path / FOLDER, FOLDER)
    launch = nextflow(tmp_path / "launch" / FOLDER, "run", project, "--from", "evaluate", "--input", sheet)
    assert launch.returncode == 0, launch.text
    assert launch.states() == {"star__mine__n17__s0": "ok"}
    assert not [*tmp_path.rglob("pwned"), *project.rglob("pwned")]
    scripts = sorted(launch.folder.glob("work/*/*/.command.sh"))
    assert len(scripts) == 6
    # SC2096: Nextflow's own first line.
    shellcheck = [Path(sys.executable).with_name("shellcheck"), "--exclude=SC2096", *scripts]
    checked = subprocess.run(list(map(str, shellcheck)), capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert SECRET not in launch.text
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix not in (".npz", ".png"):
            assert SECRET.encode() not in path.read_bytes(), path


def test_files_that_cannot_be_used_are_refused_together_before_they_are_read(nextflow, project, tmp_path):
    """A name that a shell would expand, one that it would run, a glob, a link out of the folder, and one that is not there."""
    folder = tmp_path / "sheets"
    folder.mkdir()
    (tmp_path / "outside.npz").touch()
    (folder / "link.npz").symlink_to(tmp_path / "outside.npz")
    (folder / "inside.npz").symlink_to("plain.npz")
    files = {
        "home": "a$HOME.npz",
        "line": "a\ntouch pwned",
        "glob": "a[1].npz",
        "link": "link.npz",
        "fine": "inside.npz",
        "gone": "gone.npz",
    }
    for name in ("plain.npz", "a$HOME.npz", "a\ntouch pwned", "a[1].npz"):
        (folder / name).touch()
    (folder / "sheet.json").write_text(
        json.dumps([{"id": name, "scan": scan, "N": 64} for name, scan in files.items()])
    )
    launch = nextflow(tmp_path, "run", project, "--input", "sheets/sheet.json", "--models", "lsqml")
    assert launch.returncode == 1
    said = {line.split(":")[0].strip(" -"): line for line in launch.text.splitlines() if line.startswith("  - ")}
    assert said.keys() == files.keys() - {"fine"}
    assert said["gone"].endswith("/sheets/gone.npz")
    assert f"is a link to {tmp_path}/outside.npz, out of the sheet's folder" in said["link"]
    assert all("rename it" in said[name] for name in ("home", "line", "glob"))
    assert not list(tmp_path.rglob("pwned"))


def test_a_parameter_that_does_not_exist_keeps_its_value_to_itself(nextflow, project, tmp_path):
    """Nextflow writes its own command line into .nextflow.log; nothing of ours repeats it."""
    launch = nextflow(
        tmp_path, "run", project, "--api_token", SECRET, "--input", "sheet[1].csv", "--study", "x$y/z.yml"
    )
    assert launch.returncode == 1
    assert "unknown parameter --api_token" in launch.text
    assert "--input" in launch.text
    assert "rename it" in launch.text
    assert SECRET not in launch.text
    assert all(SECRET not in path.read_text() for path in (tmp_path / "results").rglob("*") if path.is_file())
