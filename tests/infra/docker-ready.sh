#!/usr/bin/env bash
# A Docker engine and a base image for the tests of the images, brought up where they are absent and this is root on Debian.
# Ends with 0 when both are there; otherwise prints why not and ends with 69 where root tried and failed, 77 where nobody may.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if [[ $(id -u) != 0 ]] || ! type -P apt-get >/dev/null; then
  if docker info >/dev/null 2>&1; then exit 0; fi
  echo "no Docker engine answers, and only root on Debian can start one here (tests/infra/docker-up.sh)"
  exit 77
fi
echo "machines: starting Docker and making its base image" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{ bash docker-up.sh && bash base-image.sh; } >"$log" 2>&1 </dev/null || {
  tail -n 20 "$log" >&2
  echo "Docker could not be started, or its base image not be made: see above"
  exit 69
}
