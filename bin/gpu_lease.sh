#!/usr/bin/env bash
# Sourced by a local task before it starts (conf/gpu.config): waits for a free GPU and sets CUDA_VISIBLE_DEVICES to it.
# Nextflow itself counts no GPUs on this machine, and its maxForks counts each process on its own.
#
#   source gpu_lease.sh [IDS]     IDS: comma list of indices or UUIDs; else $CUDA_VISIBLE_DEVICES; else what nvidia-smi lists
#
# A lease is a lock on an open file, inherited by all that the task starts: the kernel frees it when the last of them is
# gone, whatever ended them. The locks lie in $PTYCHOFLOW_LEASE_DIR, by default the same folder for all users of the machine;
# it must be on a local disk. Without any GPU nothing is taken, and the task itself says what is missing (exit code 69).

# Devices in the order in which they are tried, as UUIDs where nvidia-smi knows them: two runs that name one card differently
# must meet at one lock, and an index means another card to CUDA than to nvidia-smi where the cards differ.
_lease_devices() {
  local ids=$1 index uuid id
  local -A uuids=()
  local -a order=()
  while IFS=', ' read -r index uuid; do
    # Without a driver nvidia-smi prints its complaint instead.
    if [[ $uuid == GPU-* ]]; then uuids[$index]=$uuid && order+=("$uuid"); fi
  done < <(nvidia-smi --query-gpu=index,uuid --format=csv,noheader 2>/dev/null)
  if [[ -z $ids ]]; then ids=${order[*]}; fi
  for id in ${ids//,/ }; do printf '%s\n' "${uuids[$id]:-$id}"; done
}

_lease_take() {
  local folder=${PTYCHOFLOW_LEASE_DIR:-/tmp/ptychoflow-gpu-lease} devices device file fd told="" traps
  mapfile -t devices < <(_lease_devices "${1:-${CUDA_VISIBLE_DEVICES-}}")
  if ((${#devices[@]} == 0)); then
    echo "gpu_lease: no GPU found" >&2
    return 0
  fi
  # Files of one user are locked by others: no sticky bit, or the kernel refuses to open them (fs.protected_regular).
  (umask 0; mkdir -p "$folder")
  # Nextflow's own trap ends what the task has started, and then goes on: a killed task would wait on, and run.
  traps=$(trap -p TERM INT USR2)
  trap 'exit 143' TERM INT USR2
  while :; do
    for device in "${devices[@]}"; do
      file=$folder/${device//[^A-Za-z0-9._-]/_}.lock
      [[ -e $file ]] || (umask 0; : >>"$file")
      exec {fd}<"$file"
      if flock -n "$fd"; then
        export CUDA_VISIBLE_DEVICES=$device
        echo "gpu_lease: $device" >&2
        trap - TERM INT USR2
        eval "$traps"
        return 0
      fi
      exec {fd}<&-
    done
    [[ -n $told ]] || echo "gpu_lease: waiting for one of ${devices[*]}" >&2
    told=yes
    sleep 0.3
  done
}

# An empty list and -1 are CUDA's own ways to say: no GPU.
if [[ -z ${1:-} && ${CUDA_VISIBLE_DEVICES-unset} =~ ^(-1)?$ ]]; then
  echo "gpu_lease: CUDA_VISIBLE_DEVICES hides every GPU" >&2
else
  _lease_take "${1:-}"
fi
