"""What this double was made with: `double.json` beside this file (dialect, faults, head)."""

import json
from pathlib import Path

SWITCHES = json.loads((Path(__file__).parent / "double.json").read_text())
HEAD = SWITCHES["head"]


def has(fault: str) -> bool:
    return fault in SWITCHES["faults"]
