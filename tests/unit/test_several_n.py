"""Runs of several N in one condition: scored on the same pixels of the same objects, whatever frame each scan has.

Oracle: the drawn objects themselves. Two scans of one seed hold the same objects in different frames (the gap between objects is
N), so a rectangle is the right one when the true pixels in it are equal in both.
"""

import numpy as np
import pytest

from ptychoflow.commands import compare_condition, evaluate
from ptychoflow.commands.evaluate import scored_alike
from ptychoflow.commands.prepare import prepare
from ptychoflow.commands.simulate import simulate_scan
from ptychoflow.config import EvaluateConfig, PrepareConfig, SimulateConfig
from ptychoflow.data.storage import read_json, read_npz, save_recon, save_scan, save_view, write_json
from ptychoflow.errors import ContractError, UsageError
from ptychoflow.frames import Canvas, Region
from ptychoflow.imaging.regions import common_regions
from ptychoflow.records import Recon
from scan_files import made_from

SIZE = (71, 84)
SIDES = (16, 24)
CONDITION = {"id": "lines", "sides": [16, 24]}


def scan_of(n, **changes):
    options = {
        "kind": "lines",
        "n": n,
        "size": SIZE[0],
        "size_cols": SIZE[1],
        "n_objects": 2,
        "step_px": 3.0,
        "phase": "amplitude",
    }
    return simulate_scan(SimulateConfig(**{**options, **changes}), None)


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """Return scan, view and their files by N."""
    found = {}
    for n in SIDES:
        folder = tmp_path_factory.mktemp(f"n{n}")
        scan = scan_of(n)
        save_scan(folder / "scan.npz", scan)
        view = prepare(PrepareConfig(split="none"), scan, scan, heldout_column=None, same_scan=True)
        view = made_from(view, folder / "scan.npz")
        save_view(folder / "view.npz", view)
        found[n] = scan, view, folder / "scan.npz", folder / "view.npz"
    return found


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Drawing takes seconds, and its files are not looked at here."""
    monkeypatch.setattr("ptychoflow.commands.evaluate.amp_phase", lambda *_args, path, **_kwargs: path.touch())
    nothing = {"compare": "", "frc": None, "quality": None, "arms": {}, "errors": {}}
    monkeypatch.setattr("ptychoflow.commands.condition._pictures", lambda *_args, **_kwargs: nothing)


def inside(region, whole):
    return whole.r0 <= region.r0 < region.r1 <= whole.r1 and whole.c0 <= region.c0 < region.c1 <= whole.c1


def test_all_sides_score_the_same_pixels_of_every_object(sides):
    alike = {n: scored_alike(sides[n][1], [sides[m][1] for m in SIDES if m != n]) for n in SIDES}
    first, second = (alike[n].score_regions for n in SIDES)
    assert len(first) == 2
    assert first[1] != second[1]  # the second object lies elsewhere in the other frame
    for number in range(2):
        cuts = []
        for n, regions in ((SIDES[0], first), (SIDES[1], second)):
            region = regions[number]
            assert inside(region, sides[n][1].score_regions[number])
            cuts.append(sides[n][0].object[region.r0 : region.r1, region.c0 : region.c1])
        np.testing.assert_array_equal(*cuts)
        assert min(cuts[0].shape) > 30
        assert cuts[0].shape[0] != cuts[0].shape[1]


def test_a_condition_of_one_n_is_scored_as_ever(sides):
    view = sides[16][1]
    assert scored_alike(view, []) is view


def test_rectangles_are_compared_from_their_objects_first_pixel():
    own = [Region(3, 40, 5, 60), Region(3, 40, 105, 160)]
    other = [Region(10, 50, 2, 55), Region(0, 33, 131, 190)]
    found = common_regions(own, [[0, 0], [0, 100]], [(other, [[4, 0], [0, 130]])])
    # By hand: the other's first rectangle starts 4 rows later in its frame, the second one 30 columns.
    assert found == (Region(6, 40, 5, 55), Region(3, 33, 105, 160))


@pytest.mark.parametrize(
    ("other", "origins", "expected"),
    [
        ([Region(0, 9, 0, 9)], [[0, 0]], "must score the same objects"),
        ([Region(0, 9, 0, 9), Region(0, 3, 0, 90)], [[0, 0], [0, 0]], "score no common pixel of object 1"),
    ],
)
def test_scans_that_share_nothing_cannot_be_compared(other, origins, expected):
    with pytest.raises(ValueError, match=expected):
        common_regions([Region(0, 9, 0, 9), Region(3, 9, 0, 9)], [[0, 0], [0, 0]], [(other, origins)])


class Runs:
    """Reconstructions of both sides, scored by EVALUATE."""

    def __init__(self, folder, sides):
        self.folder, self.sides, self.files = folder, sides, {"recons": [], "metrics": [], "curves": []}

    def add(self, label, n, *, error=0.0, alike=True):
        """Score the truth of one side with an error that is the same for the same pixel of an object, whatever its frame."""
        scan, _, scan_path, view_path = self.sides[n]
        image = scan.object.copy()
        for r0, r1, c0, c1 in scan.metadata["objects"]:
            row, col = np.mgrid[0 : r1 - r0, 0 : c1 - c0]
            image[r0:r1, c0:c1] *= np.exp(error * np.sin(row / 5) * (1 + 1j * np.cos(col / 3)))
        run_id = f"lines__{label}__n{n}__s0"
        folder = self.folder / run_id
        folder.mkdir()
        canvas = Canvas((0, 0), image.shape)
        save_recon(
            folder / "recon.npz", Recon(image, np.ones(image.shape, np.float32), canvas, metadata={"run_id": run_id})
        )
        meta = {"run_id": run_id, "condition": "lines", "label": label, "arm": label, "gridsize": 1, "n": n, "seed": 0}
        evaluate.run(
            EvaluateConfig(), run_meta={**meta, "kind": "train", "supervised": False}, recon=folder / "recon.npz",
            test_scan=scan_path, view=view_path, patch_metrics=None, snapshots=None, out_dir=folder,
            other_views=[self.sides[m][3] for m in SIDES if m != n] if alike else [],
        )  # fmt: skip
        for kind, name in {"recons": "recon.npz", "metrics": "metrics.json", "curves": "frc.csv"}.items():
            self.files[kind].append(folder / name)
        return read_json(folder / "metrics.json")

    def compare(self, order=SIDES, **changes):
        out = self.folder / "out"
        out.mkdir(exist_ok=True)
        files = {"test_scans": [self.sides[n][2] for n in order], "views": [self.sides[n][3] for n in order]}
        compare_condition.run(**{"condition": CONDITION, **files, **self.files, "out_dir": out, **changes})
        return out


@pytest.fixture
def runs(tmp_path, sides):
    return Runs(tmp_path, sides)


def test_the_same_picture_has_the_same_scores_at_every_n(runs):
    small, large = (runs.add(f"a{n}", n, error=0.2) for n in SIDES)
    assert small["grid"] == large["grid"]
    for part in ("amp", "phase"):
        for metric in ("mae", "ssim"):
            one, other = (document["stitched"][part][metric]["value"] for document in (small, large))
            assert one == pytest.approx(other, rel=1e-6)  # float32 pictures; the same pixels otherwise
            assert one > 0


def test_runs_of_several_n_stand_in_one_table_on_one_grid(runs):
    runs.add("narrow", 16, error=0.1)
    runs.add("wide", 24, error=0.1)
    out = runs.compare(order=(24, 16))
    table = read_json(out / "metrics_by_model.json")
    assert {label: (entry["n"], entry["reference_shape"]) for label, entry in table.items()} == {
        "narrow": (16, table["narrow"]["reference_shape"]),
        "wide": (24, table["narrow"]["reference_shape"]),
    }
    arrays = read_npz(out / "reconstructions_aligned.npz")
    pictures = {name: np.array(array) for name, array in arrays.items() if np.iscomplexobj(array)}
    assert len({picture.shape for picture in pictures.values()}) == 1  # one grid for all of them
    # The condition is about N = 16, whatever order files come in: its truth and frame are the ones that are kept.
    truth = read_npz(out / "gt_recon.npz")["object"]
    np.testing.assert_array_equal(truth, runs.sides[16][0].object)


def test_scores_of_another_rectangle_are_refused(runs):
    runs.add("narrow", 16, alike=False)
    with pytest.raises(ContractError, match="was scored on a grid of"):
        runs.compare()


def test_scans_of_other_objects_are_refused(runs, tmp_path):
    scan = scan_of(24, data_seed=5)
    save_scan(tmp_path / "strange.npz", scan)
    view = prepare(PrepareConfig(split="none"), scan, scan, heldout_column=None, same_scan=True)
    save_view(tmp_path / "view.npz", made_from(view, tmp_path / "strange.npz"))
    scans, views = [runs.sides[16][2], tmp_path / "strange.npz"], [runs.sides[16][3], tmp_path / "view.npz"]
    with pytest.raises(ContractError, match="hold different objects"):
        runs.compare(test_scans=scans, views=views)


def test_every_n_comes_with_a_scan_and_a_view(runs):
    with pytest.raises(UsageError, match="--test-scan names 2 files, --view 1"):
        runs.compare(views=[runs.sides[16][3]])
    runs.add("wide", 24)
    document = read_json(runs.files["metrics"][0])
    write_json(runs.files["metrics"][0], {**document, "n": 32})
    with pytest.raises(ContractError, match=r"has N = 32, but the scans given have \[16, 24\]"):
        runs.compare()


def test_a_view_of_before_is_asked_for_again(sides):
    view = sides[16][1]
    old = type(view)(**{**view.__dict__, "metadata": {"split": {"kind": "none"}}})
    with pytest.raises(ContractError, match="make the views again with --from prepare"):
        scored_alike(view, [old])
