#!/usr/bin/env bash
# A Ray cluster of several nodes on this machine, to test what a single node cannot:
#   cluster/local.sh up N      start a head without CPUs and N worker nodes, with token authentication
#   eval "$(cluster/local.sh env)"   set the address and the token for `ray job submit`
#   cluster/local.sh kill K    kill worker node K at once, as a power failure would
#   cluster/local.sh down      stop the cluster and delete its files
# As root, each worker has its own network namespace and address; otherwise the nodes differ only in their ports.
#   CRACKVAE_CPUS=1            CPUs of each worker node
#   CRACKVAE_CLUSTER=          folder for the token, logs and process ids; default /tmp/crackvae-cluster
#   CRACKVAE_SUBNET=10.213.7   first three numbers of the addresses
set -euo pipefail

state="${CRACKVAE_CLUSTER:-/tmp/crackvae-cluster}"
cpus="${CRACKVAE_CPUS:-1}"
subnet="${CRACKVAE_SUBNET:-10.213.7}"
here="$(cd "$(dirname "$0")/.." && pwd)"
ray="${RAY:-$([ -x "$here/.venv/bin/ray" ] && echo "$here/.venv/bin/ray" || echo ray)}"
bridge="crackvae${subnet##*.}"
start_s=300  # a busy machine with two cores has needed more than 120

fail() { echo "local.sh: $*" >&2; exit 2; }

# free_ports N: print N free TCP ports.
free_ports() {
    python3 - "$1" <<'PY'
import socket, sys
kept = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(one.getsockname()[1] for one in kept))
PY
}

# Network namespaces need root and kernel support, which containers often lack.
can_have_namespaces() {
    [ "$(id -u)" = 0 ] && [ -z "${CRACKVAE_NO_NETNS:-}" ] && ip link add "$bridge" type bridge 2>/dev/null
}

namespace_of() { echo "$bridge-$1"; }

add_namespace() {
    local name; name="$(namespace_of "$1")"
    ip netns add "$name"
    ip link add "v$bridge$1" type veth peer name eth0 netns "$name"
    ip link set "v$bridge$1" master "$bridge" up
    ip -n "$name" link set lo up
    ip -n "$name" address add "$subnet.$((10 + $1))/24" dev eth0
    ip -n "$name" link set eth0 up
}

# start NAME COMMAND...: run in the background in a session of its own, with a log and a file with the process id.
start() {
    local name="$1"; shift
    setsid "$@" >"$state/$name.log" 2>&1 </dev/null &
    echo $! >"$state/$name.pid"
}

# wait_for_nodes N AGENT: wait until N nodes are alive and the head's agent, which accepts jobs, answers; else show the logs.
wait_for_nodes() {
    python3 - "$RAY_ADDRESS" "$state/token" "$1" "$2" "$start_s" <<'PY' && return
import json, sys, time, urllib.error, urllib.request
head, token, wanted, agent, seconds = sys.argv[1:]
headers = {"Authorization": f"Bearer {open(token).read()}"}

def ask(url):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        error.close()
        return b"{}"  # any answer will do: it listens
    except OSError:
        return None

deadline = time.monotonic() + float(seconds)
while time.monotonic() < deadline:
    nodes = json.loads(ask(f"{head}/api/v0/nodes") or b"{}").get("data", {}).get("result", {}).get("result", [])
    if sum(node["state"] == "ALIVE" for node in nodes) >= int(wanted) and ask(agent) is not None:
        sys.exit(0)
    time.sleep(0.3)
sys.exit(1)
PY
    tail -n 5 "$state"/*.log >&2
    fail "$1 nodes were not alive after $start_s s; logs in $state"
}

print_env() {
    [ -f "$state/env" ] || fail "no cluster in $state: cluster/local.sh up 2"
    cat "$state/env"
}

up() {
    local n="$1" ip=127.0.0.1 gcs dashboard agent client metrics k flags
    [[ "$n" =~ ^[1-9][0-9]?$ ]] || fail "up $n: give a number of worker nodes from 1 to 99"
    [ ! -e "$state/env" ] || fail "a cluster is in $state already: cluster/local.sh down"
    mkdir -p "$state" && chmod 700 "$state"
    touch "$state/env"
    trap down EXIT
    (umask 077; python3 -c 'import secrets; print(secrets.token_hex(32), end="")' >"$state/token")
    local netns=""
    if can_have_namespaces; then
        netns=yes ip="$subnet.1"
        echo "$bridge" >"$state/bridge"
        ip address add "$ip/24" dev "$bridge"
        ip link set "$bridge" up
    fi
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$state/token" RAY_USAGE_STATS_ENABLED=0
    unset RAY_AUTH_TOKEN
    read -r gcs dashboard agent client metrics <<<"$(free_ports 5)"
    export RAY_ADDRESS="http://$ip:$dashboard"
    start head "$ray" start --head --block --disable-usage-stats --num-cpus=0 --temp-dir="$state/ray" \
        --node-ip-address="$ip" --port="$gcs" --dashboard-host="$ip" --dashboard-port="$dashboard" \
        --dashboard-agent-listen-port="$agent" --ray-client-server-port="$client" --metrics-export-port="$metrics"
    local head_agent="http://$ip:$agent"
    wait_for_nodes 1 "$head_agent"
    for k in $(seq "$n"); do
        flags=("--address=$ip:$gcs" --block --disable-usage-stats "--num-cpus=$cpus" --num-gpus=0)
        if [ -n "$netns" ]; then
            add_namespace "$k"
            # All namespaces share the host name, which resolves to 127.0.0.1: Gloo must be told which interface to use.
            start "worker-$k" ip netns exec "$(namespace_of "$k")" env GLOO_SOCKET_IFNAME=eth0 \
                "$ray" start "${flags[@]}" "--node-ip-address=$subnet.$((10 + k))"
        else
            read -r agent metrics <<<"$(free_ports 2)"
            start "worker-$k" "$ray" start "${flags[@]}" --node-ip-address="$ip" \
                "--dashboard-agent-listen-port=$agent" "--metrics-export-port=$metrics"
        fi
        wait_for_nodes $((k + 1)) "$head_agent"  # one by one: together they exceeded Ray's own time limit on a busy machine
    done
    cat >"$state/env" <<ENV
export RAY_ADDRESS=$RAY_ADDRESS
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH=$state/token
export CRACKVAE_HEAD=$ip:$gcs
ENV
    trap - EXIT
    echo "$((n + 1)) nodes$([ -z "$netns" ] || echo " in network namespaces"); eval \"\$(cluster/local.sh env)\" to submit jobs"
}

# end NAME: kill a node and all its processes. A raylet starts its workers in process groups of their own, but they share
# the node's session and, if there is one, its network namespace.
end() {
    local pid processes namespace; pid="$(cat "$state/$1.pid")"
    processes="$(ps -o pid= --sid "$pid" || true)"
    namespace="$(namespace_of "${1#worker-}")"
    [ ! -e "/run/netns/$namespace" ] || processes="$processes $(ip netns pids "$namespace")"
    # shellcheck disable=SC2086
    kill -KILL $processes 2>/dev/null || true
    rm -f "$state/$1.pid"
}

kill_worker() {
    [[ "$1" =~ ^[0-9]+$ && -f "$state/worker-$1.pid" ]] || fail "kill $1: no such worker in $state"
    end "worker-$1"
}

down() {
    trap - EXIT
    local file name
    [ -d "$state" ] || { echo "no cluster in $state"; return; }
    for file in "$state"/*.pid; do
        [ ! -e "$file" ] || end "$(basename "$file" .pid)"
    done
    if [ -e "$state/bridge" ]; then
        for name in $(ip netns list | awk '{print $1}' | grep "^$bridge-" || true); do
            ip netns delete "$name"
        done
        ip link delete "$bridge" 2>/dev/null || true
    fi
    for _ in 1 2 3 4 5; do  # processes that are ending may still write their logs
        rm -rf "$state" 2>/dev/null && break
        sleep 0.2
    done
    echo "down"
}

case "${1:-}" in
    up) up "${2:-2}" ;;
    down) down ;;
    env) print_env ;;
    kill) kill_worker "${2:-}" ;;
    *) fail "usage: cluster/local.sh up N | env | kill K | down" ;;
esac
