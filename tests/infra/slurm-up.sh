#!/usr/bin/env bash
# One-node Slurm (Debian 12) as root: no systemd, no cgroups, no accounting database, N fake GPUs. Idempotent.
#   slurm-up.sh [NGPU]       state goes to $SLURM_TEST_DIR (default /tmp/slurm-test). Stop with slurm-down.sh.
# SLURM_TEST_CPUS=n oversubscribes the node (fast tests on small machines). GPUs and memory are scheduled, not isolated.
# Writes /etc/slurm/{slurm,gres}.conf and /etc/munge/munge.key: for throw-away machines only.
set -euo pipefail
NGPU=${1:-2}
S=${SLURM_TEST_DIR:-/tmp/slurm-test}
H=$(hostname -s)
mkdir -p "$S"/{state,spool,log,dev}

if ! { command -v slurmctld && command -v slurmd && command -v munged; } >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q >"$S/log/apt.log" 2>&1 || true     # a third-party source may be unreachable
  apt-get install -q -y --no-install-recommends slurmctld slurmd slurm-client munge >>"$S/log/apt.log" 2>&1 ||
    { tail -5 "$S/log/apt.log" >&2; exit 1; }
fi
if timeout 5 sinfo -h -o %T 2>/dev/null | grep -Eq 'idle|mixed|allocated'; then echo "Slurm already answers"; exit 0; fi

mkdir -p /etc/slurm
install -d -o munge -g munge -m 0755 /run/munge
install -d -o munge -g munge -m 0700 /var/log/munge
[ -s /etc/munge/munge.key ] || {
  dd if=/dev/urandom of=/etc/munge/munge.key bs=1 count=1024 status=none
  chown munge: /etc/munge/munge.key; chmod 400 /etc/munge/munge.key; }

# A GPU needs a device file, or the node is drained: copies of /dev/null will do.
for i in $(seq 0 $((NGPU - 1))); do [ -e "$S/dev/gpu$i" ] || mknod "$S/dev/gpu$i" c 1 3; done

CPUS=${SLURM_TEST_CPUS:-$(nproc)}
MEM=$(($(awk '/MemTotal/{print $2}' /proc/meminfo) / 1024 - 1024))
cat >/etc/slurm/slurm.conf <<C
ClusterName=local
SlurmctldHost=$H(127.0.0.1)
AuthType=auth/munge
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$S/state
SlurmdSpoolDir=$S/spool
SlurmctldPidFile=$S/slurmctld.pid
SlurmdPidFile=$S/slurmd.pid
SlurmctldLogFile=$S/log/slurmctld.log
SlurmdLogFile=$S/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
DependencyParameters=kill_invalid_depend
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$S/log/jobcomp.txt
MinJobAge=300
KillWait=2
InactiveLimit=0
GresTypes=gpu
PropagateResourceLimitsExcept=ALL
NodeName=$H NodeAddr=127.0.0.1 CPUs=$CPUS RealMemory=$MEM Gres=gpu:fake:$NGPU State=UNKNOWN
PartitionName=main Nodes=$H Default=YES MaxTime=INFINITE DefMemPerCPU=500 State=UP OverSubscribe=NO
PartitionName=short Nodes=$H MaxTime=00:10:00 DefMemPerCPU=500 State=UP
C
echo "NodeName=$H Name=gpu Type=fake File=$S/dev/gpu[0-$((NGPU - 1))]" >/etc/slurm/gres.conf

{ [ -s /run/munge/munged.pid ] && kill -0 "$(cat /run/munge/munged.pid)" 2>/dev/null; } ||
  setsid runuser -u munge -- munged --force >"$S/log/munged.out" 2>&1 </dev/null
setsid slurmctld >"$S/log/ctld.out" 2>&1 </dev/null
setsid slurmd -N "$H" >"$S/log/d.out" 2>&1 </dev/null
# Every client call needs a time limit: clients retry for minutes when slurmctld is dead.
for _ in $(seq 100); do timeout 5 sinfo -h -o %T 2>/dev/null | grep -q idle && break; sleep 0.1; done
timeout 5 sinfo -h -o '%P %T cpus=%c gres=%G' || { tail -5 "$S/log/slurmctld.log" >&2; exit 1; }
