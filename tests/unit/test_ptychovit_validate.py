"""The validator of pairs: every row of the violation table that files can show, all at once, and the records of the pin."""

import hashlib
import subprocess

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptychoflow.arms.ptychovit import contract
from ptychoflow.arms.ptychovit.contract import PIN, loader_centres_rc_px, origin_px, stored_offsets_m, violation
from ptychoflow.arms.ptychovit.validate import (
    check_leak,
    check_split,
    filled,
    measure_patterns,
    validate_folder,
    validate_pair,
)
from ptychoflow.errors import ContractError

N = 256
H, W = 301, 347
"""Object of the pairs here: odd, not square."""
PIXEL = 2.1e-8

TABLE = """E PAIR KEY DP AMP DC OBJ PROBE ATTR POSLEN POSNAN POSDEG FRAME NORM SPLIT LEAK REPO PIN CFG CKPT CKPTARCH RESUME FINETUNE
STALE ENV
R NORMFALL EXIT TIMEOUT ARTIFACT NAN COUNT FLAT STITCH
W SCALE HOLES SAT"""


def rint_origin(length):
    """The loader's origin as the page has it, with NumPy's own rounding of halves to even."""
    return np.rint(length / 2) + 0.5


def a_pair():
    """Arrays and attributes of a valid pair: object ~ 1, a Gaussian probe, patterns of its unnormalised FFT."""
    rng = np.random.default_rng(5)
    axis = np.arange(N) - 128.0
    probe = 3 * np.exp(-(axis[:, None] ** 2 / 900 + axis**2 / 500)) * np.exp(1e-3j * (axis[:, None] ** 2 - axis))
    image = 1 + 0.2 * rng.normal(size=(H, W)) * np.exp(0.4j * rng.normal(size=(H, W)))
    # A gapless raster of 2 x 3, and two points inside it that may go without a trace.
    rows, cols = [1.25, 43.75], [2.5, 45.0, 88.25]
    corners = np.array([[row, col] for row in rows for col in cols] + [[20.0, 60.25], [31.5, 17.0]])
    first = np.floor(corners).astype(int)
    patches = [image[r : r + N, c : c + N] for r, c in first]
    dp = np.abs(np.fft.fftshift(np.fft.fft2(probe * patches), axes=(1, 2))) ** 2
    return {
        "dp": dp.astype(np.float32),
        "object": image[None].astype(np.complex64),
        "probe": probe[None, None].astype(np.complex64),
        "probe_position_y_m": (corners[:, 0] + 127.5 - rint_origin(H)) * PIXEL,
        "probe_position_x_m": (corners[:, 1] + 127.5 - rint_origin(W)) * PIXEL,
        "attrs": {
            f"{name}.{key}": PIXEL for name in ("object", "probe") for key in ("pixel_height_m", "pixel_width_m")
        },
    }


PAIR = a_pair()


def write(folder, pair, name="star", suffix=".hdf5"):
    folder.mkdir(parents=True, exist_ok=True)
    dp, para = folder / f"{name}_dp{suffix}", folder / f"{name}_para{suffix}"
    with h5py.File(dp, "w") as one, h5py.File(para, "w") as other:
        for key, value in pair.items():
            if key != "attrs":
                (one if key == "dp" else other)[key] = value
        for key, value in pair["attrs"].items():
            dataset, attribute = key.split(".")
            if dataset in other:
                other[dataset].attrs[attribute] = value
    return dp


def changed(**arrays):
    return {**PAIR, **arrays}


def without(*keys):
    return {key: value for key, value in PAIR.items() if key not in keys}


def at(key, index, value):
    array = PAIR[key].copy()
    array[index] = value
    return {**PAIR, key: array}


def attrs(**values):
    kept = {key: value for key, value in {**PAIR["attrs"], **values}.items() if value is not None}
    return {**PAIR, "attrs": kept}


def moved(axis, px):
    key = f"probe_position_{axis}_m"
    return {**PAIR, key: PAIR[key] + px * PIXEL}


Y, X = "probe_position_y_m", "probe_position_x_m"


BROKEN = {
    "one dataset missing": (without("probe"), "KEY", "star_para.hdf5 lacks ['probe']"),
    "several missing": (without("object", X), "KEY", "lacks ['object', 'probe_position_x_m']"),
    "no patterns": (without("dp"), "KEY", "star_dp.hdf5 lacks ['dp']"),
    "rank": (changed(dp=PAIR["dp"][:, None]), "DP", "got (8, 1, 256, 256) float32"),
    "empty": (changed(dp=PAIR["dp"][:0], **{Y: PAIR[Y][:0], X: PAIR[X][:0]}), "DP", "got (0, 256, 256)"),
    "complex": (changed(dp=PAIR["dp"].astype(complex)), "DP", "complex128"),
    "side": (changed(dp=PAIR["dp"][:, 64:-64, 64:-64]), "DP", "must have shape (N, 256, 256), got (8, 128, 128)"),
    "nan": (at("dp", (3, 4, 5), np.nan), "DP", "is not finite, first in pattern 3"),
    "negative": (at("dp", (2, 4, 5), -1e-3), "DP", "is negative, first in pattern 2"),
    "dark": (at("dp", 4, 0), "DP", "is zero everywhere, first in pattern 4"),
    "amplitude": (changed(dp=np.sqrt(PAIR["dp"])), "AMP", "dp holds amplitudes"),
    "zero frequency": (changed(dp=np.fft.ifftshift(PAIR["dp"], axes=(1, 2))), "DC", "four 32-px corners"),
    "object rank": (changed(object=PAIR["object"][0]), "OBJ", "got (301, 347) complex64"),
    "object slices": (changed(object=np.repeat(PAIR["object"], 2, axis=0)), "OBJ", "got (2, 301, 347)"),
    "object real": (changed(object=np.abs(PAIR["object"])), "OBJ", "float32"),
    "object nan": (at("object", (0, 300, 346), np.nan), "OBJ", "has 1 values that are not finite"),
    "probe rank": (changed(probe=PAIR["probe"][0]), "PROBE", "axis 0 is OPR, axis 1 the incoherent modes"),
    "probe real": (changed(probe=np.abs(PAIR["probe"])), "PROBE", "must be complex"),
    "probe side": (changed(probe=PAIR["probe"][..., 1:]), "PROBE", "got (1, 1, 256, 255)"),
    "OPR modes": (changed(probe=np.repeat(PAIR["probe"], 2, axis=0)), "PROBE", "got (2, 1, 256, 256)"),
    "modes": (changed(probe=np.repeat(PAIR["probe"] / 3, 9, axis=1)), "PROBE", "has 9 modes, at most 8"),
    "no probe": (changed(probe=PAIR["probe"] * 0), "PROBE", "zero everywhere"),
    "probe nan": (at("probe", (0, 0, 1, 2), np.inf), "PROBE", "not finite"),
    "orthonormal probe": (changed(probe=PAIR["probe"] * 256), "SCALE", "to be divided by 256"),
    "weak probe": (changed(probe=PAIR["probe"] / 5), "SCALE", "multiply the probe by sqrt(R) = 5."),
    "attribute missing": (attrs(**{"probe.pixel_width_m": None}), "ATTR", "probe.pixel_width_m = missing"),
    "attribute zero": (attrs(**{"probe.pixel_width_m": 0.0}), "ATTR", "probe.pixel_width_m = 0.0"),
    "attribute text": (attrs(**{"object.pixel_width_m": "1 nm"}), "ATTR", "object.pixel_width_m = 1 nm"),
    "not square": (attrs(**{"object.pixel_width_m": 3e-8}), "ATTR", "object.pixel_width_m = 3e-08"),
    "short": (changed(**{X: PAIR[X][:-1]}), "POSLEN", "y (8,), x (7,), patterns 8"),
    "fewer than patterns": (changed(**{X: PAIR[X][:-1], Y: PAIR[Y][:-1]}), "POSLEN", "y (7,), x (7,), patterns 8"),
    "column": (changed(**{X: PAIR[X][:, None], Y: PAIR[Y][:, None]}), "POSLEN", "y (8, 1)"),
    "position nan": (at(X, 6, np.nan), "POSNAN", "position x is not finite at index 6"),
    "constant": (changed(**{Y: np.full(8, -1e-8)}), "POSDEG", "position y is constant, -1e-08 m for 8 patterns"),
    "above": (moved("y", -2.5), "FRAME", "cover rows -1.2 to 297.2"),
    "right": (moved("x", 5.0), "FRAME", "columns 7.5 to 349.2 of an object of 301 x 347 px; probable frame: unknown"),
    "absolute": (changed(**{Y: PAIR[Y] + 150.5 * PIXEL, X: PAIR[X] + 174.5 * PIXEL}), "FRAME", "absolute, not centred"),
    "holes": (at(X, 1, PAIR[X][1] + 30 * PIXEL), "HOLES", "footprint of 64 px"),
}


@pytest.mark.parametrize(("pair", "code", "said"), BROKEN.values(), ids=BROKEN)
def test_each_fault_has_its_own_row(tmp_path, pair, code, said):
    """Oracle: the violation table (reference, section 14): the code, its kind, what the message must name, and nothing else."""
    (found,) = validate_pair(write(tmp_path, pair))
    assert (found.code, found.kind) == (f"PV-{code}", "W" if code in ("SCALE", "HOLES") else "E")
    assert said in found.message
    assert found == violation(found.code, found.message)


def test_the_facts_of_patterns_are_those_of_the_whole_stack():
    """Oracle: NumPy over the whole stack, with faults in the second and third block of frames."""
    stack = np.random.default_rng(1).random((19, 5, 7)).astype(np.float32)
    stack[10, 2, 3], stack[17, 0, 0], stack[12] = np.nan, -1, 0
    facts = measure_patterns(stack)
    assert facts.first_bad == {"not finite": 10, "negative": 17, "zero everywhere": 12}
    clean = np.where(stack > 0, stack, 0).astype(np.float64)
    np.testing.assert_allclose(facts.mean, clean.mean(axis=0), rtol=1e-12)
    assert facts.mean_sum == pytest.approx(clean.sum() / 19, rel=1e-12)
    assert facts.mean_square_sum == pytest.approx((clean**2).sum() / 19, rel=1e-12)


def test_a_good_pair_has_no_fault(tmp_path):
    assert validate_pair(write(tmp_path, PAIR)) == []
    assert validate_pair(write(tmp_path, moved("y", -2.2))) == []  # less than a pixel off the object
    assert validate_folder(tmp_path) == []


def test_all_faults_come_at_once(tmp_path):
    """Oracle: one fault of each kind put into one pair."""
    broken = attrs(**{"probe.pixel_width_m": -1.0})
    broken |= {
        "dp": np.fft.ifftshift(PAIR["dp"], axes=(1, 2)),
        "object": PAIR["object"].real,
        "probe": PAIR["probe"] * 256,
    }
    broken |= {Y: np.full(8, np.inf), X: PAIR[X] * 3}
    broken["dp"][1, 0, 0] = np.nan
    found = validate_pair(write(tmp_path, broken), training=True, requested_n=128)
    codes = ["DP", "DP", "OBJ", "ATTR", "DC", "SCALE", "POSNAN"]
    assert [one.code for one in found] == [f"PV-{code}" for code in codes]
    assert {one.kind for one in found} == {"E"}
    assert "N = 128 was asked for" in found[0].message
    with pytest.raises(ContractError, match="7 problems"):
        contract.refuse_violations(found, what="pair star")


def test_a_pair_is_two_files_of_two_names(tmp_path):
    """Oracle: row PV-PAIR: both expected paths are named; what is there is checked all the same."""
    dp = write(tmp_path / "alone", at(X, 6, np.nan))
    dp.with_name("star_para.hdf5").rename(tmp_path / "para")
    (found,) = validate_folder(tmp_path / "alone")
    assert found.code == "PV-PAIR"
    assert "star_dp.hdf5 and star_para.hdf5 must lie in one folder" in found.message
    dp.unlink()
    (tmp_path / "para").rename(tmp_path / "alone" / "star_para.hdf5")
    assert [one.code for one in validate_folder(tmp_path / "alone")] == ["PV-PAIR", "PV-POSNAN"]

    write(tmp_path / "h5", PAIR, suffix=".h5")
    assert [one.code for one in validate_folder(tmp_path / "h5")] == ["PV-PAIR", "PV-PAIR"]
    write(tmp_path / "cut", PAIR).write_bytes(b"half a file")
    assert "Unable to" in validate_folder(tmp_path / "cut")[0].message
    write(tmp_path / "more", PAIR)
    write(tmp_path / "more", at("dp", 1, 0), name="cell")
    with h5py.File(tmp_path / "more" / "other.hdf5", "w"):
        pass
    assert [(one.code, one.message[:5]) for one in validate_folder(tmp_path / "more")] == [
        ("PV-DP", "cell_"), ("PV-PAIR", "other"), ("PV-PAIR", "other"),
    ]  # fmt: skip
    (tmp_path / "none").mkdir()
    assert "holds no pair" in validate_folder(tmp_path / "none")[0].message


def test_a_wrong_probe_scale_refuses_a_training(tmp_path):
    """Oracle: row PV-SCALE, a warning that becomes an error when training."""
    dp = write(tmp_path, changed(probe=PAIR["probe"] * 256))
    assert [(one.code, one.kind) for one in validate_pair(dp, training=True)] == [("PV-SCALE", "E")]


def test_metres_beside_a_pixel_size_of_one_are_constant(tmp_path):
    """Closed form: the scan then spans some 1e-6 px."""
    pair = {**PAIR, "attrs": dict.fromkeys(PAIR["attrs"], 1.0)}
    assert [one.code for one in validate_pair(write(tmp_path, pair))] == ["PV-POSDEG", "PV-POSDEG"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(256, 321), st.integers(256, 321)),
    corner=st.tuples(st.floats(-30, 70), st.floats(-30, 70)),
    pixel=st.sampled_from([1.0, 2e-8, 3.7e-9]),
)
def test_a_footprint_is_refused_exactly_when_it_leaves_the_object(tmp_path, shape, corner, pixel):
    """Property: by top-left corners, as the page states the rule; one more pixel on each side is allowed."""
    corners = np.array([corner, np.add(corner, 0.01)])
    origin = np.array([rint_origin(length) for length in shape])
    offsets = (corners + 127.5 - origin) * pixel
    pair = {
        **PAIR, "dp": PAIR["dp"][:2], Y: offsets[:, 0], X: offsets[:, 1],
        "object": np.ones((1, *shape), dtype=np.complex64), "attrs": dict.fromkeys(PAIR["attrs"], pixel),
    }  # fmt: skip
    beyond = max(-corners.min(), (corners + 256 - shape).max())
    found = validate_pair(write(tmp_path, pair))
    assert [one.code for one in found] == ["PV-FRAME"] * bool(beyond > 1)


@pytest.mark.parametrize(
    ("length", "corner", "side", "pixel", "stored"),
    [(550, 147, 256, 1.0, -1), (393, 10, 256, 1.0, -59), (395, 10, 256, 1.0, -61), (392, 12.25, 256, 2e-8, -1.135e-6)],
)
def test_golden_positions(length, corner, side, pixel, stored):
    """Oracle: the golden values of the reference, section 4; our centre is the corner plus 128, as frames.py says."""
    centres = np.array([[corner + 128.0, 7.0]])
    got = stored_offsets_m(centres, shape=(length, 300), n=side, pixel_size_m=pixel)
    assert got[0, 0] == pytest.approx(stored, rel=1e-12)
    assert [origin_px(n) for n in (392, 393, 395, 257)] == [196.5, 196.5, 198.5, 128.5]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(3, 2000), st.integers(3, 2000), st.integers(2, 300), st.floats(1e-10, 1.0),
    st.tuples(st.floats(-500, 2500), st.floats(-500, 2500)),
)  # fmt: skip
def test_positions_come_back_through_the_loader(height, width, n, pixel, centre):
    """Property: the loader's top-left, p - (h - 1) / 2, is our centre minus N // 2, whatever the parities."""
    stored = stored_offsets_m(np.array([centre]), shape=(height, width), n=n, pixel_size_m=pixel)
    middle = stored / pixel + [rint_origin(height), rint_origin(width)]
    np.testing.assert_allclose(middle - (n - 1) / 2, [np.subtract(centre, n // 2)], atol=1e-6)
    np.testing.assert_allclose(
        loader_centres_rc_px(stored, shape=(height, width), pixel_size_m=pixel), middle, atol=1e-9
    )


def test_filled_counts_the_footprints():
    """Oracle: a loop over the footprints, as the page gives them: floor(t) + 96 to floor(t) + 159."""
    corners = np.random.default_rng(0).uniform(-20, 90, (11, 2))
    expected = np.zeros((300, 320), dtype=int)
    for row, col in np.floor(corners).astype(int):
        expected[row + 96 : row + 160, col + 96 : col + 160] += 1
    rows, cols = (np.flatnonzero(expected.any(axis=axis)) for axis in (1, 0))
    np.testing.assert_array_equal(filled(corners), expected[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.floats(0, 1))
def test_a_split_leaves_neither_part_empty(n_patterns, share):
    """Property: row PV-SPLIT, int(N x train_split) neither 0 nor N."""
    assert bool(check_split(n_patterns, share)) == (int(n_patterns * share) in (0, n_patterns))


def test_training_must_not_see_the_test_pair(tmp_path):
    """Oracle: row PV-LEAK: by place, and by content under another name."""
    test = write(tmp_path / "test", PAIR)
    write(tmp_path / "train", at("dp", (0, 0, 0), 1), name="other")
    assert check_leak(tmp_path / "train", test) == []
    write(tmp_path / "train", PAIR, name="copy")
    assert [one.message for one in check_leak(tmp_path / "train", test)] == [
        "copy_dp.hdf5 in the train folder has the same patterns as star_dp.hdf5"
    ]
    assert "lies in the folder" in check_leak(tmp_path / "test", test)[0].message


def test_the_table_has_every_row_of_the_reference():
    """Oracle: codes and kinds written out from the reference, section 14."""
    expected = {
        f"PV-{code}": line[0] for line in TABLE.replace("\nSTALE", " STALE").split("\n") for code in line[2:].split()
    }
    assert {code: violation(code, "").kind for code in contract.CODES} == expected
    assert all(violation(code, "").remedy for code in contract.CODES)


def test_the_tree_digest_is_that_of_its_rule(tmp_path):
    """Oracle: the rule of section 2 written as shell: sha256sum of each file, then of the sorted lines `path NUL hex LF`."""
    for name, content in {"b.py": "x\n", "a/é.txt": "1\n", "a-b": "2\n", "A": "3\n"}.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "tree" / "link").symlink_to("b.py")
    script = (
        "export LC_ALL=C; find . -type f -o -type l | sed 's|^./||' | sort | while IFS= read -r f; do "
        'if [ -L "$f" ]; then h=$(printf %s "$(readlink "$f")" | sha256sum); else h=$(sha256sum <"$f"); fi; '
        'printf \'%s\\0%s\\n\' "$f" "${h%% *}"; done | sha256sum'
    )
    shell = subprocess.run(["bash", "-c", script], cwd=tmp_path / "tree", capture_output=True, text=True, check=True)
    files = contract.tree_files(tmp_path / "tree")
    assert files["link"] == hashlib.sha256(b"b.py").hexdigest()
    assert contract.tree_digest(files) == shell.stdout.split()[0]
    for name in ("__pycache__/b.pyc", "c.pyc", PIN.record):
        (tmp_path / "tree" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "tree" / name).write_text("not counted")
    assert contract.tree_files(tmp_path / "tree") == files
    (tmp_path / "tree" / "A").write_text("4\n")
    assert contract.tree_digest(contract.tree_files(tmp_path / "tree")) != shell.stdout.split()[0]
