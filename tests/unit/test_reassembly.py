"""The reassembly file (D18, D20): absolute positions, row = y, and frames that its own probe and object reproduce."""

from dataclasses import replace

import numpy as np

from ptychoflow.commands.simulate import simulate_scan
from ptychoflow.config import IngestConfig, SimulateConfig
from ptychoflow.data.formats import read_source
from ptychoflow.data.reassembly import REASSEMBLY, save_reassembly

FRAMES = np.array([2, 3, 5, 11])


def written(tmp_path, **changes):
    config = SimulateConfig(n=16, size=41, size_cols=59, step_px=7, dose="1e6", noise=False, phase="independent")
    scan = replace(simulate_scan(config, None), **changes)
    save_reassembly(tmp_path / REASSEMBLY, scan, FRAMES)
    return scan, tmp_path / "tmp" / "torch_reassembly" / "reassembly_test.npz"


def test_probe_object_and_positions_of_the_file_reproduce_its_frames(tmp_path):
    """Oracle: slices of the object and plain numpy.fft, read by NumPy alone; with rows taken for columns it fails."""
    scan, path = written(tmp_path)
    with np.load(path, allow_pickle=False) as arrays:
        file = dict(arrays)
    assert {name: (array.shape, array.dtype.name) for name, array in file.items()} == {
        "diffraction": ((4, 16, 16), "float32"), "xcoords": ((4,), "float64"), "ycoords": ((4,), "float64"),
        "probeGuess": ((16, 16), "complex64"), "objectGuess": (scan.object.shape, "complex64"),
    }  # fmt: skip
    assert file["objectGuess"].shape == (41, 59)

    def predicted(rows, cols):
        corners = zip((rows - 8).astype(int).tolist(), (cols - 8).astype(int).tolist(), strict=True)
        waves = [file["probeGuess"] * file["objectGuess"][r : r + 16, c : c + 16] for r, c in corners]
        return np.abs(np.fft.fftshift(np.fft.fft2(waves, norm="ortho"), axes=(1, 2)))

    error = np.abs(predicted(file["ycoords"], file["xcoords"]) - file["diffraction"]).max()
    assert error < 1e-4 * file["diffraction"].max()
    inside = file["xcoords"] <= 41 - 8  # what the transposed reading could cut out at all
    crossed = predicted(file["xcoords"][inside], file["ycoords"][inside])
    assert np.abs(crossed - file["diffraction"][inside]).max() > 0.01 * file["diffraction"].max()


def test_positions_are_those_of_the_scan_and_the_file_can_be_ingested(tmp_path):
    """D20: neither centred nor relative to a group: a scan far from the origin stays there."""
    far = np.random.default_rng(4).uniform([900, 20], [950, 70], (28, 2))
    scan, path = written(tmp_path, positions_rc_px=far)
    raw = read_source(path, IngestConfig())
    np.testing.assert_array_equal(raw.positions_rc_px, far[FRAMES])
    np.testing.assert_array_equal(raw.frames, scan.amplitude[FRAMES])


def test_a_scan_without_an_object_has_none_in_the_file(tmp_path):
    _, path = written(tmp_path, object=None)
    with np.load(path, allow_pickle=False) as arrays:
        assert sorted(arrays) == ["diffraction", "probeGuess", "xcoords", "ycoords"]
