"""The re-entry sheets of a run: what is there of each stage, for `--from prepare|train|recon|evaluate --input <outdir>/sheets/...`.

    scans.csv   --from prepare    scans that were made, and how their frames are split
    views.csv   --from train      views that the data could give, with their scans
    models.csv  --from recon      trained models, and what arms without training read
    recons.csv  --from evaluate   reconstructions that were scored

A run writes the sheets of all stages behind the one that it began with: those before lie where it began from. Paths are
relative to `<outdir>/sheets`, those of the output tree as those of files that were given.
"""

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptychoflow.study.manifests import bundle_path
from ptychoflow.study.plan import STARTS

Json = Mapping[str, Any]

SCAN_COLUMNS = ("id", "scan", "role", "object", "split", "heldout", "dose", "N", "truth")
VIEW_COLUMNS = (
    "condition", "view", "gridsize", "train", "train_scan", "test", "test_scan", "N", "dose", "truth", "split", "guard_px", "name",
)  # fmt: skip
MODEL_COLUMNS = (*VIEW_COLUMNS, "arm", "seed", "model")
RECON_COLUMNS = ("recon", "scan", "view", "label", "object", "seed", "N", "dose")
SHEETS = ("scans.csv", "views.csv", "models.csv", "recons.csv")


@dataclass(frozen=True)
class Arrived:
    """What is there of a run, by id.

    Attributes:
        scans: datasets whose scan was made or given.
        views: views that were made or given.
        models: runs whose training ended ok.
        recons: runs whose reconstruction was scored.
    """

    scans: Collection[str] = ()
    views: Collection[str] = ()
    models: Collection[str] = ()
    recons: Collection[str] = ()


def sheets(plan: Json, arrived: Arrived, given: Mapping[str, Json]) -> dict[str, str]:
    """Return the sheets as CSV text by the names of their files.

    Args:
        plan: content of plan.json.
        arrived: what is there.
        given: paths of what was given, relative to the sheets' folder: `{"datasets": {id: path}, "views": {id: path}}`.
    """
    tree = _Tree(given, *({one["id"]: one for one in plan[kind]} for kind in ("datasets", "conditions", "views")))
    written = {
        "scans.csv": (SCAN_COLUMNS, _scans(plan, tree, arrived)),
        "views.csv": (VIEW_COLUMNS, (tree.view_cells(view) for view in plan["views"] if view["id"] in arrived.views)),
        "models.csv": (MODEL_COLUMNS, _models(plan, tree, arrived)),
        "recons.csv": (RECON_COLUMNS, _recons(plan, tree, arrived)),
    }
    first = STARTS.index(plan["parameters"].get("from") or "start")
    return {name: _csv(*written[name]) for name in SHEETS[first:]}


@dataclass(frozen=True)
class _Tree:
    """The entries of a plan by id, and where they lie seen from the sheets' folder."""

    given: Mapping[str, Json]
    datasets: Json
    conditions: Json
    views: Json

    def scan(self, dataset: str) -> str:
        return str(self.given.get("datasets", {}).get(dataset, f"../datasets/{dataset}/scan.npz"))

    def view(self, view: Json) -> str:
        made = f"../conditions/{view['condition']}/views/{view['folder']}/view.npz"
        return str(self.given.get("views", {}).get(view["id"], made))

    def view_cells(self, view: Json) -> dict[str, Any]:
        """Return the cells of views.csv."""
        condition = self.conditions[view["condition"]]
        test = self.datasets[view["test"]]
        return {
            "condition": condition["id"],
            "view": self.view(view),
            "gridsize": view["gridsize"],
            "train": view["train"],
            "train_scan": self.scan(view["train"]),
            "test": view["test"],
            "test_scan": self.scan(view["test"]),
            "N": test["n"],
            "dose": condition["dose"],
            "truth": _flag(test["truth"]),
            "split": view["config"]["split"],
            "guard_px": view["config"]["guard_px"],
            "name": condition["view"],
        }


def _scans(plan: Json, tree: _Tree, arrived: Arrived) -> Iterator[dict[str, Any]]:
    """Yield a row for every scan whose partner is there too, once for all views of it.

    Frames of another N become an object of their own: a sheet of scans does not say that they show the same one.
    """
    written = set()
    for view in plan["views"]:
        condition, config = tree.conditions[view["condition"]], view["config"]
        parts = ["both"] if view["train"] == view["test"] else ["train", "test"]
        names = [view["test" if part == "both" else part] for part in parts]
        if not set(names) <= set(arrived.scans):
            continue
        n = tree.datasets[view["test"]]["n"]
        name_of_object = condition["object"] if n == condition["sides"][0] else f"{condition['object']}_n{n}"
        for part, name in zip(parts, names, strict=True):
            if name in written:
                continue
            written.add(name)
            heldout = None if part == "train" else config["heldout"]
            yield {
                "id": name,
                "scan": tree.scan(name),
                "role": part,
                "object": name_of_object,
                "split": config["split"],
                "heldout": json.dumps(heldout) if isinstance(heldout, list | tuple) else heldout,
                "dose": condition["dose"],
                "N": tree.datasets[name]["n"],
                "truth": _flag(tree.datasets[name]["truth"]),
            }


def _models(plan: Json, tree: _Tree, arrived: Arrived) -> Iterator[dict[str, Any]]:
    for run in plan["runs"]:
        trained = run["run_id"] in arrived.models
        if trained or (run["kind"] in ("iterative", "external") and run["view"] in arrived.views):
            model = f"../{bundle_path(run)}" if trained else None
            yield {**tree.view_cells(tree.views[run["view"]]), "arm": run["arm"], "seed": run["seed"], "model": model}


def _recons(plan: Json, tree: _Tree, arrived: Arrived) -> Iterator[dict[str, Any]]:
    for run in plan["runs"]:
        if run["run_id"] in arrived.recons:
            condition = tree.conditions[run["condition"]]
            yield {
                "recon": f"../conditions/{condition['id']}/recons/{run['label']}/s{run['seed']}/recon.npz",
                "scan": tree.scan(run["test"]),
                "view": tree.view(tree.views[run["view"]]),
                "label": run["label"],
                "object": condition["id"],
                "seed": run["seed"],
                "N": run["n"],
                "dose": condition["dose"],
            }


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _csv(columns: Sequence[str], rows: Iterator[Json]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
