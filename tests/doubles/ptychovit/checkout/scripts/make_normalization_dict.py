"""Write the largest intensity of every object of a folder: make_normalization_dict.py FOLDER OUT."""

import pickle
import sys
from pathlib import Path

import h5py

folder, out = (Path(argument) for argument in sys.argv[1:])
maxima = {}
for path in sorted(folder.glob("*_dp.hdf5")):
    with h5py.File(path, "r") as file:
        maxima[path.name.removesuffix("_dp.hdf5")] = float(file["dp"][()].max())
with out.open("wb") as stream:
    pickle.dump(maxima, stream)
