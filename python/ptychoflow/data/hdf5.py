"""HDF5 files from anywhere: datasets that are in the file itself, of plain numbers, and no larger than what is stored."""

from pathlib import Path
from typing import Any

import h5py

from ptychoflow.data.npz import MOST_DEFLATED


def read_datasets(file: Any, names: tuple[str, ...]) -> tuple[dict[str, Any], list[str]]:
    """Return the datasets of a file that may be read, unread, and what keeps any other from it; absent ones are in neither.

    Args:
        file: an open h5py.File.
        names: paths of the datasets.
    """
    found: dict[str, Any] = {}
    problems = []
    for name in names:
        link = file.get(name, getlink=True)
        if link is None:
            continue
        if not isinstance(link, h5py.HardLink):
            problems.append(f"{name} is a link to somewhere else; copy the data into the file")
            continue
        if not isinstance(file[name], h5py.Dataset):
            continue
        if problem := _unreadable(file[name]):
            problems.append(f"{name} {problem}")
        else:
            found[name] = file[name]
    return found, problems


def _unreadable(dataset: Any) -> str | None:
    if dataset.external or dataset.is_virtual:
        return f"keeps its data in other files than {Path(dataset.file.filename).name}; copy them into it"
    if dataset.dtype.hasobject:
        return f"must hold plain numbers, got {dataset.dtype}"
    if dataset.shape is None or dataset.nbytes > dataset.id.get_storage_size() * MOST_DEFLATED:
        stored = dataset.id.get_storage_size()
        return (
            f"promises {dataset.shape} {dataset.dtype}, and the file stores {stored} bytes of it; copy the file again"
        )
    return None
