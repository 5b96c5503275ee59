#!/usr/bin/env bash
# A one-node Slurm with two fake GPUs for tests/slurm, brought up where it is absent and this is root on Debian. Ends with 0
# when it answers; otherwise prints why not and ends with 69 where root tried and failed, 77 where nobody may.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../infra"

if timeout 5 sinfo -h -o %G 2>/dev/null | grep -q gpu:fake; then exit 0; fi
if [[ $(id -u) != 0 ]] || ! type -P apt-get >/dev/null; then
  echo "no Slurm with fake GPUs answers, and only root on Debian can start one here (tests/infra/slurm-up.sh)"
  exit 77
fi
echo "machines: starting Slurm" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# More cores than the machine has: two jobs at once must fit.
SLURM_TEST_CPUS=${SLURM_TEST_CPUS:-4} bash slurm-up.sh 2 >"$log" 2>&1 </dev/null || {
  tail -n 20 "$log" >&2
  echo "Slurm could not be started: see above"
  exit 69
}
