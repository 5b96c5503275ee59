#!/usr/bin/env bash
# Check that an image works where it will run: as a user that it does not know, on a read-only root, without network,
# capabilities and home. Everything it then does is containers/smoke.py. Exit code 0: it works; 69: a GPU was asked for and
# cannot be had; anything else: it does not work.
#
#   containers/smoke.sh IMAGE [cpu|cuda]
#
#   DOCKER       the engine's command (default: docker)
#   GPU_FLAGS    how the engine is asked for GPUs (default: --gpus all; podman: --device nvidia.com/gpu=all)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
docker=${DOCKER:-docker}

refuse() {
  printf 'smoke.sh: %s\n' "$2" >&2
  exit "$1"
}

if (($# < 1 || $# > 2)) || [[ ! ${2:-cpu} =~ ^(cpu|cuda)$ ]]; then refuse 64 "expected IMAGE [cpu|cuda], got '$*'"; fi
image=$1
device=${2:-cpu}
"$docker" info >/dev/null 2>&1 || refuse 69 "'$docker' reaches no engine: install and start one, or name its command in DOCKER"
"$docker" image inspect "$image" >/dev/null 2>&1 || refuse 69 "there is no image $image here: make it with containers/build.sh"

gpu_flags=()
if [[ $device == cuda ]]; then read -r -a gpu_flags <<<"${GPU_FLAGS:---gpus all}"; fi

# The user is of no group and no file of ours: the folder of the task is all that it may write.
task=$(mktemp -d)
trap 'rm -rf "$task"' EXIT
uid=$((20000 + RANDOM))
mkdir -m 0777 "$task/work"
chmod 0711 "$task"
cp "$here/smoke.py" "$task/"
chmod 0644 "$task/smoke.py"

status=0
"$docker" run --rm --read-only --network none --cap-drop ALL --security-opt no-new-privileges \
  --user "$uid:$uid" --env HOME=/nonexistent --env "OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}" "${gpu_flags[@]}" \
  --volume "$task:$task" --workdir "$task/work" "$image" \
  bash -euo pipefail -c "ps -p \$\$ -o comm= && python3 -P '$task/smoke.py' --device '$device'" || status=$?
# 125 is the engine's own: it did not start the container.
if [[ $device == cuda && $status == 125 ]]; then
  refuse 69 "a GPU was asked for, and the engine cannot give one to a container: install the NVIDIA container toolkit"
fi
exit "$status"
