"""The re-entry sheet of a finished run: `--from evaluate --input <outdir>/sheets/recons.csv` scores it again."""

import csv
import io
from collections.abc import Collection, Mapping
from typing import Any

COLUMNS = ("recon", "scan", "view", "label", "object", "seed", "N", "dose")


def recon_sheet(plan: Mapping[str, Any], finished: Collection[str]) -> str:
    """Return the sheet as CSV text; its paths are those of the output tree, relative to `<outdir>/sheets`.

    Imported reconstructions are left out: they lie outside the output tree, in the sheet that they came from.

    Args:
        plan: content of plan.json.
        finished: ids of the runs whose reconstruction is there.
    """
    doses = {condition["id"]: condition["dose"] for condition in plan["conditions"]}
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for run in plan["runs"]:
        if run["kind"] == "imported" or run["run_id"] not in finished:
            continue
        condition = f"../conditions/{run['condition']}"
        writer.writerow(
            {
                "recon": f"{condition}/recons/{run['label']}/s{run['seed']}/recon.npz",
                "scan": f"../datasets/{run['test']}/scan.npz",
                "view": f"{condition}/views/gs{run['gridsize']}/view.npz",
                "label": run["label"],
                "object": run["condition"],
                "seed": run["seed"],
                "N": run["n"],
                "dose": doses[run["condition"]],
            }
        )
    return text.getvalue()
