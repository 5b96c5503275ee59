"""The exported pair, opened by plain h5py and read with the external loader's own arithmetic, against the scan it came from."""

import json
import tracemalloc
from dataclasses import replace

import h5py
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ptychoflow.arms.ptychovit.contract import PIN
from ptychoflow.arms.ptychovit.export import export_pairs
from ptychoflow.arms.ptychovit.validate import validate_folder
from ptychoflow.commands import export_pair
from ptychoflow.data.storage import save_recon, save_scan, save_view
from ptychoflow.errors import ContractError, UsageError
from ptychoflow.frames import Canvas, Region
from ptychoflow.records import FrameSet, Normalization, Recon, Scan, View
from scan_files import made_from

N = 256
SHAPE = (303, 351)
CENTRES = np.array([[130.0, 131], [131, 165], [133, 219], [170, 130], [171, 180], [172, 220], [152, 160], [160, 190]])
PHOTONS = 37.5


def an_image():
    rough = np.random.default_rng(3).normal(size=(2, *SHAPE))
    amplitude, phase = (gaussian_filter(field, 2) for field in rough)
    return ((0.97 + 0.3 * amplitude) * np.exp(3j * phase)).astype(np.complex64)


def a_probe():
    row, col = np.mgrid[0:N, 0:N] - 128
    return (0.4 * np.exp(-(row**2 / 900 + (col - 5) ** 2 / 400)) * np.exp(1e-3j * (row**2 - 3 * row * col))).astype(
        np.complex64
    )


def a_scan(image=None, centres=CENTRES, **changes):
    """Frames by plain slices of the object and `numpy.fft`, orthonormal; patch pixel 128 lies on the (whole) centre."""
    image = an_image() if image is None else image
    patches = np.stack([image[r - 128 : r + 128, c - 128 : c + 128] for r, c in centres.astype(int)])
    frames = np.abs(np.fft.fftshift(np.fft.fft2(a_probe() * patches, norm="ortho"), axes=(1, 2))).astype(np.float32)
    metadata = {"object_role": "truth", "photons_per_intensity": PHOTONS, "pixel_size_m": 1.7e-8}
    scan = Scan(frames, centres, a_probe(), np.zeros(len(centres), dtype=np.int64), image, metadata=metadata)
    return replace(scan, **changes)


def every(scan):
    return np.arange(scan.n_frames)


def opened(folder, name="star"):
    """Both files of a pair as arrays and attributes, by plain h5py."""
    with h5py.File(folder / f"{name}_dp.hdf5") as one, h5py.File(folder / f"{name}_para.hdf5") as other:
        arrays = {key: file[key][()] for file in (one, other) for key in file}
        return arrays, {
            f"{key}.{name}": value for file in (one, other) for key in file for name, value in file[key].attrs.items()
        }


def loaded_patches(arrays, attributes):
    """Object patches by the loader's arithmetic (reference, section 4), for whole-pixel corners: plain slices."""
    image, pixel = arrays["object"][0], attributes["object.pixel_height_m"]
    origin = np.rint(np.array(image.shape) / 2) + 0.5  # rint rounds halves to even
    middle = np.stack([arrays["probe_position_y_m"], arrays["probe_position_x_m"]], axis=1) / pixel + origin
    corner = middle - (N - 1) / 2
    np.testing.assert_allclose(corner, np.round(corner), atol=1e-6)
    return np.stack([image[r : r + N, c : c + N] for r, c in np.round(corner).astype(int)])


def test_the_external_forward_model_gives_the_patterns(tmp_path):
    """Oracle: loader and forward model of the reference (sections 4 and 5), written out: fft2 without a factor, modes summed."""
    scan = a_scan()
    (record,) = export_pairs(scan, every(scan), name="star", folder=tmp_path)
    arrays, attributes = opened(tmp_path)
    waves = loaded_patches(arrays, attributes)[:, None] * arrays["probe"][0][None]
    intensity = (np.abs(np.fft.fftshift(np.fft.fft2(waves), axes=(-2, -1))) ** 2).sum(axis=1)
    np.testing.assert_allclose(arrays["dp"], intensity, rtol=1e-3, atol=1e-5 * intensity.max())
    np.testing.assert_allclose(arrays["dp"], PHOTONS * scan.amplitude.astype(float) ** 2, rtol=1e-6)
    assert record.energy_ratio == pytest.approx(1, rel=1e-5)
    assert record.probe_factor == pytest.approx(np.sqrt(PHOTONS) / 256)
    assert 0.8 < record.probe_ratio < 1.2


def test_names_shapes_types_and_attributes(tmp_path):
    """Oracle: the table of section 3, row by row."""
    scan = a_scan()
    export_pairs(scan, every(scan)[1:], name="star", folder=tmp_path)
    arrays, attributes = opened(tmp_path)
    assert {key: (value.shape, value.dtype.name) for key, value in arrays.items()} == {
        "dp": ((7, 256, 256), "float32"),
        "object": ((1, *SHAPE), "complex64"),
        "probe": ((1, 1, 256, 256), "complex64"),
        "probe_position_x_m": ((7,), "float64"),
        "probe_position_y_m": ((7,), "float64"),
    }
    pixel = {f"{name}.{key}": 1.7e-8 for name in ("object", "probe") for key in ("pixel_height_m", "pixel_width_m")}
    assert attributes == {**pixel, "dp.unit": "photons", "object.center_x_m": 0.0, "object.center_y_m": 0.0}
    np.testing.assert_array_equal(arrays["object"][0], scan.object)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["star_dp.hdf5", "star_para.hdf5"]
    assert [one.code for one in validate_folder(tmp_path)] == [
        "PV-HOLES"
    ]  # a ragged scan: notches at the edge of its field


def test_a_bright_pixel_is_where_it_was(tmp_path):
    """Delta image. Oracle: our convention, object pixel r lies under patch pixel r - c + 128 (physics reference, section 1.1)."""
    image = np.ones(SHAPE, dtype=np.complex64)
    image[157, 201] = 1.5
    scan = a_scan(image)
    export_pairs(scan, every(scan), name="star", folder=tmp_path)
    patches = loaded_patches(*opened(tmp_path))
    brightest = [np.unravel_index(np.argmax(np.abs(patch)), (N, N)) for patch in patches]
    np.testing.assert_array_equal(brightest, np.array([157, 201]) - CENTRES + 128)


@pytest.mark.parametrize("shape", [(303, 350), (304, 351), (305, 352), (306, 349)])
def test_the_origin_follows_the_size_of_the_object(tmp_path, shape):
    """Golden formula of section 4 for lengths n mod 4 = 0, 1, 2, 3: y_m = (c - 1/2 - round_half_even(n / 2) - 1/2) pix."""
    image = np.pad(an_image(), ((0, 3), (0, 1)), mode="edge")[: shape[0], : shape[1]]
    scan = a_scan(image)
    export_pairs(scan, every(scan), name="star", folder=tmp_path)
    arrays, _ = opened(tmp_path)
    origin = {303: 152.5, 304: 152.5, 305: 152.5, 306: 153.5, 349: 174.5, 350: 175.5, 351: 176.5, 352: 176.5}
    np.testing.assert_allclose(arrays["probe_position_y_m"] / 1.7e-8, CENTRES[:, 0] - 0.5 - origin[shape[0]], atol=1e-9)
    np.testing.assert_allclose(arrays["probe_position_x_m"] / 1.7e-8, CENTRES[:, 1] - 0.5 - origin[shape[1]], atol=1e-9)


def test_without_photons_and_pixel_size_units_are_stated(tmp_path):
    """Oracle: section 4 (exactly 1.0 with positions in px); dp in the scan's own unit."""
    scan = a_scan(metadata={"object_role": "reference"})
    (record,) = export_pairs(scan, every(scan), name="star", folder=tmp_path)
    arrays, attributes = opened(tmp_path)
    assert attributes["probe.pixel_width_m"] == 1.0
    assert attributes["dp.unit"] == "amplitude squared, in the unit of the scan"
    np.testing.assert_allclose(arrays["dp"], scan.amplitude.astype(float) ** 2, rtol=1e-6)
    assert (record.photons_per_intensity, record.pixel_size_known, record.object_role) == (None, False, "reference")


def test_a_negative_amplitude_is_an_error_and_leaves_nothing(tmp_path):
    """Oracle: section 3: squared it would pass for light."""
    scan = a_scan()
    frames = scan.amplitude.copy()
    frames[5, 10, 11] = -0.001
    with pytest.raises(ContractError, match=r"PV-DP: the amplitude of frame 5 is negative"):
        export_pairs(replace(scan, amplitude=frames), every(scan)[2:], name="star", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("factor", "told"), [(1 / 256, "6.554e+04 times"), (1.3, "0.5917 times"), (0.7, "2.041 times")]
)
def test_a_probe_that_does_not_reproduce_the_frames_is_refused(tmp_path, factor, told):
    """Closed form: energies go with the square of the probe."""
    scan = a_scan(probe=a_probe() * np.float32(factor))
    with pytest.raises(ContractError, match=told.replace("+", r"\+")):
        export_pairs(scan, every(scan), name="star", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_scan_without_object_has_ones_and_a_calibrated_probe(tmp_path):
    """Oracle: sections 3 to 5: size ceil(span) + h + 2, top-left >= 1, and R = 1 whatever the probe's scale was."""
    scan = a_scan(object=None, probe=a_probe() * np.float32(11))
    (record,) = export_pairs(scan, every(scan), name="star", folder=tmp_path)
    arrays, attributes = opened(tmp_path)
    assert arrays["object"].shape == (1, 42 + 258, 90 + 258)
    assert (arrays["object"] == 1).all()
    light = 256**2 * np.sum(np.abs(arrays["probe"].astype(complex)) ** 2)
    assert arrays["dp"].sum(axis=(1, 2), dtype=float).mean() / light == pytest.approx(1, rel=1e-5)
    assert (record.object_role, record.object_origin_rc_px) == ("placeholder", (130 - 128 - 1, 130 - 128 - 1))
    assert loaded_patches(arrays, attributes).shape == (8, N, N)


def test_footprints_at_the_edge_get_their_margin(tmp_path):
    """Oracle: the loader reads one pixel around each footprint; `numpy.pad` with the edge, and the same patches as before."""
    scan = a_scan(an_image()[2:, 2:], np.vstack([CENTRES[:-1] - 2, [[128.0, 128.0]]]))
    (record,) = export_pairs(scan, every(scan), name="star", folder=tmp_path)
    arrays, attributes = opened(tmp_path)
    assert record.padded_px == (1, 1, 0, 0)
    assert record.object_origin_rc_px == (-1, -1)
    np.testing.assert_array_equal(arrays["object"][0], np.pad(scan.object, ((1, 0), (1, 0)), mode="edge"))
    np.testing.assert_array_equal(loaded_patches(arrays, attributes)[-1], scan.object[:N, :N])


def test_each_object_is_a_pair_of_its_own(tmp_path):
    """Oracle: rectangles of a simulated scan; each pair holds its own frames and its own part of the object."""
    image = np.concatenate([an_image(), np.zeros((SHAPE[0], 256), np.complex64), an_image()[::-1]], axis=1)
    rectangles = [[0, SHAPE[0], 0, SHAPE[1]], [0, SHAPE[0], SHAPE[1] + 256, 2 * SHAPE[1] + 256]]
    centres = np.vstack([CENTRES, np.add(CENTRES[::-1][:6], [0, SHAPE[1] + 256])])
    scan = a_scan(image, centres, scan_index=np.repeat([0, 1], [8, 6]))
    scan = replace(scan, metadata={**scan.metadata, "objects": rectangles})
    frames = np.array([12, 0, 1, 2, 3, 4, 8, 9, 10, 11, 13])
    records = export_pairs(scan, frames, name="star", folder=tmp_path)
    assert [(one.name, one.n_frames, one.object_origin_rc_px) for one in records] == [
        ("star_0", 5, (0, 0)), ("star_1", 6, (0, SHAPE[1] + 256)),
    ]  # fmt: skip
    arrays, attributes = opened(tmp_path, "star_1")
    np.testing.assert_array_equal(arrays["object"][0], an_image()[::-1])
    np.testing.assert_allclose(arrays["dp"][1], PHOTONS * scan.amplitude[8].astype(float) ** 2, rtol=1e-6)
    np.testing.assert_array_equal(
        loaded_patches(arrays, attributes)[1], image[:, SHAPE[1] + 256 :][160 - 128 :, 190 - 128 :][:N, :N]
    )


def test_a_supplied_object_needs_its_origin_and_has_the_positions_moved(tmp_path):
    """Oracle: a clip of the truth with its origin gives the patches of the whole one; a clip too small is refused by PV-FRAME."""
    scan = a_scan()
    clip = Recon(an_image()[1:301, 1:], np.ones((300, 350), np.float32), Canvas((1, 1), (300, 350)))
    blind = replace(scan, object=None)
    (record,) = export_pairs(blind, every(scan), name="star", folder=tmp_path / "a", supplied=clip)
    export_pairs(scan, every(scan), name="star", folder=tmp_path / "b")
    assert (record.object_role, record.object_origin_rc_px) == ("supplied", (1, 1))
    np.testing.assert_array_equal(loaded_patches(*opened(tmp_path / "a")), loaded_patches(*opened(tmp_path / "b")))
    small = Recon(an_image()[8:270, 8:], np.ones((262, 343), np.float32), Canvas((8, 8), (262, 343)))
    with pytest.raises(
        ContractError, match=r"PV-FRAME: footprints cover rows -6\.0 to 292\.0 .* full object, not a clip"
    ):
        export_pairs(blind, every(scan), name="star", folder=tmp_path / "c", supplied=small)
    assert list((tmp_path / "c").iterdir()) == []
    with pytest.raises(ContractError, match="the scan has its full object"):
        export_pairs(scan, every(scan), name="star", folder=tmp_path, supplied=clip)


def test_another_side_is_refused(tmp_path):
    scan = a_scan()
    small = replace(scan, amplitude=scan.amplitude[:, 64:-64, 64:-64], probe=scan.probe[64:-64, 64:-64])
    with pytest.raises(ContractError, match="PV-DP: frames are 128 px, only 256 px are supported"):
        export_pairs(small, every(scan), name="star", folder=tmp_path)


def test_the_same_scan_gives_the_same_bytes(tmp_path):
    scan = a_scan()
    for folder in (tmp_path / "a", tmp_path / "b"):
        export_pairs(scan, every(scan), name="star", folder=folder)
    for file in ("star_dp.hdf5", "star_para.hdf5"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_frames_stay_on_disk(tmp_path):
    """Oracle: tracemalloc. 96 frames are 25 MB; what is held at a time is a block of 8, in float64 4 MiB, and its copies."""
    few = a_scan()
    frames = np.memmap(tmp_path / "frames", dtype=np.float32, mode="w+", shape=(96, N, N))
    for first in range(0, 96, 8):
        frames[first : first + 8] = few.amplitude
    frames.flush()
    many = np.memmap(tmp_path / "frames", dtype=np.float32, mode="r", shape=frames.shape)
    scan = replace(
        few, amplitude=many, positions_rc_px=np.tile(CENTRES, (12, 1)), scan_index=np.zeros(96, dtype=np.int64)
    )
    tracemalloc.start()
    try:
        export_pairs(scan, every(scan), name="star", folder=tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.65 * many.nbytes


def a_view(frames, heldout=()):
    table = np.array(frames)
    sets = FrameSet(np.unique(table), table)
    normalization = Normalization(1.0, 1.0, 1.0, 1.0, True)
    return View(sets, sets, np.array(heldout, dtype=np.int64), normalization, (Region(140, 160, 140, 190),), {})


def test_the_command_writes_the_test_frames_of_a_view(tmp_path):
    """Oracle: frames of the groups, each once, in the order of the scan; the manifest names no absolute path."""
    scan = a_scan()
    save_scan(tmp_path / "scan.npz", scan)
    view = made_from(a_view([[6, 0], [2, 3], [0, 5], [7, 6]], heldout=[4]), tmp_path / "scan.npz")
    save_view(tmp_path / "view.npz", view)
    out = tmp_path / "out"
    written = export_pair.run(
        scan=tmp_path / "scan.npz", view=tmp_path / "view.npz", object_file=None, name="star", out_dir=out
    )
    assert written == [out / "star_dp.hdf5", out / "star_para.hdf5"]
    arrays, _ = opened(out)
    np.testing.assert_allclose(arrays["dp"], PHOTONS * scan.amplitude[[0, 2, 3, 5, 6, 7]].astype(float) ** 2, rtol=1e-6)
    text = (out / "manifest.json").read_text()
    manifest = json.loads(text)
    assert str(tmp_path) not in text
    assert set(manifest["outputs"]) == {"star_dp.hdf5", "star_para.hdf5"}
    assert set(manifest["inputs"]) == {"scan", "view"}
    assert manifest["facts"]["contract"]["commit"] == PIN.commit
    (pair,) = manifest["facts"]["pairs"]
    assert (pair["n_frames"], pair["unit"], pair["object_role"]) == (6, "photons", "truth")
    assert [text[:8] for text in pair["warnings"]] == ["PV-HOLES"]


def test_the_command_takes_every_frame_or_an_object_from_elsewhere(tmp_path):
    """Oracle: the number of frames; what the manifest says of the object."""
    save_scan(tmp_path / "scan.npz", a_scan(object=None))
    recon = Recon(an_image(), np.ones(SHAPE, np.float32), Canvas((0, 0), SHAPE))
    save_recon(tmp_path / "gt.npz", recon)
    export_pair.run(
        scan=tmp_path / "scan.npz", view=None, object_file=tmp_path / "gt.npz", name="a.b-1", out_dir=tmp_path / "out"
    )
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (pair,) = manifest["facts"]["pairs"]
    assert (pair["n_frames"], pair["object_role"], set(manifest["inputs"])) == (8, "supplied", {"scan", "object"})
    assert manifest["parameters"]["frames"] == "all"


@pytest.mark.parametrize("name", ["star_dp", "a/b", ".star", "", "star_para", "a b"])
def test_a_name_that_upstream_could_not_tell_apart_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="--name: expected letters"):
        export_pair.run(scan=tmp_path / "scan.npz", view=None, object_file=None, name=name, out_dir=tmp_path)


def test_a_view_of_another_scan_is_refused(tmp_path):
    save_scan(tmp_path / "scan.npz", a_scan())
    save_scan(tmp_path / "other.npz", a_scan(an_image()[:, ::-1]))
    save_view(tmp_path / "view.npz", made_from(a_view([[0, 1]]), tmp_path / "other.npz"))
    with pytest.raises(ContractError, match="is not the test scan"):
        export_pair.run(
            scan=tmp_path / "scan.npz", view=tmp_path / "view.npz", object_file=None, name="a", out_dir=tmp_path / "out"
        )
