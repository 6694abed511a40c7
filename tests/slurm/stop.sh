#!/usr/bin/env bash
# Stop what start.sh started, with the jobs that still run; nothing else.
set -euo pipefail
STATE=${METRAD_SLURM_STATE:-/var/lib/metrad-slurm}
export SLURM_CONF=$STATE/slurm.conf

stop() {  # PID_FILE NAME
  local pid
  pid=$(cat "$1" 2>/dev/null) || return 0
  [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ] || return 0  # the number may be another process's by now
  kill "$pid"
  for _ in $(seq 100); do
    if [ ! -d "/proc/$pid" ]; then return 0; fi
    sleep 0.1
  done
  kill -9 "$pid"
}

if [ -e "$STATE/slurmctld.pid" ] && timeout 5 squeue --noheader >/dev/null 2>&1; then
  timeout 5 scancel --full --signal=KILL --user="$(id -un)" >/dev/null 2>&1 || true
  timeout 5 scancel --user="$(id -un)" >/dev/null 2>&1 || true
  sleep 1
fi
stop "$STATE/slurmd.pid" slurmd
stop "$STATE/slurmctld.pid" slurmctld
stop "$STATE/munge/pid" munged
rm -rf "$STATE/controller" "$STATE/node"  # jobs of an earlier cluster are none of the next one's
