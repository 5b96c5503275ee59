"""The dose x overlap study as a plan: constants, matrix, views, presets, base. Oracle: the figures of the study reference."""

import time

import pytest
from tests.plan_cases import REGISTRY, only, study, usage_error

from ptychoflow.study.plan import make_plan

DESIGN = study("fly64_dose_overlap")


def plan(**given):
    return make_plan(given, None, DESIGN, REGISTRY)


def cells(runs):
    return {(run["condition"], run["label"]) for run in runs}


def test_constants_are_those_of_the_study():
    """Study reference section 1; D69: the doses are the design's, D70: N, seeds and epochs reach every entry."""
    made = plan()
    assert {entry["config"]["n"] for entry in made.datasets} == {128}
    assert [entry["dose"] for entry in made.datasets] == ["1e3", "1e4", "1e5"]
    assert {entry["config"]["data_seed"] for entry in made.datasets} == {42}
    for view in made.views:
        config = view["config"]
        assert (config["split"], config["split_axis"], config["split_fraction"]) == ("region", "y", 0.5)
        assert (config["n_neighbors"], config["grouping_seed"], config["subsample_seed"]) == (7, 123, 456)
    spacing = {entry["id"]: entry["view"] for entry in made.conditions}
    found = {spacing[view["condition"]]: view["config"]["min_spacing_px"] for view in made.views}
    assert found == {"all": None, "dense": 38.4, "sparse": 102.4, "dense_equal": 38.4, "sparse_equal": 102.4}
    assert {run["evaluate"]["ms_ssim_sigma"] for run in made.runs} == {1.0}
    assert {run["config"]["lsqml"]["lsqml_epochs"] for run in made.runs if run["arm"] == "lsqml"} == {100}
    assert {run["config"]["train"]["epochs"] for run in made.runs if run["arm"] == "pinn"} == {50}


def test_spacing_follows_the_frames_of_the_data():
    """D70: S = (1 - f) N, so half the frame has half the spacing."""
    found = {view["config"]["min_spacing_px"] for view in plan(N=64, views="dense,sparse").views}
    assert found == {19.2, 51.2}


def test_the_full_matrix_crosses_everything():
    made = plan(views="all,dense,sparse", seeds="0,1")
    trained = [run for run in made.runs if run["kind"] == "train"]
    assert len(trained) == 3 * 3 * 2 * 2
    assert len(cells(trained)) == 3 * 3 * 2
    assert len(made.runs) - len(trained) == 3 * 3


def test_the_specified_matrix_is_nine_trainings():
    """Study 2.1: per dose the baseline with gridsize 1 on all frames, and gridsize 2 on each view."""
    made = plan(views="all,dense,sparse", seeds="0", matrix="specified")
    trained = [run for run in made.runs if run["kind"] == "train"]
    expected = {
        (f"fly64_d1e{power}_{view}", f"pinn_gs{gridsize}")
        for power in (3, 4, 5)
        for view, gridsize in (("all", 1), ("dense", 2), ("sparse", 2))
    }
    assert len(trained) == 9
    assert cells(trained) == expected
    assert sum(run["arm"] == "lsqml" for run in made.runs) == 9


def test_every_gridsize_of_a_view_reads_the_frames_of_the_largest():
    sizes = {(view["gridsize"], view["config"]["view_gridsize"]) for view in plan(views="dense").views}
    assert sizes == {(1, 2), (2, 2)}


def test_seeds_are_those_of_the_design_and_never_of_the_data():
    made = plan(seeds="3,5", views="dense", gridsizes="2", doses="1e4")
    assert sorted(run["seed"] for run in made.runs if run["arm"] == "pinn") == [3, 5]
    assert only(made.views)["config"]["data_seed"] == 42


def test_more_doses_and_views_leave_the_ids_of_the_others_as_they_are():
    """What -resume finds again: run ids and dataset entries of one dose are the same beside another."""
    one, two = plan(doses="1e4", views="dense"), plan(doses="1e4,1e5", views="dense,sparse")
    assert {run["run_id"] for run in one.runs} < {run["run_id"] for run in two.runs}
    assert all(entry in two.datasets for entry in one.datasets)
    assert all(entry in two.views for entry in one.views)


def test_a_preset_lies_between_the_study_and_what_is_given():
    tiny = plan(preset="tiny", epochs=5)
    train = next(run for run in tiny.runs if run["kind"] == "train")["config"]["train"]
    assert (train["epochs"], train["batch_size"]) == (5, DESIGN["presets"]["tiny"]["batch_size"])
    assert {entry["config"]["n"] for entry in tiny.datasets} == {64}
    assert "did you mean 'tiny'" in usage_error(plan, preset="tny")


def test_a_base_takes_the_place_of_the_stand_in():
    made = plan(base="recons/star.npz", views="s_img_025", doses="1e4", preset="tiny")
    dataset = only(made.datasets)
    assert (dataset["id"], dataset["file"]) == ("star_d1e4", "recons/star.npz")
    assert (dataset["config"]["kind"], dataset["config"]["probe"]) == ("base", "base")
    assert {view["config"]["s_img"] for view in made.views} == {0.25}
    assert "--size has no effect with --base" in usage_error(plan, base="star.npz", size=300)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_neighbors": 3}, "--n_neighbors 3 is less than the 4 members of a group"),
        ({"views": "dens"}, "unknown 'dens' (did you mean 'dense'?)"),
        ({"doses": "0"}, "a dose is between 1 and 1e14"),
        ({"doses": ""}, "doses"),
        ({"n_groups": 9, "min_spacing_px": 20}, "--n_groups and --min_spacing_px both choose groups"),
        ({"n_groups": 9, "views": "dense"}, "view 'dense' keeps a spacing, and --n_groups chooses groups too"),
        ({"n_subsample": 9, "views": "s_img_010"}, "view 's_img_010' keeps a share of the frames, and --n_subsample"),
    ],
)
def test_an_inconsistent_design_is_refused(given, message):
    assert message in usage_error(plan, **given)


@pytest.mark.parametrize("overlap", [1.0, -0.1])
def test_an_overlap_outside_its_range_is_refused(overlap):
    wrong = DESIGN | {"views": {"dense": {"overlap": overlap}}}
    assert "views.dense.overlap" in usage_error(make_plan, {}, None, wrong, REGISTRY)


def test_ten_thousand_runs_are_planned_in_ten_seconds():
    clock = time.process_time()
    made = plan(seeds=",".join(map(str, range(330))))
    assert len(made.runs) >= 9_900
    assert time.process_time() - clock < 10
