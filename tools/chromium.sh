#!/usr/bin/env bash
# A browser for the tests of the report: Debian's chromium, installed when it is absent and this is root. Ends with 0 when
# there is one; otherwise prints why not and ends with 69 where root tried and failed, 77 where nobody may try.
set -euo pipefail

if type -P chromium >/dev/null; then exit 0; fi
if [[ $(id -u) != 0 ]] || ! type -P apt-get >/dev/null; then
  echo "there is no chromium, and only root on Debian can install it here (apt-get install chromium)"
  exit 77
fi
echo "machines: installing Debian's chromium" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
{ apt-get -q update && apt-get -q -y --no-install-recommends install chromium; } >"$log" 2>&1 </dev/null || {
  tail -n 20 "$log" >&2
  echo "apt-get could not install chromium: see above"
  exit 69
}
