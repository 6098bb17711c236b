#!/usr/bin/env bash
# A command of dynfusion on a Ray cluster of its own, which lives as long as a Slurm job. From the folder of the run
# file, in the activated environment, both on a disk that all nodes see:
#
#   sbatch --nodes=4 --gpus-per-node=8 --cpus-per-task=64 cluster/slurm.sh train jobs/runs/pretrained.toml \
#       data.uri=/shared/packed cluster.storage=/shared/runs cluster.workers=32 cluster.gpus=true
#
#   this script, on the first node --srun--> a task on each node: ray symmetric-run --on the first--> dynfusion VERB ...
#        ^                                                                                               |
#        +--- $state, in the home folder: the job's token; how the command ended; whether it shall end --+
#
# The job ends with the exit code of the command. 300 seconds before its time is up it saves a checkpoint and queues
# itself again; the same command then continues. Everything here may be overruled on sbatch's command line; beside it:
#   DYNFUSION_SAVE_SECONDS   between that notice and the end of the command, for checkpoints to be written (150)
#   DYNFUSION_CACHE          folder on a disk of the node for data that lie on S3 ($TMPDIR/dynfusion-cache-<user id>)
#
#SBATCH --job-name=dynfusion
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

READY_SECONDS=300    # for all nodes to be there; Ray's own 30 s are short for a shared disk
END_SECONDS=60       # for the command to end once it was asked to
REMAINING_SECONDS=20 # for the nodes to end once the command has; the others would notice after a minute
NAMESPACE=(unshare --user --map-current-user --pid --fork --kill-child --mount-proc)

say() { echo "slurm.sh: $*" >&2; }

# --- the batch script ---

batch() {
    verb=$1
    trap clean_up EXIT
    prepare
    say "job $SLURM_JOB_ID, start ${SLURM_RESTART_COUNT:-0}: $nodes nodes, head $RAY_ADDRESS: dynfusion $*"
    # A node that is lost is Ray's affair and not the end of the others, whatever the site's own rule is.
    srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
        --kill-on-bad-exit=0 bash "$state/slurm.sh" --on-each-node "$@" &
    step=$!
    trap notice USR1
    while kill -0 "$step" 2>/dev/null; do
        pause
        [ ! -e "$state/exit-code" ] || end_the_step
    done
    # The code of srun says nothing: symmetric-run ends with 0 when `ray start` fails.
    [ -e "$state/exit-code" ] || {
        say "the command was never run or was killed: Ray did not start on all $nodes nodes, or a node was lost; see above"
        exit 1
    }
    exit "$(<"$state/exit-code")"
}

prepare() {
    nodes=$SLURM_JOB_NUM_NODES
    state=$HOME/.cache/dynfusion/slurm-$SLURM_JOB_ID
    command -v ray >/dev/null || { say "ray is not on the path; activate the environment before sbatch" && exit 1; }
    rm -rf "$state" # of this job before it was queued again
    mkdir -p "$state" && chmod 700 "$state"
    cp "$0" "$state/slurm.sh"
    (umask 077 && head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$state/token")
    local port=$((20000 + SLURM_JOB_ID % 4000 * 3)) # below the ports that the kernel hands out; another job has others
    head=$(head_address)
    export state nodes head RAY_ADDRESS="$head:$port" RAY_API_SERVER_ADDRESS="http://$head:$((port + 1))"
    export CLIENT_PORT=$((port + 2)) RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$state/token"
    export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=$READY_SECONDS RAY_USAGE_STATS_ENABLED=0
    unset RAY_AUTH_TOKEN
    unset OMP_NUM_THREADS # a site's 1; without it each worker has as many threads as CPUs (cluster.cpus_per_worker)
    export CACHE=${DYNFUSION_CACHE:-${TMPDIR:-/tmp}/dynfusion-cache-$(id -u)}
}

# Where the other nodes find this one. A name will not do: it is a loopback address on many a node itself.
head_address() {
    ((nodes > 1)) || { echo 127.0.0.1 && return; }
    local name found
    name=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    found=$({ getent ahostsv4 "$name" || true; } | awk '$1 !~ /^127\./ { print $1; exit }')
    echo "${found:-$(hostname -I | awk '{ print $1 }')}"
}

# The time is nearly up. What trains saves on notice that nodes are taken away; then the command ends, with 143, and
# lets go of its run; then the job goes back into the queue, which ends this script too.
notice() {
    trap '' USR1
    say "the time is nearly up"
    case $verb in train | tune)
        say "saving"
        drain || say "the nodes could not be told; the last checkpoint is an older one"
        wait_for_the_end "${DYNFUSION_SAVE_SECONDS:-150}"
        ;;
    esac
    : >"$state/stop"
    wait_for_the_end "$END_SECONDS"
    [ -e "$state/exit-code" ] && [ "$(<"$state/exit-code")" != 143 ] || {
        say "queued again"
        scontrol requeue "$SLURM_JOB_ID" || say "that failed; the same sbatch continues"
    }
}

drain() {
    local ids
    ids=$(ray list nodes --filter state=ALIVE --limit 1000 | grep -oE '\b[0-9a-f]{56}\b' | sort -u) || return 1
    xargs -P 8 -I {} ray drain-node --node-id {} --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "time limit" \
        --deadline-remaining-seconds "${DYNFUSION_SAVE_SECONDS:-150}" <<<"$ids"
}

wait_for_the_end() {
    local until=$((SECONDS + $1))
    while [ ! -e "$state/exit-code" ] && kill -0 "$step" 2>/dev/null && ((SECONDS < until)); do
        pause
    done
}

end_the_step() {
    local until=$((SECONDS + REMAINING_SECONDS))
    while kill -0 "$step" 2>/dev/null && ((SECONDS < until)); do
        pause
    done
    kill "$step" 2>/dev/null || true
}

# A second in which a signal is heard at once.
pause() {
    sleep 1 &
    wait "$!" || true
}

clean_up() { rm -rf "$state"; }

# --- on each node, by srun ---

# symmetric-run refuses a node where it sees another Ray, and ends every Ray that it sees when it ends. In a process
# namespace of its own it sees this job's alone, so that several jobs share a node.
on_each_node() {
    if "${NAMESPACE[@]}" true 2>/dev/null; then
        exec "${NAMESPACE[@]}" bash "$state/slurm.sh" --ray "$@"
    fi
    say "$(hostname): no process namespaces here, so one job with Ray a node: sbatch --exclusive"
    run_ray "$@"
}

run_ray() {
    local name scratch
    name=dynfusion-$(id -u)-$SLURM_JOB_ID
    scratch=${TMPDIR:-/tmp}/$name
    rm -rf "/tmp/$name.ray" "$scratch" # what this job left here before it was queued again
    (umask 077 && mkdir "/tmp/$name.ray" "$scratch" && mkdir -p "$CACHE")
    export TMPDIR=$scratch
    # Ray's sockets need a short path. It waits for exactly this many nodes, neither fewer nor more.
    ray symmetric-run --address "$RAY_ADDRESS" --min-nodes "$nodes" --num-cpus="${SLURM_CPUS_PER_TASK:-1}" \
        --temp-dir="/tmp/$name.ray" --object-store-memory=2000000000 --dashboard-host="$head" \
        --dashboard-port="${RAY_API_SERVER_ADDRESS##*:}" --ray-client-server-port="$CLIENT_PORT" \
        --dashboard-agent-listen-port=0 --metrics-export-port=0 --min-worker-port=0 --max-worker-port=0 \
        --disable-usage-stats -- bash "$state/slurm.sh" --command "$@" || true
    rm -rf "/tmp/$name.ray" "$scratch"
}

# --- on the first node, by symmetric-run ---

run_command() {
    local code=0 arguments=("$@")
    case $1 in train | tune)
        [[ " $*" == *" data.cache_dir="* ]] || arguments+=("data.cache_dir=$CACHE")
        ;;
    esac
    python -m dynfusion "${arguments[@]}" &
    local child=$!
    trap 'kill -TERM "$child" 2>/dev/null || true' TERM INT
    while kill -0 "$child" 2>/dev/null; do
        pause
        [ ! -e "$state/stop" ] || kill -TERM "$child" 2>/dev/null || true
    done
    wait "$child" || code=$?
    echo "$code" >"$state/exit-code.new" && mv "$state/exit-code.new" "$state/exit-code"
    exit "$code"
}

case ${1:-} in
--on-each-node) on_each_node "${@:2}" ;;
--ray) run_ray "${@:2}" ;;
--command) run_command "${@:2}" ;;
train | tune | evaluate | pack | embed)
    [ -n "${SLURM_JOB_ID:-}" ] || { say "found no Slurm job; start it with sbatch" && exit 2; }
    batch "$@"
    ;;
*) say "found '${1:-}', allowed is train, tune, evaluate, pack or embed and its arguments" && exit 2 ;;
esac
