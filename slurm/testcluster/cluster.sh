#!/bin/bash
# A Slurm cluster of two nodes on this host, for tests: real slurmctld and two real slurmd, as root, without systemd.
#
#   cluster.sh start FOLDER     munged if none runs, slurmctld, nodes n1 and n2; configuration, state and logs in FOLDER
#   cluster.sh stop FOLDER      end what start started
#   cluster.sh node FOLDER n1   start one node again, after it was killed
#   cluster.sh missing          what is not installed, one name a line; nothing where all is there
#
# Then: export SLURM_CONF=FOLDER/slurm.conf. Packages: slurm-wlm and munge. Ports can be moved by FIRST_PORT.
set -euo pipefail
readonly FIRST_PORT=${FIRST_PORT:-17000}
readonly NODES=(n1 n2)

missing() {
    local name
    for name in slurmctld slurmd sbatch munged; do
        command -v "$name" >/dev/null || echo "$name"
    done
    [[ $EUID -eq 0 ]] || echo "root"
}

write_configuration() {
    local host
    host=$(hostname)
    cat >"$FOLDER/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$FIRST_PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$FOLDER/munge/socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
FirstJobId=$FIRST_PORT # other numbers than those of another cluster on this host
SlurmctldTimeout=10
SlurmdTimeout=15
KillWait=15
MinJobAge=600
SchedulerParameters=sched_interval=1,bf_interval=1
StateSaveLocation=$FOLDER/state
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmctldLogFile=$FOLDER/slurmctld.log
SlurmdSpoolDir=$FOLDER/spool.%n
SlurmdPidFile=$FOLDER/slurmd.%n.pid
SlurmdLogFile=$FOLDER/slurmd.%n.log
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((FIRST_PORT + 1))-$((FIRST_PORT + 2))] CPUs=2 State=UNKNOWN
PartitionName=low Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes=n[1-2] MaxTime=INFINITE State=UP PriorityTier=10
CONF
}

start_munge() {
    install -d -m 0700 -o munge -g munge "$FOLDER/munge"
    dd if=/dev/urandom of="$FOLDER/munge/key" bs=64 count=1 status=none
    chown munge:munge "$FOLDER/munge/key"
    chmod 0400 "$FOLDER/munge/key"
    chmod 0711 "$FOLDER" "$FOLDER/munge"
    setpriv --reuid munge --regid munge --clear-groups munged --key-file "$FOLDER/munge/key" \
        --socket "$FOLDER/munge/socket" --pid-file "$FOLDER/munge/pid" --log-file "$FOLDER/munge/log" \
        --seed-file "$FOLDER/munge/seed"
}

start_node() {
    SLURM_CONF=$FOLDER/slurm.conf slurmd -N "$1"
}

start() {
    local lacking
    lacking=$(missing)
    if [[ -n $lacking ]]; then
        echo "cluster.sh: not here: ${lacking//$'\n'/, }; as root, apt-get install slurm-wlm munge" >&2
        exit 3
    fi
    mkdir -p "$FOLDER/state"
    write_configuration
    start_munge
    export SLURM_CONF=$FOLDER/slurm.conf
    slurmctld
    for node in "${NODES[@]}"; do
        start_node "$node"
    done
    for _ in {1..100}; do
        [[ $(sinfo --noheader --Node --partition=low --format=%T 2>/dev/null | grep -c '^idle$') -eq ${#NODES[@]} ]] && return
        sleep 0.2
    done
    echo "cluster.sh: the nodes are not idle after 20 s; see the logs in $FOLDER, or try another FIRST_PORT" >&2
    stop
    exit 1
}

end() { # PIDFILE: end its process, at last by force
    local pid
    [[ -f $1 ]] && pid=$(<"$1") || return 0
    kill "$pid" 2>/dev/null || return 0
    for _ in {1..50}; do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
}

stop() {
    local file
    export SLURM_CONF=$FOLDER/slurm.conf
    # No job needs its time to save, and a slurmd waits for its jobs before it ends.
    scancel --signal=KILL --full --user=root 2>/dev/null || true
    scancel --user=root 2>/dev/null || true
    for _ in {1..50}; do
        [[ -z $(squeue --noheader --states=running,completing 2>/dev/null) ]] && break
        sleep 0.2
    done
    for file in "$FOLDER"/slurmd.*.pid "$FOLDER/slurmctld.pid" "$FOLDER/munge/pid"; do
        end "$file"
    done
}

command=${1:?start, stop, node or missing}
if [[ $command == missing ]]; then
    missing
    exit
fi
FOLDER=$(realpath -m "${2:?the folder of the cluster}")
readonly FOLDER
case $command in
    start) start ;;
    stop) stop ;;
    node) start_node "${3:?n1 or n2}" ;;
    *) echo "cluster.sh: $command is none of start, stop, node, missing" >&2 && exit 2 ;;
esac
