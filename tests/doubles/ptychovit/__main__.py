"""Command line of the double: `make DIR` writes one and prints what to expect of it, `faults` lists its faults."""

import argparse
import json
import sys
from pathlib import Path

from . import DIALECTS, FAULTS, HEADS, make_double


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.doubles.ptychovit", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="write a double into a new or empty folder; print commit and digest")
    make.add_argument("dir", type=Path)
    make.add_argument("--dialect", choices=DIALECTS, default="P")
    make.add_argument("--head", choices=HEADS, default="net")
    make.add_argument("--fault", choices=FAULTS, action="append", default=[], dest="faults", metavar="NAME")
    commands.add_parser("faults", help="list faults: name, code to expect, behaviour")
    given = parser.parse_args()
    if given.command == "faults":
        for name, (behaviour, code) in FAULTS.items():
            print(f"{name:16} {code:26} {behaviour}")
        return
    try:
        double = make_double(given.dir, given.dialect, given.faults, given.head)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(json.dumps({"commit": double.commit, "tree_sha256": double.tree_sha256, "n_files": double.n_files}))


if __name__ == "__main__":
    main()
