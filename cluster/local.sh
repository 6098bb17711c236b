#!/usr/bin/env bash
# A Ray cluster of two nodes on this Linux machine, for development: a head and a second node, with a token.
#
#   eval "$(cluster/local.sh up)"    start it, and let this shell and its commands use it
#   cluster/local.sh status          0: both nodes are alive; 1: not both; 3: there is none
#   cluster/local.sh down            end what `up` started, and nothing else
#
# Options: --state FOLDER           where its files lie, 32 characters at most (/tmp/dynfusion-<user id>)
#          --head-cpus N, --cpus N  CPUs that head and second node offer (0, all); --gpus N of the second node (0)
#          --port P, --dashboard-port P   (free ones)
#
# Dashboard and job server listen on 127.0.0.1; Ray's other ports on every address, whatever it is told: the token guards
# them.
#
# In the folder: token, environment (the exports), processes (node, id, start time), head.log, second.log, ray/ (Ray's
# own). Each node is a session of processes; a number that another process has by now is told by its start time.
set -euo pipefail

START_SECONDS=120
END_SECONDS=20

say() { echo "local.sh: $*" >&2; }
fail() {
    say "$1"
    exit "${2:-1}"
}

# A node of a cluster that lives on one machine: no port is fixed that another node or cluster could have taken.
# The tests start their nodes with it too.
node() {
    exec ray start --block --node-ip-address=127.0.0.1 --num-gpus=0 --object-store-memory=200000000 \
        --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0 --metrics-export-port=0 \
        --disable-usage-stats "$@"
}

up() {
    if [ -e "$state/processes" ]; then
        [ "$(running | wc -l)" = 2 ] || fail "a cluster in $state has lost a node; end the rest: $0 down --state $state"
        say "it is up already"
        cat "$state/environment"
        return
    fi
    prepare
    trap give_up EXIT
    start head --head --num-cpus="$head_cpus" --port="$port" --ray-client-server-port="$client_port" \
        --include-dashboard=true --dashboard-host=127.0.0.1 --dashboard-port="$dashboard_port" --temp-dir="$state/ray"
    wait_for_nodes 1
    start second --address="127.0.0.1:$port" --num-cpus="$cpus" --num-gpus="$gpus"
    wait_for_nodes 2
    trap - EXIT
    say "two nodes are up; dashboard and job server: http://127.0.0.1:$dashboard_port"
    cat "$state/environment"
}

give_up() {
    local code=$?
    tail -n 20 "$state"/*.log >&2 || true
    down
    exit "$code"
}

# The folder, the token, the ports, and what a shell needs to use the cluster.
prepare() {
    command -v ray >/dev/null || fail "ray is not on the path; activate the environment (source .venv/bin/activate)"
    ((${#state} <= 32)) || fail "--state: found ${#state} characters, allowed are 32: Ray puts sockets below it"
    umask 077
    mkdir -p "$state" && [ -O "$state" ] || fail "$state belongs to somebody else; name another folder with --state"
    [ -z "$(ls -A "$state")" ] || fail "$state holds other files; name an empty or a new folder with --state"
    chmod 700 "$state"
    : >"$state/processes"
    local found
    mapfile -t found < <(free_ports)
    port=${port:-${found[0]}} dashboard_port=${dashboard_port:-${found[1]}} client_port=${found[2]}
    head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$state/token"
    {
        echo "unset RAY_AUTH_TOKEN"
        echo "export RAY_AUTH_MODE=token"
        printf 'export RAY_AUTH_TOKEN_PATH=%q\n' "$state/token"
        echo "export RAY_API_SERVER_ADDRESS=http://127.0.0.1:$dashboard_port"
        echo "export RAY_ADDRESS=127.0.0.1:$port"
    } >"$state/environment"
    cat /proc/sys/kernel/random/boot_id >"$state/boot"
    # shellcheck source=/dev/null
    . "$state/environment"
    unset RAY_ADDRESS # the nodes are the cluster
}

free_ports() {
    python3 -S - <<'PYTHON'
import socket

sockets = [socket.socket() for _ in range(3)]
for opened in sockets:
    opened.bind(("127.0.0.1", 0))
print(*(opened.getsockname()[1] for opened in sockets), sep="\n")
PYTHON
}

# start NAME OPTION...: a node in a session of its own, which Ctrl-C of this shell does not reach.
start() {
    setsid bash "$0" node "${@:2}" >"$state/$1.log" 2>&1 </dev/null &
    echo "$1 $! $(born "$!")" >>"$state/processes"
}

wait_for_nodes() {
    until [ "$(alive)" = "$1" ]; do
        [ "$(running | wc -l)" = "$1" ] || fail "a node ended while it was started"
        ((SECONDS < START_SECONDS)) || fail "$1 nodes are not there after $START_SECONDS s"
        sleep 0.2
    done
}

# How many nodes the cluster counts as alive; 0 where it does not answer.
alive() {
    # shellcheck source=/dev/null
    (. "$state/environment" && python3 -S -) <<'PYTHON' 2>/dev/null || echo 0
import json
import os
import urllib.request

token = open(os.environ["RAY_AUTH_TOKEN_PATH"]).read()
address = os.environ["RAY_API_SERVER_ADDRESS"] + "/nodes?view=summary"
request = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"})
with urllib.request.urlopen(request, timeout=10) as answer:
    nodes = json.load(answer)["data"]["summary"]
print(sum(node["raylet"].get("state") == "ALIVE" for node in nodes))
PYTHON
}

# The start time of a process, in ticks since the machine was; nothing for one that has ended.
born() {
    local line fields
    { line=$(<"/proc/$1/stat"); } 2>/dev/null || return 0
    read -ra fields <<<"${line##*) }"
    [ "${fields[0]}" = Z ] || echo "${fields[19]}"
}

# Whether there are processes, and their numbers count in this boot of the machine.
same_boot() {
    [ -s "$state/processes" ] && [ "$(<"$state/boot")" = "$(</proc/sys/kernel/random/boot_id)" ]
}

# "NAME ID START" of the nodes whose first process runs.
running() {
    local name id start
    same_boot || return 0
    while read -r name id start; do
        [ "$(born "$id")" != "$start" ] || echo "$name $id $start"
    done <"$state/processes"
}

# "ID START" of every process of the nodes: the sessions that were started, and all descendants. A session's number is
# free again only when all its processes have ended, so those of a killed first process are still found.
members() {
    same_boot || return 0
    { cat /proc/[0-9]*/stat 2>/dev/null || true; } | sed 's/(.*)/-/' | awk '
        NR == FNR { first[$2] = $3; next }
        $3 != "Z" && NF > 22 { parent[$1] = $4; session[$1] = $6; born[$1] = $22 }
        END {
            for (id in born) {
                head = session[id]
                if (head in first && (!(head in born) || born[head] == first[head]) && born[id] >= first[head]) ours[id]
            }
            do {
                more = 0
                for (id in born) if (!(id in ours) && parent[id] in ours) { ours[id]; more = 1 }
            } while (more)
            for (id in ours) print id, born[id]
        }' "$state/processes" -
}

down() {
    trap - EXIT
    [ -e "$state/processes" ] || { say "there is no cluster in $state" && return; }
    local ours name id start until=$((SECONDS + END_SECONDS))
    ours=$(members)
    while read -r name id start; do
        kill -TERM "$id" 2>/dev/null || true
    done < <(running)
    while [ -n "$(running)" ] && ((SECONDS < until)); do
        sleep 0.2
    done
    while read -r id start; do
        [ "$(born "${id:-none}")" != "$start" ] || { kill -KILL "$id" 2>/dev/null || true; }
    done < <(echo "$ours" && members)
    rm -rf "$state/ray"
    rm -f "$state"/{token,environment,boot,head.log,second.log,processes}
    rmdir "$state"
    say "ended"
}

status() {
    [ -e "$state/processes" ] || fail "there is no cluster in $state" 3
    local name id start count
    while read -r name id start; do
        echo "$name: process $id $([ "$(born "$id")" = "$start" ] && echo runs || echo "has ended"), $state/$name.log"
    done <"$state/processes"
    count=$(alive)
    echo "nodes alive: $count"
    grep -o 'RAY_[A-Z_]*ADDRESS=.*' "$state/environment"
    [ "$count" = 2 ] && [ "$(running | wc -l)" = 2 ] # Ray may take seconds to count a node that was killed as dead
}

option() { [ $# -ge 2 ] && [ -n "$2" ] || fail "$1: a value is required" 2; }

action=${1:-}
shift || true
[ "$action" != node ] || node "$@"
state=/tmp/dynfusion-$(id -u) head_cpus=0 cpus=$(nproc) gpus=0 port="" dashboard_port="" client_port=""
while [ $# -gt 0 ]; do
    option "$@"
    case $1 in
    --state) state=$(realpath -m -- "$2") ;;
    --head-cpus) head_cpus=$2 ;;
    --cpus) cpus=$2 ;;
    --gpus) gpus=$2 ;;
    --port) port=$2 ;;
    --dashboard-port) dashboard_port=$2 ;;
    *) fail "found option $1, allowed are --state, --head-cpus, --cpus, --gpus, --port, --dashboard-port" 2 ;;
    esac
    shift 2
done
case $action in
up | down | status) [ -r /proc/self/stat ] || fail "Linux is needed, /proc is not here" && "$action" ;;
*) fail "found '$action', allowed are up, down and status" 2 ;;
esac
