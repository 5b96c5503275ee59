"""Write the plans of the built-in studies beside this file: run it after a wanted change and read the difference."""

import json
from pathlib import Path

import yaml

from ptychoflow.arms.registry import load_registry
from ptychoflow.study.plan import make_plan

HERE = Path(__file__).parent
CONF = HERE.parents[1] / "conf"
STUDIES = ("lines", "siemens")


def plan_of(study: str) -> dict:
    content = yaml.safe_load((CONF / "studies" / f"{study}.yml").read_text())
    plan = make_plan({}, None, content, load_registry(CONF / "arms.json")).as_json()
    return json.loads(json.dumps(plan))


if __name__ == "__main__":
    for name in STUDIES:
        text = json.dumps(plan_of(name), indent=1, sort_keys=True) + "\n"
        (HERE / f"plan_{name}.json").write_text(text)
