"""Which external tree may run, and what a refusal says. Oracle: git itself, and the rules of the reference page, section 2."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from doubles.ptychovit import make_double
from ptychoflow.arms.ptychovit.checkout import IMAGE_TREE, Way, choose_way, examine, facts
from ptychoflow.arms.ptychovit.contract import PIN, refuse_violations, tree_digest, tree_files
from ptychoflow.errors import ContractError, UnavailableError, UsageError

PYTHON = Path(sys.executable)


@pytest.fixture
def double(tmp_path):
    return make_double(tmp_path / "checkout")


def look(root, tmp_path, *, digest=None, allow_double=None, python=PYTHON, out=None, search_path=()):
    return examine(
        Way(root, python, None), out_dir=out or tmp_path / "out", search_path=search_path, digest=digest, allow_double=allow_double
    )  # fmt: skip


def refused(found, code, *texts):
    """The one refusal has this code and says these things."""
    worse = [one for one in found if one.kind == "E"]
    assert {one.code for one in worse} == {code}, worse
    told = "\n".join(one.text for one in worse)
    for text in texts:
        assert text in told
    with pytest.raises(UnavailableError) as caught:
        refuse_violations(found, what="checkout")
    assert caught.value.exit_code == 69


def without_git(root, **record):
    """Make a tree like an image's: no git metadata, and its own record."""
    shutil.rmtree(root / ".git")
    files = tree_files(root)
    made = {"commit": PIN.commit, "tree_sha256": tree_digest(files), "n_files": len(files), **record}
    (root / PIN.record).write_text(json.dumps(made))
    return made["tree_sha256"]


@pytest.mark.parametrize(
    ("repo", "python", "image", "told"),
    [
        (None, None, None, "got none of them"),
        ("/a", None, None, "got --ptychovit_repo"),
        (None, "/p", None, "got --ptychovit_python"),
        ("/a", "/p", "vit:1", "--ptychovit_image"),
        ("a", "/p", None, "PV-REPO: --ptychovit_repo must be an absolute path on this machine, got 'a'"),
        ("/a", "python", None, "--ptychovit_python must be an absolute path"),
        ("https://example.invalid/vit", "/p", None, "nothing is cloned or downloaded"),
    ],
)
def test_one_way_exactly_and_absolute(repo, python, image, told):
    with pytest.raises(UsageError, match=told) as caught:
        choose_way(repo, python, image)
    assert caught.value.exit_code == 64


def test_an_image_has_its_tree_at_a_fixed_place(tmp_path):
    way = choose_way(None, None, "vit:1")
    assert way.root == IMAGE_TREE
    checkout, found = examine(way, out_dir=tmp_path, search_path=(), digest=None, allow_double=None)
    assert checkout is None
    refused(found, "PV-REPO", "image vit:1 holds no tree at /opt/ptycho-vit")


def test_the_admitted_double_is_told_by_git(double, tmp_path, monkeypatch):
    """Oracle: what `make` printed; variables of a hook of another repository must not lead elsewhere."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    before = sorted(path.name for path in double.path.rglob("*"))
    checkout, found = look(double.path, tmp_path, allow_double=double.tree_sha256)
    assert found == []
    assert (checkout.kind, checkout.commit, checkout.tree_sha256) == ("double", double.commit, double.tree_sha256)
    assert (checkout.n_files, checkout.evidence, checkout.pin_verified) == (double.n_files, "git", False)
    told = facts(checkout)
    assert told["checkout_kind"] == "double"
    assert told["pin"]["expected"] == PIN.commit
    assert str(tmp_path) not in json.dumps(told)
    assert sorted(path.name for path in double.path.rglob("*")) == before


def test_a_double_is_refused_unless_its_own_digest_is_given(double, tmp_path):
    refused(look(double.path, tmp_path)[1], "PV-REPO", "contract double", "--allow_double")
    refused(look(double.path, tmp_path, allow_double="0" * 64)[1], "PV-PIN", "0" * 64, double.tree_sha256)
    (double.path / "CONTRACT_DOUBLE").unlink()
    refused(look(double.path, tmp_path, allow_double=double.tree_sha256)[1], "PV-REPO", "has no CONTRACT_DOUBLE")


@pytest.mark.parametrize(
    ("fault", "code", "texts"),
    [
        ("dirty", "PV-PIN", ("not clean", "config.yaml")),
        ("other_commit", "PV-PIN", ("tree_sha256 must be",)),
        ("file_removed", "PV-REPO", ("lacks training.py",)),
    ],
)
def test_faults_of_the_tree(tmp_path, fault, code, texts):
    """Oracle: the table of faults of the reference page, section 18."""
    double = make_double(tmp_path / "checkout", faults=[fault])
    checkout, found = look(double.path, tmp_path, allow_double=double.tree_sha256)
    assert checkout is None
    refused(found, code, *texts)


@pytest.mark.parametrize(("dialect", "texts"), [("L", ("--config",)), ("F", ("ptycho_fm", "lacks main.py"))])
def test_later_families_are_refused(tmp_path, dialect, texts):
    double = make_double(tmp_path / "checkout", dialect)
    refused(look(double.path, tmp_path, allow_double=double.tree_sha256)[1], "PV-REPO", *texts)


def test_a_neighbour_of_the_pin_is_taken_with_a_warning(tmp_path):
    double = make_double(tmp_path / "checkout", "P-noprefetch")
    checkout, found = look(double.path, tmp_path, allow_double=double.tree_sha256)
    assert checkout is not None
    assert [(one.code, one.kind) for one in found] == [("PV-REPO", "W")]
    assert "prefetcher.py" in found[0].message


def test_untracked_code_is_a_change_and_an_untracked_note_is_none(double, tmp_path):
    (double.path / "note.txt").write_text("mine\n")
    assert look(double.path, tmp_path, allow_double=double.tree_sha256)[0] is not None
    (double.path / "model" / "patch.py").write_text("x = 1\n")
    refused(look(double.path, tmp_path, allow_double=double.tree_sha256)[1], "PV-PIN", "not clean", "model/patch.py")


def test_another_commit_is_refused_with_both(double, tmp_path):
    """A tree without the marker is taken for a real one: HEAD must be the pin."""
    for command in (
        ["rm", "-q", "CONTRACT_DOUBLE"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "no marker"],
    ):
        subprocess.run(["git", *command], cwd=double.path, check=True, capture_output=True)
    checkout, found = look(double.path, tmp_path)
    assert checkout is None
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=double.path, check=True, capture_output=True, text=True
    ).stdout
    refused(found, "PV-PIN", PIN.commit, head.strip())


def test_a_repository_cannot_have_a_program_of_its_own_run(double, tmp_path):
    """git would start a configured file-system monitor; a checkout is looked at, nothing of it is started."""
    program, trace = tmp_path / "monitor.sh", tmp_path / "started"
    program.write_text(f"#!/bin/sh\ntouch {trace}\n")
    program.chmod(0o755)
    subprocess.run(["git", "config", "core.fsmonitor", str(program)], cwd=double.path, check=True)
    look(double.path, tmp_path, allow_double=double.tree_sha256)
    assert not trace.exists()


def test_without_git_metadata_a_digest_from_outside_is_needed(double, tmp_path):
    """Oracle: the digest by its definition, tests/doubles/ptychovit; a record alone proves nothing."""
    (double.path / "CONTRACT_DOUBLE").unlink()
    digest = without_git(double.path)
    refused(look(double.path, tmp_path)[1], "PV-PIN", "no digest was given from outside", digest)
    checkout, found = look(double.path, tmp_path, digest=digest)
    assert found == []
    assert (checkout.kind, checkout.commit, checkout.evidence, checkout.pin_verified) == (
        "real",
        PIN.commit,
        "digest",
        True,
    )
    (double.path / "data.py").write_text("# edited\n")
    refused(look(double.path, tmp_path, digest=digest)[1], "PV-PIN", "states tree_sha256", f"must be {digest}")


def test_the_record_must_be_there_and_name_the_pin(double, tmp_path):
    (double.path / "CONTRACT_DOUBLE").unlink()
    digest = without_git(double.path, commit="1" * 40)
    refused(look(double.path, tmp_path, digest=digest)[1], "PV-PIN", PIN.commit, "1" * 40)
    (double.path / PIN.record).write_text("{")
    refused(look(double.path, tmp_path, digest=digest)[1], "PV-PIN", "ptychovit-source.json cannot be read")
    (double.path / PIN.record).write_text("[]")
    refused(look(double.path, tmp_path, digest=digest)[1], "PV-PIN", "must hold commit, tree_sha256 and n_files")


def test_a_double_in_an_image_goes_by_its_digest(double, tmp_path):
    digest = without_git(double.path, commit=double.commit)
    assert digest == double.tree_sha256
    checkout, found = look(double.path, tmp_path, allow_double=digest)
    assert found == []
    assert (checkout.kind, checkout.evidence) == ("double", "digest")


def test_places_that_cannot_be(double, tmp_path):
    refused(look(tmp_path / "nowhere", tmp_path)[1], "PV-REPO", "is no folder")
    refused(look(double.path, tmp_path, out=double.path / "out")[1], "PV-REPO", "lie in each other")
    refused(look(double.path, tmp_path, out=tmp_path)[1], "PV-REPO", "lie in each other")
    refused(look(double.path, tmp_path, search_path=["", str(double.path)])[1], "PV-REPO", "PYTHONPATH")
    refused(look(double.path, tmp_path, python=tmp_path / "python")[1], "PV-ENV", "no program that can be run")


def test_only_what_is_absent_outside_is_69():
    """Oracle: the exit codes of issue 8: PV-REPO, PV-PIN, PV-ENV and PV-CKPT 69, every other refusal 65."""
    from ptychoflow.arms.ptychovit.contract import CODES, violation

    for code in CODES:
        expected = UnavailableError if code in ("PV-REPO", "PV-PIN", "PV-ENV", "PV-CKPT") else ContractError
        with pytest.raises(expected, match=code):
            refuse_violations([violation(code, "found", kind="E")], what="x")
