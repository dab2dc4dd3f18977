#!/bin/sh
# Run a command beside a real Slurm of one node, this one: munged, slurmctld and slurmd in a temporary folder, stopped at the end.
#
#   tests/slurm_single_node.sh distill run skd/table1_accuracy --engine dask --scheduler slurm --workers 2
#
# Needs root and Debian's packages slurm-wlm and munge; installs and changes nothing. There is no systemd and no cgroup in it,
# so Slurm finds a job's processes by their parents. The jobs of dask-jobqueue have a core and 4 GB each.
set -eu
for program in munged slurmctld slurmd sinfo; do
    command -v $program >/dev/null || { echo "needs $program: apt-get install slurm-wlm munge" >&2; exit 77; }
done
[ "$(id -u)" = 0 ] || { echo "needs root" >&2; exit 77; }

folder=$(mktemp -d)
chmod 755 "$folder"
mkdir "$folder/state" "$folder/spool"
host=$(hostname -s)
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

stop() {
    status=$?
    [ -z "${slurmd:-}" ] || scancel --user="$(id -un)" 2>/dev/null || true
    for process in ${slurmd:-} ${slurmctld:-} ${munged:-}; do
        kill "$process" 2>/dev/null && wait "$process" 2>/dev/null || true
    done
    [ $status = 0 ] || tail -n 20 "$folder"/*.log >&2
    rm -rf "$folder"
    exit $status
}
trap stop EXIT
trap 'exit 130' INT TERM

head -c 1024 /dev/urandom >"$folder/munge.key"
chmod 600 "$folder/munge.key"
munged --foreground --force --num-threads=1 --key-file="$folder/munge.key" --socket="$folder/munge.sock" --pid-file="$folder/munged.pid" \
    --seed-file="$folder/munged.seed" >"$folder/munged.log" 2>&1 &
munged=$!

cat >"$folder/slurm.conf" <<END
ClusterName=single
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(port)
SlurmdPort=$(port)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.sock
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1
ReturnToService=2
MailProg=/bin/true
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(getconf _NPROCESSORS_ONLN) RealMemory=$(awk '/MemTotal/ {print int($2 / 1024) - 64}' /proc/meminfo) State=UNKNOWN
PartitionName=single Nodes=ALL Default=YES MaxTime=INFINITE OverSubscribe=FORCE:4 State=UP
END
: >"$folder/cgroup.conf"
export SLURM_CONF="$folder/slurm.conf"

tries=0
until [ -S "$folder/munge.sock" ]; do
    tries=$((tries + 1))
    [ $tries -lt 60 ] || { echo "munged does not start" >&2; exit 1; }
    sleep 0.5
done
slurmctld -D -i -f "$SLURM_CONF" >"$folder/slurmctld.log" 2>&1 &
slurmctld=$!
slurmd -D -N "$host" -f "$SLURM_CONF" >"$folder/slurmd.log" 2>&1 &
slurmd=$!
tries=0
until [ "$(sinfo -h -o %t 2>/dev/null)" = idle ]; do
    tries=$((tries + 1))
    [ $tries -lt 60 ] || { echo "the node does not become idle: $(sinfo -h -N -l 2>&1)" >&2; exit 1; }
    sleep 1
done
sinfo

export DASK_JOBQUEUE__SLURM__QUEUE=single DASK_JOBQUEUE__SLURM__CORES=1 DASK_JOBQUEUE__SLURM__MEMORY=4GB
export DASK_JOBQUEUE__SLURM__INTERFACE=lo DASK_JOBQUEUE__SLURM__WALLTIME=00:30:00 DASK_JOBQUEUE__SLURM__LOG_DIRECTORY="$folder"
"$@"
squeue --states=all --format="job %i %j %T"
