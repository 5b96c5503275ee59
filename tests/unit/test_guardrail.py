"""The loss guardrail. Oracle: the rule of the study reference, section 2.3, in numbers written out."""

import json

import pytest
from typer.testing import CliRunner

from ptychoflow.cli import app, main
from ptychoflow.commands import check_loss
from ptychoflow.errors import ContractError, UsageError
from ptychoflow.study.guardrail import check_all, check_cell, limit_of, read_jobs, unshared, verdict

HERE = {"dose": "1e4", "view": "dense", "gridsize": 2}


def job(seed=0, loss=0.5, **other):
    return {
        **HERE, "arm": "pinn", "seed": seed, "train_data": "fly", "status": "success", "loss_name": "deviance",
        "loss_unit": "1", "final_loss": loss, "run_id": "more than the guardrail reads", **other,
    }  # fmt: skip


def manifest(*jobs):
    return {"schema_version": 1, "jobs": list(jobs)}


@pytest.fixture
def files(tmp_path):
    """Return a function that writes both manifests and returns their paths; a text is written as it is."""

    def write(reference, candidate):
        paths = tmp_path / "reference.json", tmp_path / "run" / "training_manifest.json"
        for path, content in zip(paths, (reference, candidate), strict=True):
            path.parent.mkdir(exist_ok=True)
            if content is not None:
                path.write_text(content if isinstance(content, str) else json.dumps(content))
        return dict(zip(("reference", "candidate"), paths, strict=True))

    return write


def refused(paths, **options):
    """Return the message of a no."""
    with pytest.raises(ContractError) as caught:
        check_loss.run(**paths, **{**HERE, **options})
    assert caught.value.exit_code == 65
    return str(caught.value)


def report_of(paths, name="check_loss_1e4_dense_gs2.json"):
    return json.loads((paths["candidate"].parent / name).read_text())


@pytest.mark.parametrize(
    ("reference", "candidate", "passes"),
    [
        (-10.0, -10.0, True), (-10.0, -7.5, True), (-10.0, -7.4, False), (-10.0, -12.5, True),
        (0.5, 0.625, True), (0.5, 0.626, False), (0.0, 1e-6, True), (0.0, 2e-6, False),
    ],
)  # fmt: skip
def test_the_limit_lies_above_the_reference_whatever_its_sign(reference, candidate, passes):
    """D66: with reference -10 and tolerance 0.25 the limit is -7.5 + 1e-6, not -12.5."""
    (result,) = check_all(manifest(job(loss=reference)), manifest(job(loss=candidate)))
    assert result.passed is passes
    assert result.checks[0].limit == pytest.approx(reference + 0.25 * abs(reference) + 1e-6, abs=1e-12)


def test_the_tolerances_are_those_that_were_given():
    assert limit_of(-4.0, tolerance=0.5, abs_tolerance=0.25) == -1.75
    pair = manifest(job(loss=2.0)), manifest(job(loss=2.5))
    assert check_all(*pair, tolerance=0.25)[0].passed
    assert not check_all(*pair, tolerance=0.2)[0].passed
    assert check_all(*pair, tolerance=0.0, abs_tolerance=0.5)[0].passed


def test_seeds_are_compared_one_by_one_where_both_sides_have_the_same():
    """The medians, 0.5 and 0.5, would pass: seed 7 alone is beyond 0.25 + 0.0625."""
    old = manifest(job(7, 0.25), job(9, 0.75), job(8, 0.5))
    (result,) = check_all(old, manifest(job(8, 0.5), job(9, 0.25), job(7, 0.5)))
    assert result.basis == "seed"
    assert [(check.seed, check.passed, check.reference) for check in result.checks] == [
        (8, True, 0.5), (9, True, 0.75), (7, False, 0.25),
    ]  # fmt: skip
    assert "0.5 exceeds the limit 0.312501" in result.checks[2].reason


def test_other_seeds_are_compared_by_their_medians():
    """Medians written out: 0.5 of (0.25, 0.5, 8), limit 0.625; 0.5625 of (0.5, 0.625), though 0.625 of (0.5, 0.75) too."""
    old = manifest(job(0, 8.0), job(1, 0.25), job(2, 0.5))
    (result,) = check_all(old, manifest(job(3, 0.5), job(4, 0.75)))
    assert (result.basis, result.passed) == ("median", True)
    assert [check.seed for check in result.checks] == [3, 4, None]
    assert (result.checks[2].candidate, result.checks[2].reference) == (0.625, 0.5)
    (result,) = check_all(old, manifest(job(3, 0.5), job(4, 0.76)))
    assert not result.passed


def test_scans_of_one_cell_are_compared_each_with_its_own():
    """Without the scan's name a fly's loss would be held against the chip's, ten times larger."""
    old = manifest(job(loss=0.5), job(loss=5.0, train_data="chip"))
    assert check_all(old, manifest(job(loss=5.0, train_data="chip"), job(loss=0.5)))[0].passed
    (result,) = check_all(old, manifest(job(loss=5.0), job(loss=0.5, train_data="chip")))
    assert [check.passed for check in result.checks] == [False, True]
    (result,) = check_all(old, manifest(job(loss=0.5), job(loss=0.5, train_data="leaf")))
    assert not result.passed
    assert "several scans share this cell" in result.reason


def test_the_name_of_a_single_scan_does_not_matter():
    """Ids of scans leave out what does not vary: a reference of three doses and a run of one call the scan differently."""
    (result,) = check_all(
        manifest(job(0), job(1)), manifest(job(0, train_data="fly_d1e4"), job(1, train_data="fly_d1e4"))
    )
    assert (result.basis, result.passed) == ("seed", True)


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (job(status="failed", final_loss=None), "its status is failed, not success"),
        (job(status="missing", final_loss=None), "its status is missing"),
        (job(status="skipped", final_loss=None), "its status is skipped"),
        (job(status="planned", final_loss=None), "its status is planned"),
        (job(status="failed", final_loss=0.1), "its status is failed"),
        (job(final_loss=None), "it has no final_loss"),
        ({name: value for name, value in job().items() if name != "final_loss"}, "it has no final_loss"),
        (job(final_loss=float("inf")), "its final_loss is not finite"),
        (job(final_loss=float("nan")), "its final_loss is not finite"),
        (job(final_loss=float("-inf")), "its final_loss is not finite"),
    ],
)
@pytest.mark.parametrize("seeds", [(0,), (4, 5)], ids=["by seed", "by median"])
def test_a_training_without_a_loss_that_counts_fails(candidate, reason, seeds):
    """One good training beside it does not help."""
    old = manifest(*(job(seed) for seed in (0, *seeds[1:])))
    others = [job(seed, 0.1) for seed in seeds[1:]]
    (result,) = check_all(old, manifest({**candidate, "seed": seeds[0]}, *others))
    assert not result.passed
    (bad,) = [check for check in result.checks if not check.passed]
    assert (bad.seed, bad.candidate) == (seeds[0], None)
    assert reason in bad.reason


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        ({}, {"loss_name": "mae", "loss_unit": "photon^(1/2)"}),
        ({}, {"loss_name": "2 deviance"}),
        ({}, {"loss_unit": "photon^(1/2)"}),
        ({"loss_name": None}, {"loss_name": None}),
        ({}, {"loss_name": None}),
    ],
)
def test_another_loss_is_never_a_pass(reference, candidate):
    (result,) = check_all(manifest(job(**reference)), manifest(job(loss=0.0, **candidate)))
    assert (result.passed, result.basis) == (False, "none")
    assert "only under the same name and unit" in result.reason


@pytest.mark.parametrize("trouble", [{"status": "failed"}, {"final_loss": None}, {"final_loss": float("inf")}])
def test_a_reference_that_is_no_validated_run_is_never_a_pass(trouble):
    (result,) = check_all(manifest(job(0), job(1, **trouble)), manifest(job(0), job(1)))
    assert not result.passed
    assert "not of a validated run: seed 1: its" in result.reason.replace("it has", "its")


def test_a_seed_twice_is_refused():
    (result,) = check_all(manifest(job(0)), manifest(job(0), job(0, 9.0)))
    assert "the candidate lists a seed twice" in result.reason


def test_all_shared_cells_are_checked_and_the_others_are_named():
    old = manifest(job(), job(view="sparse"), job(arm="baseline"), job(view="odd", status="skipped", final_loss=None))
    new = manifest(
        job(), job(arm="baseline", loss=0.7), job(dose="1e5"), job(view="odd", status="skipped", final_loss=None)
    )
    results = check_all(old, new)
    assert [(result.view, result.arm, result.passed) for result in results] == [
        ("dense", "pinn", True), ("dense", "baseline", False),
    ]  # fmt: skip
    left = unshared(old, new)
    assert left == [("1e4", "sparse", 2, "pinn"), ("1e5", "dense", 2, "pinn")]
    passed, text = verdict(results, left)
    assert not passed
    assert (
        "1 of 2 failed: dose 1e4, view dense, gridsize 2, baseline: fly, seed 0: 0.7 exceeds the limit 0.625001" in text
    )
    assert "so not checked: dose 1e4, view sparse, gridsize 2, pinn; dose 1e5" in text


def test_a_skip_that_was_expected_is_no_failure_but_a_new_one_is():
    skipped = manifest(job(status="skipped", final_loss=None))
    assert check_all(skipped, skipped) == []
    assert unshared(skipped, skipped) == []
    assert not check_all(manifest(job()), skipped)[0].passed
    assert unshared(skipped, manifest(job())) == [("1e4", "dense", 2, "pinn")]


def test_nothing_to_compare_is_no_pass():
    passed, text = verdict(check_all(manifest(job()), manifest(job(dose="1e5"))), [])
    assert not passed
    assert "share no training" in text


def test_an_empty_side_fails():
    jobs = read_jobs(manifest(job()), what="x")[("1e4", "dense", 2, "pinn")]
    cell = ("1e4", "dense", 2, "pinn")
    assert check_cell(cell, jobs, []).reason == "the candidate has no such training"
    assert check_cell(cell, [], jobs).reason == "the reference has no such training"


def test_doses_are_compared_in_canonical_form():
    (result,) = check_all(manifest(job(dose="10000")), manifest(job(dose="1.0E4")))
    assert (result.passed, result.dose) == (True, "1e4")
    (result,) = check_all(manifest(job(dose=None)), manifest(job(dose=None)))
    assert (result.passed, result.dose) == (True, None)


@pytest.mark.parametrize(
    "content",
    [[], {}, {"schema_version": 1}, {"schema_version": 2, "jobs": []}, {"schema_version": 1, "jobs": {}},
     manifest({"dose": "1e4"}), manifest(job(loss="0.5")), manifest(job(seed="0")), manifest(job(dose="many"))],
)  # fmt: skip
def test_what_is_no_training_manifest_is_refused_in_words(files, content):
    for pair in ((content, manifest(job())), (manifest(job()), content)):
        assert "is not a training manifest: " in refused(files(*pair))


@pytest.mark.parametrize("text", ["not JSON", '{"schema_version": 1, "jobs": [{"final_loss": NaN}]}'])
def test_what_is_not_strict_json_is_refused_in_words(files, text):
    assert "not strict JSON" in refused(files(manifest(job()), text))


def test_the_report_lies_beside_the_candidate_and_says_every_job_and_limit(files):
    paths = files(manifest(job(0, 0.5), job(1, 0.25)), manifest(job(0, 0.5), job(1, 0.5)))
    text = refused(paths, dose="1.0e4", view="Dense")
    assert "0.5 exceeds the limit 0.312501" in text
    report = report_of(paths)
    assert (report["passed"], report["promoted"], report["tolerance"]) == (False, False, 0.25)
    assert (report["dose"], report["view"], report["gridsize"], report["arm"]) == ("1e4", "dense", 2, None)
    (result,) = report["results"]
    rows = [(row["seed"], row["candidate"], row["reference"], row["passed"]) for row in result["checks"]]
    assert rows == [(0, 0.5, 0.5, True), (1, 0.5, 0.25, False)]
    assert [row["limit"] for row in result["checks"]] == pytest.approx([0.625001, 0.312501])
    assert set(report["reference"]) == {"name", "sha256"}


def test_a_report_of_a_loss_that_is_not_finite_is_strict_json(files):
    paths = files(manifest(job()), json.dumps(manifest(job(loss=7777.0))).replace("7777.0", "1e999"))
    assert "not finite" in refused(paths)
    assert report_of(paths)["results"][0]["checks"][0]["candidate"] is None


def test_arms_are_checked_together_or_one_by_name(files):
    paths = files(manifest(job(), job(arm="baseline")), manifest(job(), job(arm="baseline", loss=9.0)))
    assert "baseline: fly, seed 0: 9 exceeds" in refused(paths)
    assert "passed" in check_loss.run(**paths, **HERE, arm="pinn")
    assert report_of(paths, "check_loss_1e4_dense_gs2_pinn.json")["passed"]
    missing = files(manifest(job(), job(arm="baseline")), manifest(job()))
    assert "baseline: the candidate has no such training" in refused(missing)


@pytest.mark.parametrize("other", [{"dose": "1e5"}, {"view": "sparse"}, {"gridsize": 1}, {"arm": "baseline"}])
def test_a_training_that_is_not_there_is_said_with_those_that_are(files, other):
    """A reference of another dose never serves: it is as if there was none."""
    for pair in ((manifest(job(**other)), manifest(job())), (manifest(job()), manifest(job(**other)))):
        text = refused(files(*pair), arm="pinn")
        assert "has no training with dose 1e4, view dense, gridsize 2, pinn; it has dose" in text


def test_a_dose_that_is_none_is_bad_usage(files):
    with pytest.raises(UsageError, match="--dose: a dose is a number"):
        check_loss.run(**files(manifest(job()), manifest(job())), **{**HERE, "dose": "much"})


def test_scans_without_a_dose_are_named_unknown(files):
    paths = files(manifest(job(dose=None)), manifest(job(dose=None)))
    assert "passed" in check_loss.run(**paths, **{**HERE, "dose": "unknown"})
    assert report_of(paths, "check_loss_unknown_dense_gs2.json")["dose"] is None


def test_a_candidate_that_passes_is_promoted_byte_by_byte(files):
    paths = files(manifest(job()), manifest(job(loss=0.4)))
    assert "is the reference now" in check_loss.run(**paths, **HERE, promote=True)
    assert paths["reference"].read_bytes() == paths["candidate"].read_bytes()
    assert report_of(paths)["promoted"]
    assert sorted(path.name for path in paths["reference"].parent.iterdir()) == ["reference.json", "run"]


def test_a_candidate_that_fails_is_not_promoted(files):
    paths = files(manifest(job()), manifest(job(loss=0.7)))
    before = paths["reference"].read_bytes()
    refused(paths, promote=True)
    assert paths["reference"].read_bytes() == before
    assert not report_of(paths)["promoted"]


@pytest.mark.parametrize("others", [[job(dose="1e5", loss=0.7)], []], ids=["worse", "absent"])
def test_a_promotion_that_would_spoil_another_cell_of_the_reference_is_refused(files, others):
    paths = files(manifest(job(), job(dose="1e5")), manifest(job(), *others))
    before = paths["reference"].read_bytes()
    assert "passed" in check_loss.run(**paths, **HERE)
    assert "dose 1e5" in refused(paths, promote=True)
    assert paths["reference"].read_bytes() == before


def test_the_first_reference_is_a_promotion_of_a_run_that_succeeded(files):
    paths = files(None, manifest(job()))
    assert "--promote makes the candidate the first one" in refused(paths)
    check_loss.run(**paths, **HERE, promote=True)
    assert paths["reference"].read_bytes() == paths["candidate"].read_bytes()


@pytest.mark.parametrize("trouble", [{"status": "failed"}, {"final_loss": None}, {"loss_name": None}])
def test_a_run_that_failed_is_no_first_reference(files, trouble):
    paths = files(None, manifest(job(**trouble)))
    refused(paths, promote=True)
    assert not paths["reference"].exists()


@pytest.mark.parametrize("option", ["--tolerance", "--abs-tolerance"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_tolerance_that_is_no_number_is_a_usage_error(files, tmp_path, monkeypatch, capsys, option, value):
    paths = files(manifest(job()), manifest(job()))
    words = [f"--{name}={word}" for name, word in {**paths, **HERE}.items()]
    monkeypatch.setattr("sys.argv", ["ptychoflow", "check-loss", *words, option, value])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 64
    assert f"Invalid value for '{option}'" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["training_manifest.json"]


def test_the_command_prints_the_verdict_and_writes_the_report_that_was_named(files, tmp_path):
    paths = files(manifest(job()), manifest(job(loss=0.6)))
    words = [f"--{name}={value}" for name, value in {**paths, **HERE, "report": tmp_path / "a" / "own.json"}.items()]
    done = CliRunner().invoke(app, ["check-loss", *words])
    assert done.exit_code == 0
    assert "dose 1e4, view dense, gridsize 2, pinn: passed, by seed, deviance (1)" in done.stdout
    assert "fly seed 0: 0.6, reference 0.5, limit 0.625001" in done.stdout
    assert json.loads((tmp_path / "a" / "own.json").read_text())["passed"]
    done = CliRunner().invoke(app, ["check-loss", *words, "--tolerance", "0.1"])
    assert isinstance(done.exception, ContractError)
