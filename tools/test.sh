#!/usr/bin/env bash
# Run the layers of the tests, all of them even when one fails, and end with one line per layer. A layer in which
# nothing ran has failed. The lines are also in results/tests/summary.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

results=results/tests
rm -rf "$results"
mkdir -p "$results"
failed=0

# run_layer NAME MARKERS: pytest with a JUnit file, and the layer's line in the summary.
run_layer() {
  local name=$1 markers=$2 status=0
  echo "== $name tests"
  .venv/bin/python -m pytest -m "$markers" --junitxml="$results/$name.xml" || status=$?
  .venv/bin/python - "$name" "$results/$name.xml" "$status" >>"$results/summary.txt" <<'PY' || failed=1
import pathlib
import sys
from xml.etree import ElementTree

name, report, status = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
if not report.is_file():
    print(f"{name}: ran 0 (pytest ended with {status} and no report)")
    sys.exit(1)
suite = ElementTree.parse(report).getroot().find("testsuite")
count = {key: int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")}
ran = count["tests"] - count["skipped"]
bad = count["failures"] + count["errors"]
seconds = float(suite.get("time"))
print(f"{name}: ran {ran} ({ran - bad} passed, {bad} failed, {count['skipped']} skipped in {seconds:.0f} s)")
sys.exit(bool(status or bad or ran == 0))
PY
}

run_layer unit "not pipeline"
run_layer pipeline "pipeline"

echo "== layers"
cat "$results/summary.txt"
exit "$failed"
