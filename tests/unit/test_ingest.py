"""What ingest accepts, and what it makes of it. Refusals are in test_validate.py; both go through the same door.

Oracles: frames made with plain numpy.fft (tests/scan_files.py), and the measured star of the shared data folder.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from ptychoflow.commands import ingest as command
from ptychoflow.config import IngestConfig
from ptychoflow.data.agreement import Model, amplitude_exponent, check_mapping, eight_mappings, evenly, windows_outside
from ptychoflow.data.formats import frame_flags
from ptychoflow.data.ingest import ingest_file, to_amplitude
from ptychoflow.data.storage import load_scan, read_npz
from ptychoflow.errors import ContractError
from scan_files import SHAPE, M, N, grid_lines_arrays, scan_arrays, tike_arrays, write

STAR = Path(__file__).parents[2].parent / "shared" / "data" / "siemens_star"


def said(notes: list[str], text: str) -> bool:
    return any(text in note for note in notes)


def test_contract_scan_comes_through_unchanged(tmp_path):
    arrays = scan_arrays()
    scan, notes = ingest_file(write(tmp_path, arrays), IngestConfig())
    assert isinstance(scan.amplitude, np.memmap)  # frames that are right already are not copied
    np.testing.assert_array_equal(scan.amplitude, arrays["diff3d"])
    np.testing.assert_array_equal(scan.positions_rc_px, np.stack([arrays["ycoords"], arrays["xcoords"]], axis=1))
    np.testing.assert_array_equal(scan.probe, arrays["probeGuess"])
    np.testing.assert_array_equal(scan.object, arrays["objectGuess"])
    assert scan.object_role == "reference"
    assert scan.metadata["source"] == "contract NPZ"
    assert scan.photons_per_intensity is None
    assert scan.positions_start_rc_px is None
    assert said(notes, "axis mapping confirmed")
    assert scan.metadata["ingest"]["mapping"]["contrast"]["identity"] > 0.999
    assert scan.metadata["ingest"]["transformations"] == notes


def test_both_key_names_load_alike_and_an_equal_pair_is_read_once(tmp_path):  # D7
    arrays = scan_arrays()
    one, _ = ingest_file(write(tmp_path, arrays, "a.npz"), IngestConfig())
    renamed = {"diffraction": arrays["diff3d"], **{k: v for k, v in arrays.items() if k != "diff3d"}}
    two, _ = ingest_file(write(tmp_path, renamed, "b.npz"), IngestConfig())
    both, notes = ingest_file(write(tmp_path, {**renamed, **arrays}, "c.npz"), IngestConfig())
    np.testing.assert_array_equal(one.amplitude, two.amplitude)
    np.testing.assert_array_equal(one.amplitude, both.amplitude)
    assert said(notes, "hold the same frames")


def test_frames_last_are_transposed_and_said(tmp_path):  # D3
    arrays = scan_arrays()
    last = {**arrays, "diff3d": np.ascontiguousarray(np.moveaxis(arrays["diff3d"], 0, 2))}
    for layout in ("auto", "HWN"):
        scan, notes = ingest_file(write(tmp_path, last), IngestConfig(layout=layout))
        np.testing.assert_array_equal(scan.amplitude, arrays["diff3d"])
        assert said(notes, "transposed to frames first")


def test_as_many_frames_as_pixels_need_a_layout(tmp_path):  # D3
    arrays = scan_arrays()
    cube = {k: v if k.endswith("Guess") else v[:N] for k, v in arrays.items()}
    first = write(tmp_path, cube, "first.npz")
    last = write(tmp_path, {**cube, "diff3d": np.ascontiguousarray(np.moveaxis(cube["diff3d"], 0, 2))}, "last.npz")
    with pytest.raises(ContractError, match="M equals N, so the frame axis cannot be told; state the layout"):
        ingest_file(first, IngestConfig())
    one, _ = ingest_file(first, IngestConfig(layout="NHW"))
    two, _ = ingest_file(last, IngestConfig(layout="HWN"))
    np.testing.assert_array_equal(one.amplitude, two.amplitude)


def test_a_last_axis_of_length_one_is_dropped(tmp_path):
    arrays = scan_arrays()
    scan, notes = ingest_file(write(tmp_path, {**arrays, "diff3d": arrays["diff3d"][..., None]}), IngestConfig())
    np.testing.assert_array_equal(scan.amplitude, arrays["diff3d"])
    assert said(notes, "dropped")


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.float64])
def test_stated_intensity_has_its_root_taken(tmp_path, dtype):  # D1
    arrays = scan_arrays()
    counts = np.round(arrays["diff3d"].astype(np.float64) ** 2).astype(dtype)
    scan, notes = ingest_file(write(tmp_path, {**arrays, "diff3d": counts}), IngestConfig(domain="intensity"))
    np.testing.assert_allclose(scan.amplitude.astype(np.float64) ** 2, counts, rtol=1e-6)  # float32 roots
    assert said(notes, "square root")
    assert scan.photons_per_intensity == 1.0
    assert scan.metadata["dose_measured_mean"] == pytest.approx(counts.sum(axis=(1, 2), dtype=np.float64).mean())
    metadata = json.dumps({"domain": "intensity"})
    stated, _ = ingest_file(write(tmp_path, {**arrays, "diff3d": counts, "metadata": metadata}), IngestConfig())
    np.testing.assert_array_equal(stated.amplitude, scan.amplitude)


def test_uint16_frames_are_squared_in_float64(tmp_path):  # D2: 300^2 wraps to 24464 in uint16
    arrays = {k: v for k, v in scan_arrays().items() if k != "objectGuess"}
    frames = np.full((M, N, N), 300, np.uint16)
    scan, notes = ingest_file(write(tmp_path, {**arrays, "diff3d": frames}), IngestConfig(domain="amplitude"))
    assert scan.metadata["mean_frame_energy"] == 90000 * N**2
    assert float(np.sum(scan.amplitude[0].astype(np.float64) ** 2)) == 90000 * N**2
    assert said(notes, "stated to be amplitude but are whole numbers up to 300")
    assert float(to_amplitude(frames, "intensity", corner=False)[0, 0, 0]) == pytest.approx(300**0.5, rel=1e-7)


def test_roots_of_counts_are_recognised_as_photons(tmp_path):
    arrays = scan_arrays()
    roots = np.sqrt(np.random.default_rng(1).poisson(arrays["diff3d"].astype(np.float64) ** 2)).astype(np.float32)
    scan, notes = ingest_file(write(tmp_path, {**arrays, "diff3d": roots}), IngestConfig())
    assert scan.photons_per_intensity == 1.0
    assert said(notes, "taken as photon counts")


def test_extra_masks_survive_and_labels_are_never_made_up(tmp_path):  # D4
    arrays = {**scan_arrays(), "heldout": np.arange(M) % 5 == 0, "fly": np.arange(M), "note": np.arange(3.0)}
    path = write(tmp_path, arrays)
    _, notes = ingest_file(path, IngestConfig())
    assert said(notes, "no labels 'Y'")
    assert said(notes, "not read: note")
    assert set(frame_flags(path, M)) == {"heldout", "fly"}
    labelled, notes = ingest_file(write(tmp_path, {**arrays, "Y": np.ones((M, N, N), complex)}), IngestConfig())
    assert said(notes, "labels 'Y' are in the file but not used")
    assert labelled.n_frames == M


def test_start_positions_stay_distinct(tmp_path):  # D7, D20
    arrays = scan_arrays()
    nominal = {"xcoords_start": arrays["xcoords"] + 0.5, "ycoords_start": arrays["ycoords"] - 0.25}
    scan, _ = ingest_file(write(tmp_path, {**arrays, **nominal}), IngestConfig())
    np.testing.assert_array_equal(scan.positions_start_rc_px - scan.positions_rc_px, np.tile([-0.25, 0.5], (M, 1)))


def test_a_legacy_metadata_pickle_is_skipped_and_said(tmp_path):  # D5
    arrays = {**scan_arrays(), "_metadata": np.array('{"n": 3}', dtype=object)}
    scan, notes = ingest_file(write(tmp_path, arrays), IngestConfig())
    assert said(notes, "'_metadata' is a pickle: skipped")
    assert scan.n_frames == M


def test_a_probe_in_another_unit_is_said_and_left(tmp_path):  # D25
    """Scaling it by the object would carry the object into arms that must not see it; only grid-lines files are scaled."""
    arrays = scan_arrays()
    scan, notes = ingest_file(write(tmp_path, {**arrays, "probeGuess": arrays["probeGuess"] / 2.723}), IngestConfig())
    np.testing.assert_allclose(scan.probe, arrays["probeGuess"] / 2.723, rtol=1e-6)
    assert said(notes, "the probe is left as it is")


def test_a_list_of_held_out_frames_survives(tmp_path):
    path = write(tmp_path, {**scan_arrays(), "held": np.array([3, 9]), "other": np.array([3, M])})
    command.run(IngestConfig(), dataset_id="s", scan=path, out_dir=tmp_path / "out")
    kept = read_npz(tmp_path / "out" / "scan.npz")
    assert kept["held"].tolist() == [3, 9]
    assert "other" not in kept


@pytest.mark.parametrize("corners", [False, True])
def test_grid_lines_positions_are_told_by_the_frames(tmp_path, corners):  # D18, physics 2.6
    arrays = scan_arrays()
    scan, notes = ingest_file(write(tmp_path, grid_lines_arrays(corners=corners, scale=3.0)), IngestConfig())
    np.testing.assert_array_equal(scan.positions_rc_px, np.stack([arrays["ycoords"], arrays["xcoords"]], axis=1))
    assert said(notes, f"positions read as {'first pixels' if corners else 'patch centres'}")
    np.testing.assert_allclose(scan.probe, arrays["probeGuess"], rtol=1e-5)  # scaled back by the energy ratio
    assert scan.object_role == "truth"
    assert scan.metadata["source"] == "grid-lines NPZ"
    assert scan.metadata["norm_Y_I"] == 4.2


def test_grid_lines_use_the_simulated_probe(tmp_path):  # D25
    arrays = grid_lines_arrays(scale=2.723)
    arrays["probe_simulated"] = scan_arrays()["probeGuess"]
    scan, notes = ingest_file(write(tmp_path, arrays), IngestConfig())
    np.testing.assert_array_equal(scan.probe, arrays["probe_simulated"])
    assert said(notes, "the probe is 'probe_simulated'")


def test_a_clipped_truth_is_no_object(tmp_path):  # D43
    arrays = {k: v for k, v in grid_lines_arrays().items() if k != "YY_full"}
    scan, notes = ingest_file(write(tmp_path, arrays), IngestConfig())
    assert scan.object is None
    assert scan.object_role is None
    assert said(notes, "'YY_ground_truth' is clipped")
    assert said(notes, "nothing can confirm it")


def test_tike_counts_become_centred_amplitude(tmp_path):
    arrays = scan_arrays()
    scan, notes = ingest_file(write(tmp_path, tike_arrays()), IngestConfig())
    np.testing.assert_allclose(scan.amplitude, np.sqrt(np.round(arrays["diff3d"].astype(float) ** 2)), rtol=1e-6)
    np.testing.assert_array_equal(scan.positions_rc_px, np.stack([arrays["ycoords"], arrays["xcoords"]], axis=1))
    np.testing.assert_array_equal(scan.probe, arrays["probeGuess"])
    assert said(notes, "the first mode is read, 1 more left out")
    assert said(notes, "square root")
    assert said(notes, "zero frequency moved")
    assert scan.photons_per_intensity == 1.0
    assert scan.metadata["source"] == "tike NPZ"


def test_the_command_writes_a_scan_that_goes_through_again(tmp_path):
    arrays = {**scan_arrays(), "heldout": np.arange(M) % 5 == 0}
    given = write(tmp_path, arrays)
    for out in ("one", "two"):
        command.run(IngestConfig(), dataset_id="toy", scan=given, out_dir=tmp_path / out)
    assert (tmp_path / "one/scan.npz").read_bytes() == (tmp_path / "two/scan.npz").read_bytes()
    assert (tmp_path / "one/preview.png").stat().st_size > 1000
    manifest = json.loads((tmp_path / "one/manifest.json").read_text())
    assert manifest["facts"]["mapping"]["decided"] is True
    assert str(tmp_path) not in json.dumps(manifest)
    scan = load_scan(tmp_path / "one/scan.npz")
    np.testing.assert_array_equal(scan.amplitude, arrays["diff3d"])
    assert scan.metadata["dataset"] == "toy"
    np.testing.assert_array_equal(read_npz(tmp_path / "one/scan.npz")["heldout"], arrays["heldout"])
    again, _ = ingest_file(tmp_path / "one/scan.npz", IngestConfig())
    assert again.metadata["source"] == "contract NPZ"


def test_a_refused_scan_leaves_nothing_behind(tmp_path):
    given = write(tmp_path, {k: v for k, v in scan_arrays().items() if k != "xcoords"})
    with pytest.raises(ContractError):
        command.run(IngestConfig(), dataset_id="toy", scan=given, out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_mappings_are_a_group_and_their_recipes_say_what_they_do():
    points = np.array([[3.0, 50.0], [20.5, 7.25]])
    mapped = {mapping.name: mapping.apply(points) for mapping in eight_mappings(SHAPE)}
    assert len({array.tobytes() for array in mapped.values()}) == 8
    np.testing.assert_array_equal(mapped["x flipped"], [[3, 32], [20.5, 74.75]])  # 82 - col
    np.testing.assert_array_equal(mapped["y flipped"], [[57, 50], [39.5, 7.25]])  # 60 - row
    np.testing.assert_array_equal(mapped["x and y swapped"], [[50, 3], [7.25, 20.5]])
    for mapping in eight_mappings(SHAPE):
        assignments = dict(part.split(" = ") for part in mapping.recipe.replace("new ", "").split(", "))
        names = {"ycoords": points[:, 0], "xcoords": points[:, 1]}
        new = np.stack([eval(assignments[key], {}, names) for key in ("ycoords", "xcoords")], axis=1)
        np.testing.assert_array_equal(new, mapping.apply(points))


@pytest.mark.parametrize("wrong", range(1, 8))
@pytest.mark.parametrize("moved", [(0, 0), (5, -3)])
def test_a_wrong_mapping_is_refused_with_the_conversion_that_repairs_it(tmp_path, wrong, moved):
    arrays = scan_arrays()
    mapping = eight_mappings(SHAPE)[wrong]
    right = np.stack([arrays["ycoords"], arrays["xcoords"]], axis=1)
    file = mapping.apply(right) + moved
    path = write(tmp_path, {**arrays, "ycoords": file[:, 0], "xcoords": file[:, 1]})
    with pytest.raises(ContractError, match="positions do not fit the object") as refusal:
        ingest_file(path, IngestConfig())
    assert refusal.value.exit_code == 65
    text = str(refusal.value)
    assignments = dict(part.split(" = ") for part in text.split("convert with new ")[1].replace("new ", "").split(", "))
    names = {"ycoords": file[:, 0], "xcoords": file[:, 1]}
    repaired = {key: eval(assignments[key], {}, names) for key in ("ycoords", "xcoords")}
    np.testing.assert_array_equal(np.stack([repaired["ycoords"], repaired["xcoords"]], axis=1), right)
    scan, _ = ingest_file(write(tmp_path, {**arrays, **repaired}), IngestConfig())
    np.testing.assert_array_equal(scan.positions_rc_px, right)


def test_corners_in_place_of_centres_are_refused(tmp_path):
    arrays = scan_arrays()
    corners = {key: arrays[key] - N // 2 for key in ("xcoords", "ycoords")}
    with pytest.raises(ContractError, match=r"new ycoords = ycoords \+ 8, new xcoords = xcoords \+ 8"):
        ingest_file(write(tmp_path, {**arrays, **corners}), IngestConfig())


def test_an_undecidable_mapping_is_a_warning_for_a_reference_and_a_refusal_for_a_truth(tmp_path):
    arrays = {**scan_arrays(), "objectGuess": scan_arrays(seed=9)["objectGuess"]}
    scan, notes = ingest_file(write(tmp_path, arrays), IngestConfig(photons_per_intensity=1.0))
    assert said(notes, "warning: axis mapping not decidable")
    assert scan.metadata["ingest"]["mapping"]["decided"] is False
    truth = {**arrays, "metadata": json.dumps({"object_role": "truth", "photons_per_intensity": 1.0})}
    with pytest.raises(ContractError, match="the true object does not reproduce the frames"):
        ingest_file(write(tmp_path, truth), IngestConfig())
    off, notes = ingest_file(write(tmp_path, truth), IngestConfig(check_mapping=False))
    assert said(notes, "switched off")
    assert off.object_role == "truth"


def test_a_mapping_must_win_clearly_to_be_right():
    """Frames that two mappings explain about alike, as those of a symmetric object, leave the file's own one in place."""
    arrays = scan_arrays()
    positions = np.stack([arrays["ycoords"], arrays["xcoords"]], axis=1)
    model = Model(arrays["diff3d"], positions, arrays["probeGuess"], arrays["objectGuess"])
    identity, flipped = (model.predict(mapping) for mapping in eight_mappings(SHAPE)[:2])
    for share, wins in ((0.52, False), (0.9, True)):
        measured = (1 - share) * identity + share * flipped
        check = check_mapping(Model(measured, positions, arrays["probeGuess"], arrays["objectGuess"]))
        assert check.contrast["x flipped"] > check.contrast["identity"]
        assert (check.right is not None) == wins


@pytest.mark.parametrize(("power", "expected"), [(1, 1.0), (2, 1.9), (0.5, 0.5)])
def test_the_exponent_tells_amplitude_from_intensity(power, expected):
    """With few pixels the mean over frames bends the power of 2 a little; the measured star gives 0.97, 1.90 and 0.49."""
    frames = scan_arrays()["diff3d"]
    assert amplitude_exponent((3 * frames**power).astype(np.float32), frames) == pytest.approx(expected, abs=0.05)


def test_windows_and_even_choice():
    positions = np.array([[8.0, 8.0], [7.9, 8.0], [52.0, 74.0], [52.1, 74.0], [30.0, 75.0]])
    np.testing.assert_array_equal(windows_outside(positions, N, SHAPE), [False, True, False, True, True])
    np.testing.assert_array_equal(evenly(5, 9), np.arange(5))
    assert len(evenly(1000, 128)) == 128


@pytest.mark.skipif(not STAR.is_dir(), reason="the measured star is not here: needs ../shared/data/siemens_star")
@pytest.mark.parametrize("n", [64, pytest.param(128, marks=pytest.mark.slow)])
def test_the_measured_star_passes_one_mapping_of_eight(tmp_path, n):
    """The README beside the data gives 0.884 and 0.916 for the right mapping, at most 0.04 for the wrong ones."""
    with np.load(STAR / f"siemens_star_N{n}.npz") as file:
        arrays = {key: file[key] for key in ("diff3d", "xcoords", "ycoords", "probeGuess", "objectGuess")}
    keep = evenly(len(arrays["diff3d"]), 48)
    arrays.update({key: arrays[key][keep] for key in ("diff3d", "xcoords", "ycoords")})
    right = np.stack([arrays["ycoords"], arrays["xcoords"]], axis=1)
    inverse = {name: name for name in (mapping.name for mapping in eight_mappings((1, 1)))}
    turned = ("x and y swapped, then x flipped", "x and y swapped, then y flipped")  # quarter turns undo each other
    inverse.update(dict(zip(turned, turned[::-1], strict=True)))
    for mapping in eight_mappings(arrays["objectGuess"].shape):
        file_positions = mapping.apply(right)
        path = write(tmp_path, {**arrays, "ycoords": file_positions[:, 0], "xcoords": file_positions[:, 1]})
        if mapping.name == "identity":
            scan, _ = ingest_file(path, IngestConfig())
            contrast = scan.metadata["ingest"]["mapping"]["contrast"]
            assert contrast.pop("identity") > 0.87
            assert max(contrast.values()) < 0.1
            continue
        with pytest.raises(ContractError, match="positions do not fit the object") as refusal:
            ingest_file(path, IngestConfig())
        assert f"with '{inverse[mapping.name]}' it is 0." in str(refusal.value)
        assert refusal.value.exit_code == 65
