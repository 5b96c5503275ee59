"""What a manifest says: checksums, and versions of what ran. Oracles: hashlib, and importlib.metadata asked by hand."""

import hashlib
import importlib.metadata
import json
import subprocess
import sys

from plan_cases import ROOT
from ptychoflow.provenance import process_versions, write_manifest


def read(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_checksums_are_of_the_files_or_those_that_are_known_already(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"seven b")
    common = {"command": "train", "inputs": {}, "parameters": {}}
    write_manifest(tmp_path, **common, outputs=["a.npz"])
    assert read(tmp_path)["outputs"] == {"a.npz": hashlib.sha256(b"seven b").hexdigest()}
    write_manifest(tmp_path, **common, outputs={"not/there": "5c"})
    assert read(tmp_path)["outputs"] == {"not/there": "5c"}


def test_a_manifest_has_the_versions_of_what_was_loaded_and_of_nothing_else(tmp_path):
    """In a process of its own: this one may have loaded anything."""
    code = (
        "import sys, scipy, pathlib; from ptychoflow.provenance import write_manifest;"
        "write_manifest(pathlib.Path(sys.argv[1]), command='x', inputs={}, outputs=[], parameters={})"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env={"PYTHONPATH": str(ROOT / "python")})
    found = read(tmp_path)["versions"]
    assert found.keys() == {"python", "ptychoflow", "code_rev", "numpy", "scipy"}
    assert found["scipy"] == importlib.metadata.version("scipy")


def test_versions_of_a_process_are_one_where_its_tasks_agree():
    manifests = [
        {"command": "compare-condition", "versions": {"numpy": "2.4"}},
        {"command": "train", "versions": {"torch": "2.10", "python": "3.11"}},
        {"command": "train", "versions": {"torch": "2.9", "python": "3.11"}},
        {"command": "train", "versions": {"torch": "2.10"}},
    ]
    assert process_versions(manifests) == {
        "COMPARE": {"numpy": "2.4"},
        "TRAIN": {"torch": ["2.10", "2.9"], "python": "3.11"},
    }
