"""Two hosts on one machine: network namespaces with an address each, joined by a cable that can be pulled."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from tests.clusters import Place


@dataclass(frozen=True)
class Host(Place):
    """A place for a node, in a namespace of its own."""

    namespace: str = ""

    def link(self, state: str) -> None:
        """Pull the cable (`down`) or put it back (`up`)."""
        run("ip", "netns", "exec", self.namespace, "ip", "link", "set", "eth0", state)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


@contextmanager
def two_namespaces() -> Iterator[tuple[Host, Host]]:
    """Two hosts that this process reaches too, through a bridge. Skips the test where they cannot be made."""
    mark = os.getpid() % 10_000
    bridge = f"chaos{mark}"
    with ExitStack() as stack:
        try:
            run("ip", "link", "add", bridge, "type", "bridge")
            stack.callback(run, "ip", "link", "delete", bridge)
            run("ip", "address", "add", "10.213.0.254/24", "dev", bridge)
            run("ip", "link", "set", bridge, "up")
            hosts = [_host(stack, mark, number, bridge) for number in (1, 2)]
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces can be made here: {getattr(error, 'stderr', '') or error}")
        yield hosts[0], hosts[1]


def _host(stack: ExitStack, mark: int, number: int, bridge: str) -> Host:
    namespace, outside, address = f"chaos{mark}-{number}", f"cv{mark}-{number}", f"10.213.0.{number}"
    run("ip", "netns", "add", namespace)
    stack.callback(run, "ip", "netns", "delete", namespace)
    run("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    run("ip", "link", "set", outside, "master", bridge)
    run("ip", "link", "set", outside, "up")
    inside = ("ip", "netns", "exec", namespace, "ip")
    run(*inside, "address", "add", f"{address}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        run(*inside, "link", "set", device, "up")
    return Host(address, ("ip", "netns", "exec", namespace), namespace)
