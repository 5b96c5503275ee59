"""PTYCHOVIT VALIDATE: every violation of the external contract by the pairs of a folder, at once; nothing is written."""

from pathlib import Path

from ptychoflow.arms.ptychovit.validate import validate_folder
from ptychoflow.errors import ContractError, NumericalError


def run(folder: Path, *, training: bool) -> str:
    """Return the report on a folder of pairs that ptycho-vit would read rightly: its warnings, or that there are none.

    Raises:
        ContractError: a pair breaks the contract (kind E); names every violation with code and remedy.
        NumericalError: what the pairs hold is a failed result (kind R).
    """
    found = validate_folder(folder, training=training)
    listed = "\n".join(f"  {one.text}" for one in found)
    if any(one.kind == "E" for one in found):
        raise ContractError(f"{folder.name} breaks the contract of ptycho-vit:\n{listed}")
    if any(one.kind == "R" for one in found):
        raise NumericalError(f"{folder.name} holds a failed result:\n{listed}")
    return f"{folder.name}: valid" + (f", with warnings:\n{listed}" if found else "")
