"""What must be right between the machines of a cluster: reachable, alike, of one time, watched, closed to others."""

from dynfusion.preflight.finding import Check, Finding, State, listed, worst
from dynfusion.preflight.observations import Machine, Node, Observations

DECISIVE = ("dynfusion", "ray", "torch", "deepspeed", "numpy", "pyarrow", "pydantic", "safetensors", "s3fs")
"""Where other versions are other numbers, or objects that the other side cannot read."""
SKEW_SECONDS, FAR_SKEW_SECONDS = 2.0, 60.0
"""A run's lease takes clocks to agree within minutes, S3 refuses signatures of a quarter of an hour ago."""


_TOKEN = (
    "set RAY_AUTH_MODE=token and the cluster's token as RAY_AUTH_TOKEN, in a file that RAY_AUTH_TOKEN_PATH names, or "
    "in ~/.ray/auth_token; RAY_AUTH_TOKEN wins over every file: unset it where it is another cluster's"
)


def cluster(seen: Observations) -> Finding | None:
    """Whether the cluster can be reached and joined."""
    found = seen.cluster
    if found is None:
        return None
    if found.unanswered is not None:
        cure = (
            "a node or the head hangs: see `ray status` and /tmp/ray/session_latest/logs there, and the network between"
        )
        if "joined" in found.unanswered:  # so ends what Ray's own code gives up without an exception, too
            cure = f"{_TOKEN}; if that is right, {cure}"
        return Finding("cluster", "failed", f"{found.address}: {found.unanswered}", cure)
    if found.problem is not None:
        return Finding("cluster", "failed", f"{found.address}: {found.problem}", _join_cure(found.problem))
    if not found.looked_inside:
        cure = f"`dynfusion submit doctor --address {found.address}` looks at its nodes from inside"
        return Finding("cluster", "warning", f"{found.address} answers, only its dashboard was looked at", cure)
    return Finding("cluster", "ok", f"{found.address}, {len(seen.nodes)} nodes")


def _join_cure(problem: str) -> str:
    """What to do about the sentence with which Ray refuses."""
    if "cannot be opened or is empty" in problem:
        return "correct RAY_AUTH_TOKEN_PATH; where the cluster is gone, unset it and RAY_ADDRESS"
    if "token" in problem.lower() or "authentic" in problem.lower():
        return _TOKEN
    if "version mismatch" in problem.lower():
        return "install the cluster's versions of Python and Ray here, or use the cluster's image"
    if "failed to connect to ray cluster" in problem.lower():  # the port answers: so Ray says it of a wrong token, too
        return f"{_TOKEN}; if that is right, is this the port of a Ray head of the same version (`ray status` there)?"
    return (
        "on the head: `ray status`; from here: is the address right (--cluster HOST:6379 on a machine of the cluster, "
        "http://HOST:8265 from outside), and do firewalls and the security group let the port through? Where the "
        "cluster is gone: unset RAY_ADDRESS"
    )


def nodes(seen: Observations) -> Finding | None:
    """Whether every node lives and answers, with the GPUs that Ray says it has."""
    if seen.cluster is None or not seen.cluster.looked_inside:
        return None
    silent = [f"{node.name}: {node.problem}" for node in seen.nodes if node.problem is not None]
    silent += [f"{node.name}: {wrong}" for node in seen.nodes if (wrong := _gpus_lost(node)) is not None]
    dead = [node.name for node in seen.cluster.nodes if not node.alive]
    if silent:
        cure = (
            "look at /tmp/ray/session_latest/logs of that node, drain it or start it again (`ray start --address=...`)"
        )
        return Finding("nodes", "failed", listed(silent), cure)
    idle = [node.name for node in seen.nodes if node.machine and len(node.machine.gpus) > node.gpus]
    if idle:
        cure = "start the node with --num-gpus, or without CUDA_VISIBLE_DEVICES hiding them"
        return Finding("nodes", "warning", f"{listed(idle)}: has more GPUs than Ray counts", cure)
    gone = f", {len(dead)} that were there before are gone" if dead else ""
    return Finding("nodes", "ok", f"{len(seen.nodes)} alive, all answer{gone}")


def _gpus_lost(node: Node) -> str | None:
    if node.machine is None or len(node.machine.gpus) >= node.gpus:
        return None
    return f"Ray counts {node.gpus:g} GPUs, the driver shows {len(node.machine.gpus)}"


def versions(seen: Observations) -> Finding | None:
    """Whether every node has this machine's Python, packages and dynfusion."""
    machines = [node.machine for node in seen.nodes if node.machine is not None]
    if not machines or not seen.here.python:
        return None
    grave = [text for machine in machines for text in _differences(machine, seen.here, decisive=True)]
    slight = [text for machine in machines for text in _differences(machine, seen.here, decisive=False)]
    cure = "use one image, or install the same lock file on every machine (constraints.txt) and start Ray there again"
    if grave or slight:
        return Finding("versions", "failed" if grave else "warning", listed(grave or slight), cure)
    return Finding(
        "versions",
        "ok",
        f"Python and {len(seen.here.packages)} packages are the same on {len(machines)} nodes and here",
    )


def _differences(machine: Machine, here: Machine, *, decisive: bool) -> list[str]:
    found = []
    if decisive and machine.python != here.python:
        found.append(f"{machine.name}: Python {machine.python}, here {here.python}")
    for name, version in here.packages.items():
        theirs = machine.packages.get(name)
        if theirs != version and (name in DECISIVE) == decisive:
            found.append(f"{machine.name}: {name} {theirs or 'is not installed'}, here {version}")
    if decisive and machine.code != here.code:
        what = "is not there" if machine.code is None else "is another one than here, of the same version or not"
        found.append(f"{machine.name}: dynfusion's code {what}")
    return found


def node_ports(seen: Observations) -> Finding | None:
    """Whether every node reaches the head's ports and every other node's."""
    looked = [node for node in seen.nodes if node.machine is not None]
    if not looked:
        return None
    closed = [f"{node.name} -> {target}: {why}" for node in looked for target, why in node.unreachable.items()]
    if closed:
        cure = (
            "let firewalls and the security group pass TCP among the nodes: GCS 6379, dashboard 8265, and the ports "
            "that `ray start --node-manager-port --object-manager-port --min-worker-port --max-worker-port` fix; the "
            "head's dashboard listens to others with --dashboard-host=0.0.0.0"
        )
        return Finding("node ports", "failed", listed(closed), cure)
    return Finding(
        "node ports", "ok", f"GCS, dashboard, node and object managers are reachable from {len(looked)} nodes"
    )


def dashboard(seen: Observations) -> Finding | None:
    """Whether the dashboard is there and answers: the State API, jobs and logs are parts of it."""
    found = seen.cluster
    if found is None or found.problem is not None or not (found.dashboard or found.dashboard_problem):
        return None
    if found.dashboard_problem is None:
        return Finding("dashboard", "ok", f"{found.dashboard} answers")
    cure = (
        "pip install 'ray[default]' on the head and start it with `ray start --head --include-dashboard=true "
        "--dashboard-host=0.0.0.0`"
    )
    return Finding("dashboard", "failed", found.dashboard_problem, cure)


def state_api(seen: Observations) -> Finding | None:
    """Whether workers can ask the State API: without it stopped trials of a sweep keep their CPUs."""
    if seen.cluster is None or not seen.cluster.state_api_asked:
        return None
    if seen.cluster.state_api_problem is None:
        return Finding("State API", "ok", "answers to workers")
    cure = (
        "start the head with its dashboard (`ray start --head --include-dashboard=true`, package ray[default]) before "
        "`dynfusion tune`; where several run on one machine, set RAY_API_SERVER_ADDRESS to this one's dashboard"
    )
    return Finding("State API", "failed", seen.cluster.state_api_problem, cure)


def authentication(seen: Observations) -> Finding | None:
    """Whether a cluster that others can reach asks for a token."""
    found = seen.cluster
    if found is None or found.authentication is None:
        return None
    if found.authentication != "disabled":
        return Finding("authentication", "ok", f"the cluster asks for a {found.authentication}")
    cure = (
        "`ray get-auth-token --generate`, that file on every machine, RAY_AUTH_MODE=token in the environment of every "
        "`ray start` and command; until then close ports 6379, 8265 and 10001 to others"
    )
    if found.outside:
        told = f"off, and {found.address} can be reached by other machines: whoever does so runs code on it"
        return Finding("authentication", "failed", told, cure)
    told = "off; the cluster listens on this machine alone, whose other users can run code on it"
    return Finding("authentication", "warning", told, cure)


def clocks(seen: Observations) -> Finding | None:
    """Whether this machine, every node and the store have one time."""
    looks = {node.name: _beyond(node.offset_seconds, node.error_seconds) for node in seen.nodes}
    if seen.storage is not None:  # a store tells whole seconds
        looks[seen.storage.uri.partition("?")[0]] = _beyond(seen.storage.clock_offset_seconds, 1.0)
    skews = {name: skew for name, skew in looks.items() if skew is not None}
    if not skews:
        return None
    states = {name: _skew_state(skew) for name, skew in skews.items()}
    state = worst(list(states.values()))
    if state == "ok":
        return Finding("clocks", "ok", f"within {max(skews.values()):.1f} s of this machine's: {len(skews)} looked at")
    told = [f"{name} differs from this machine by {skews[name]:.0f} s" for name, its in states.items() if its == state]
    cure = (
        "run an NTP service on every machine (`timedatectl set-ntp true`, or chrony): leases of runs and S3 "
        "signatures need it"
    )
    return Finding("clocks", state, listed(told), cure)


def _beyond(offset: float | None, error: float) -> float | None:
    """By how many seconds a clock differs at least."""
    return None if offset is None else max(abs(offset) - error, 0.0)


def _skew_state(seconds: float) -> State:
    return "failed" if seconds > FAR_SKEW_SECONDS else "warning" if seconds > SKEW_SECONDS else "ok"


CHECKS: tuple[Check, ...] = (cluster, nodes, versions, node_ports, dashboard, state_api, authentication, clocks)
