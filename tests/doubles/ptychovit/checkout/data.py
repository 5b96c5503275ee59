"""The loader of HDF5 pairs: positions, intensities and patches, with every silence of upstream."""

import csv
import pickle
from pathlib import Path

import h5py
import numpy as np
import torch
from switches import has
from torch.utils.data import Dataset
from utils.ptychi_utils import extract_patches_fourier_shift

DEFAULT_NORMALIZATION = 100000.0
PARA_KEYS = ("object", "probe", "probe_position_x_m", "probe_position_y_m")


def find_pairs(folder):
    """Return the dp files of a folder, sorted: every pair that lies there is taken."""
    return sorted(Path(folder).glob("*_dp.hdf5"))


def count_patterns(folder):
    """Return the number of patterns of a folder; an index.csv (rows: file, count) is believed unread."""
    index = Path(folder) / "index.csv"
    if index.exists():
        with index.open() as stream:
            return sum(int(row[1]) for row in csv.reader(stream))
    total = 0
    for path in find_pairs(folder):
        with open_hdf5(path) as file:
            total += len(file["dp"])
    return total


def open_hdf5(path):
    return h5py.File(path, "r", libver="latest", swmr=True)


def origin(n):
    """Return the pixel that position 0 means on an axis of n pixels: half-even rounding, then half a pixel."""
    return round(n / 2) + 0.5


def centres_px(offsets_m, pixel_m, shape):
    """Return patch centres (y, x), object pixels `[N,2]` float64, of offsets from the origin, m."""
    return offsets_m / pixel_m + np.array([origin(n) for n in shape])


class PtychographyDataset(Dataset):
    """Items: amplitude `[1,h,w]`, amplitude and phase of the patch, probe `[A,M,h,w]`, centre (y, x) px, normalization, scale."""

    def __init__(
        self,
        file_path,
        scale=1e5,
        normalization_dict_path=None,
        apply_noise=True,
        cache_object=True,
        max_probe_modes=8,
    ):
        self.dp_path = Path(file_path)
        self.object_name = self.dp_path.name.removesuffix("_dp.hdf5")
        self.para_path = self.dp_path.with_name(f"{self.object_name}_para.hdf5")
        self.scale = scale
        self.apply_noise = apply_noise
        self.cache_object = cache_object
        self.max_probe_modes = max_probe_modes
        self._cached_probe_positions = None
        self._cached_object_and_probe = None
        with open_hdf5(self.dp_path) as dp, open_hdf5(self.para_path) as para:
            missing = [key for key in ("dp",) if key not in dp] + [key for key in PARA_KEYS if key not in para]
            if missing:
                raise KeyError(f"Missing datasets in {self.object_name}: {missing}")
            self.n_patterns = dp["dp"].shape[0]
            self.pattern_shape = tuple(dp["dp"].shape[-2:])
            self.object_shape = tuple(para["object"].shape[-2:])
        self.normalization = self._load_normalization(normalization_dict_path)

    def __len__(self):
        return self.n_patterns

    def __getitem__(self, index):
        if self._cached_probe_positions is None:
            self._cache_positions()
        with open_hdf5(self.dp_path) as file:
            pattern = file["dp"][index]
        intensity = pattern / self.normalization * self.scale
        if self.apply_noise:
            intensity = np.random.default_rng().poisson(intensity)
        amplitude = torch.from_numpy(np.sqrt(intensity).astype(np.float32))[None]
        full_object, probe = self._object_and_probe()
        centre = self._cached_probe_positions[index]
        patch = extract_patches_fourier_shift(full_object, centre[None], self.pattern_shape)
        return amplitude, patch.abs(), patch.angle(), probe, centre, self.normalization, self.scale

    def _load_normalization(self, path):
        """Return the maximum of the object's patterns, or the default with a mere warning, or without one."""
        if path is None or has("norm_silent"):
            return DEFAULT_NORMALIZATION
        if has("norm_missing") or not Path(path).exists():
            print(f"Warning: Normalization file not found at {path}. Using default: {DEFAULT_NORMALIZATION}")
            return DEFAULT_NORMALIZATION
        try:
            if has("norm_corrupt"):
                raise pickle.UnpicklingError("pickle data was truncated")
            with Path(path).open("rb") as stream:
                values = pickle.load(stream)
            key = self._normalization_key(path)
            if has("norm_key") or key not in values:
                print(
                    f"Warning: Object '{key}' not found in normalization dictionary. Using default: {DEFAULT_NORMALIZATION}"
                )
                return DEFAULT_NORMALIZATION
            return values[key]
        except Exception as error:  # noqa: BLE001 - upstream survives whatever the file holds
            print(f"Warning: Error loading normalization file: {error}. Using default: {DEFAULT_NORMALIZATION}")
            return DEFAULT_NORMALIZATION

    def _normalization_key(self, path):
        return self.object_name

    def _cache_positions(self):
        """Read the centres (y, x), object pixels; the only check is their number."""
        with open_hdf5(self.para_path) as file:
            offsets = np.stack([file["probe_position_y_m"][()], file["probe_position_x_m"][()]], axis=1)
            pixel = file["object"].attrs["pixel_height_m"]
        if len(offsets) != self.n_patterns:
            raise ValueError(f"{len(offsets)} positions for {self.n_patterns} patterns in {self.object_name}")
        self._cached_probe_positions = torch.from_numpy(centres_px(offsets, pixel, self.object_shape))

    def _object_and_probe(self):
        """Return slice 0 of the object and the probe, its modes filled up with zeros."""
        if self._cached_object_and_probe is not None:
            return self._cached_object_and_probe
        with open_hdf5(self.para_path) as file:
            full_object = torch.from_numpy(file["object"][0])
            probe = torch.from_numpy(file["probe"][()])
        n_opr, n_modes, rows, cols = probe.shape
        if n_modes < self.max_probe_modes:
            filling = probe.new_zeros(n_opr, self.max_probe_modes - n_modes, rows, cols)
            probe = torch.cat([probe, filling], dim=1)
        if self.cache_object:
            self._cached_object_and_probe = full_object, probe
        return full_object, probe
