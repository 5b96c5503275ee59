#!/usr/bin/env bash
# Run a group of layers of the tests, all of them even when one fails, and end with one line per layer. A layer in which
# nothing ran has failed, unless the machine lacks what it needs and nobody could install that: it then says `skipped`.
#
#   tools/test.sh            unit, tensorflow and pipeline; the lines are also in results/tests/summary.txt
#   tools/test.sh machines   what needs more of the machine: browser, docker, slurm; also in results/tests/machines.txt
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

group=${1:-summary}
results=results/tests
lines=$results/$group.txt
mkdir -p "$results"
rm -f "$lines"
failed=0

# run_layer NAME MARKERS [FOLDER]: pytest with a JUnit file, and the layer's line in the summary.
run_layer() {
  local name=$1 markers=$2 status=0
  echo "== $name tests"
  rm -f "$results/$name.xml"
  .venv/bin/python -m pytest "${@:3}" -m "$markers" --junitxml="$results/$name.xml" || status=$?
  .venv/bin/python - "$name" "$results/$name.xml" "$status" >>"$lines" <<'PY' || failed=1
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

# run_on_machine NAME MARKERS SCRIPT: the same after SCRIPT has made the machine ready. Where it cannot, the layer is skipped
# with the reason that it prints, and fails unless its exit code is 77: nobody could have helped.
run_on_machine() {
  local name=$1 markers=$2 script=$3 why status=0
  why=$(bash "$script") || status=$?
  if ((status == 0)); then
    run_layer "$name" "$markers"
  else
    echo "$name: skipped: $why" >>"$lines"
    ((status == 77)) || failed=1
  fi
}

case $group in
  summary)
    # One process a core, and one thread each: most tests are small.
    OMP_NUM_THREADS=1 run_layer unit "not pipeline and not browser and not tensorflow and not docker and not slurm" -n auto --maxprocesses 4
    # Processes of their own: TensorFlow and PyTorch never share one.
    OMP_NUM_THREADS=1 run_layer tensorflow "tensorflow" tests/tf -n auto --maxprocesses 2
    run_layer pipeline "pipeline" -n 2 --dist loadfile --no-loadscope-reorder
    ;;
  machines)
    run_on_machine browser "browser" tools/chromium.sh
    run_on_machine docker "docker" tests/infra/docker-ready.sh
    # With the engine still up: a job may run in a container.
    run_on_machine slurm "slurm" tests/slurm/slurm-ready.sh
    bash tests/infra/slurm-down.sh >/dev/null || true
    bash tests/infra/docker-down.sh >/dev/null || true
    ;;
  *)
    echo "tools/test.sh: expected no argument or 'machines', got '$group'" >&2
    exit 64
    ;;
esac

echo "== layers"
cat "$lines"
exit "$failed"
