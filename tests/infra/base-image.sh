#!/usr/bin/env bash
# Make the image base:bookworm (debootstrap minbase + bash, procps, python3, python3-venv) without pulling anything.
#   base-image.sh [TAG] [extra,deb,packages]       default tag base:bookworm
# The mirror is the one this machine's apt already uses. dockerd must be up (docker-up.sh).
set -euo pipefail
TAG=${1:-base:bookworm}
EXTRA=${2:-python3-venv}
DOCKER=/usr/bin/docker
D=${DOCKER_TEST_DIR:-/tmp/docker-test}
SUITE=bookworm
if $DOCKER image inspect "$TAG" >/dev/null 2>&1; then echo "$TAG exists"; exit 0; fi
mkdir -p "$D/log"
command -v debootstrap >/dev/null || {
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -q -y --no-install-recommends debootstrap >>"$D/log/apt.log" 2>&1; }

# First archive URI that serves the plain suite, asked of apt itself (covers .list and deb822 files).
# shellcheck disable=SC2016  # the names are apt's
MIRROR=$(apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(IDENTIFIER) $(REPO_URI)' 'Created-By: Packages' |
  awk -v s=$SUITE '$1==s && $2=="main" {print $4; exit}')
[ -n "$MIRROR" ] || { echo "no apt source for $SUITE main" >&2; exit 1; }

R=$(mktemp -d "$D/rootfs.XXXX"); trap 'rm -rf "$R"' EXIT
debootstrap --variant=minbase --include="procps,python3,$EXTRA" $SUITE "$R" "$MIRROR" >"$D/log/debootstrap.log" 2>&1 ||
  { tail -5 "$D/log/debootstrap.log" >&2; exit 1; }
rm -rf "$R"/var/cache/apt/archives/*.deb "$R"/var/lib/apt/lists/*
# Exclude device nodes: the engine makes its own /dev, and copying /dev/full would fill the disk.
tar -C "$R" --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' -c . |
  $DOCKER import --change 'CMD ["/bin/bash"]' --change 'ENV PATH=/usr/local/bin:/usr/bin:/bin' - "$TAG" >/dev/null
$DOCKER image ls "$TAG" --format '{{.Repository}}:{{.Tag}} {{.Size}}'
