#!/usr/bin/env bash
# Start a Slurm cluster of one node, this machine, for the tests: `make test-slurm` calls this.
# Needs root, and Debian or a system like it where Slurm is not installed yet. No systemd and no cgroups are needed. All it
# writes lies in one folder, so a cluster that this machine may belong to is left alone; running it again changes nothing.
set -euo pipefail
STATE=${METRAD_SLURM_STATE:-/var/lib/metrad-slurm}
export SLURM_CONF=$STATE/slurm.conf

fail() { echo "slurm: $*" >&2; exit 1; }
idle() { sinfo --noheader --format=%T 2>"$STATE/sinfo.err" | grep -qE '^(idle|mixed|allocated)$'; }

[ "$(id -u)" = 0 ] || fail "only root can start it"
if ! type slurmctld slurmd munged sbatch >/dev/null 2>&1; then
  command -v apt-get >/dev/null || fail "slurmctld, slurmd and munged are not installed, and there is no apt-get"
  # a service that cannot start in a container must not make the installation fail
  export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends slurm-wlm munge
fi
mkdir -p "$STATE" && chmod 755 "$STATE"
if [ -f "$SLURM_CONF" ] && idle; then exit 0; fi
"$(dirname "${BASH_SOURCE[0]}")/stop.sh"

mkdir -p "$STATE"/{munge,controller,node,log}
host=$(hostname -s)
memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
if [ ! -s "$STATE/munge/key" ]; then (umask 077; head -c 128 /dev/urandom >"$STATE/munge/key"); fi
chown -R root: "$STATE/munge"
cat >"$SLURM_CONF" <<CONF
ClusterName=metrad
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${METRAD_SLURM_PORT:-16817}
SlurmdPort=$((${METRAD_SLURM_PORT:-16817} + 1))
SlurmUser=root
# a requeued job waits until its old credentials have run out: 120 seconds if nothing is said
AuthInfo=socket=$STATE/munge/socket,cred_expire=5
StateSaveLocation=$STATE/controller
SlurmdSpoolDir=$STATE/node
SlurmctldPidFile=$STATE/slurmctld.pid
SlurmdPidFile=$STATE/slurmd.pid
SlurmctldLogFile=$STATE/log/slurmctld.log
SlurmdLogFile=$STATE/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
KillWait=5
# a job in the partition urgent preempts those in work; without GraceTime, which Slurm rounds up by half a minute
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=work Nodes=$host Default=YES State=UP PriorityTier=1
PartitionName=urgent Nodes=$host State=UP PriorityTier=2
CONF

munged --key-file="$STATE/munge/key" --socket="$STATE/munge/socket" --pid-file="$STATE/munge/pid" \
  --log-file="$STATE/munge/log" --seed-file="$STATE/munge/seed"
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF"
for _ in $(seq 60); do
  if idle; then exit 0; fi
  sleep 0.5
done
tail -n 5 "$STATE"/log/*.log "$STATE/sinfo.err" >&2
fail "the node did not become idle within 30 seconds; the logs lie in $STATE/log"
