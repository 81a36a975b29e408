"""A registry on another address must not send us to this machine's services: played in a network namespace.

The addresses 203.0.113.10 (public), 10.9.8.7 (private) and 169.254.169.254 (the cloud's metadata service) are
real there, and so are the services on loopback that nobody may touch.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from integration.faults.broken import plain, with_layer
from integration.faults.case import first_layer, on
from integration.rig import images
from integration.rig.daemons import Containerd
from integration.rig.faultserver import Behaviour, Fault, FaultServer, Reply, answering
from integration.rig.images import Graph
from integration.shell import REPOSITORY_ROOT

PUBLIC, PRIVATE, METADATA, LOOPBACK = "203.0.113.10", "10.9.8.7", "169.254.169.254", "127.0.0.1"
_CLONE_NEWNET = 0x40000000
_HOSTS = f"{LOOPBACK} innocent.example\n{METADATA} metadata.example\n{PUBLIC} cdn.example\n"


class Island:
    """A network namespace with addresses of every kind on its loopback device."""

    def __init__(self, folder: Path) -> None:
        self.name = f"pyctrd-{uuid.uuid4().hex[:8]}"
        self.hosts = folder / "hosts"
        self.hosts.write_text(_HOSTS)

    def __enter__(self) -> Island:
        self._ip("netns", "add", self.name)
        self._ip("-n", self.name, "link", "set", "lo", "up")
        for address in (PUBLIC, PRIVATE, METADATA):
            self._ip("-n", self.name, "address", "add", f"{address}/32", "dev", "lo")
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ip("netns", "delete", self.name)

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    def listener(self, address: str) -> socket.socket:
        """A socket that listens there; a socket belongs to the namespace of the thread that made it."""
        made: list[socket.socket] = []

        def make() -> None:
            handle = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET) != 0:
                    return
                made.append(socket.create_server((address, 0)))
            finally:
                os.close(handle)

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        assert made, "setns failed"
        return made[0]

    def pull(self, name: str, containerd: Containerd, folder: Path) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "pyctrd", "pull", "--plain-http", "--retry-budget", "0", name]
        inside = ["nsenter", f"--net=/run/netns/{self.name}", *program]
        script = 'mount --bind "$0" /etc/hosts && exec "$@"'
        env = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        env |= {
            "CONTAINERD_ADDRESS": str(containerd.address),
            "CONTAINERD_NAMESPACE": self.name,
            "PYTHONPATH": str(REPOSITORY_ROOT),
            "DOCKER_CONFIG": str(folder / "none"),
        }
        return subprocess.run(
            ["unshare", "-m", "sh", "-c", script, str(self.hosts), *inside],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def island(tmp_path: Path) -> Iterator[Island]:
    with Island(tmp_path) as made:
        yield made


def redirect(url: str) -> Fault:
    return on("layer", answering(307, Location=url))


def realm(url: str) -> Fault:
    return on("resolve", answering(401, WWW_Authenticate=f'Bearer realm="{url}",service="s"'))


def nothing(_url: str) -> Fault:
    return on("layer", first_layer(answering(404)))


def foreign(url: str) -> Callable[[str], Graph]:
    return with_layer(urls=[url], mediaType=f"{images.OCI_FOREIGN_LAYER}+gzip")


def run(
    island: Island,
    containerd: Containerd,
    folder: Path,
    *,
    registry: str,
    victim: str,
    name: str,
    fault: Callable[[str], Fault],
    image: Callable[[str], Callable[[str], Graph]] | None = None,
) -> tuple[subprocess.CompletedProcess[str], FaultServer]:
    """Pull from `registry`, whose fault names `victim` as `name`; gives the pull, and who would be asked."""
    with ExitStack() as stack:
        good = plain(island.name)  # of this test alone: namespaces share content
        asked = stack.enter_context(
            FaultServer(good, on("", _as_told(good)), listener=island.listener(victim))
        )
        url = f"http://{name}:{asked.host.rpartition(':')[2]}/secret"
        graph = image(url)(island.name) if image else good
        server = FaultServer(graph, fault(url), listener=island.listener(registry))
        stack.enter_context(server)
        return island.pull(f"{server.host}/team/app", containerd, folder), asked


def _as_told(graph: Graph) -> Behaviour:
    """Serve a layer wherever it is asked for: what the registry's redirect promised."""
    layer = graph.child(0).document()["layers"][0]["digest"]
    return lambda exchange: exchange.send(Reply(200, {}, graph.blobs[layer]))


@pytest.mark.parametrize(
    ("registry", "victim", "name", "fault", "image"),
    [
        (PUBLIC, LOOPBACK, LOOPBACK, redirect, None),
        (PUBLIC, LOOPBACK, "localhost", redirect, None),
        (PUBLIC, LOOPBACK, "innocent.example", redirect, None),
        (PUBLIC, LOOPBACK, "0.0.0.0", redirect, None),
        (PUBLIC, LOOPBACK, "[::ffff:127.0.0.1]", redirect, None),
        (PUBLIC, METADATA, METADATA, redirect, None),
        (PUBLIC, METADATA, "metadata.example", redirect, None),
        (PRIVATE, METADATA, "metadata.example", redirect, None),
        (LOOPBACK, METADATA, METADATA, redirect, None),
        (PUBLIC, LOOPBACK, "innocent.example", realm, None),
        (PRIVATE, METADATA, METADATA, realm, None),
        (PUBLIC, LOOPBACK, "innocent.example", nothing, foreign),
        (PUBLIC, METADATA, METADATA, nothing, foreign),
    ],
)
def test_nobody_is_sent_to_this_machine(
    island: Island,
    containerd: Containerd,
    tmp_path: Path,
    registry: str,
    victim: str,
    name: str,
    fault: Callable[[str], Fault],
    image: Any,
) -> None:
    done, asked = run(
        island,
        containerd,
        tmp_path,
        registry=registry,
        victim=victim,
        name=name,
        fault=fault,
        image=image,
    )
    zone = "link-local" if victim == METADATA else "loopback"
    assert done.returncode == 5, done.stderr
    assert f"is a {zone} address" in done.stderr
    assert registry in done.stderr.partition("pyctrd: ")[2]
    assert asked.connections == 0


@pytest.mark.parametrize(
    ("registry", "victim", "name"),
    [
        (LOOPBACK, LOOPBACK, LOOPBACK),
        (PRIVATE, LOOPBACK, "innocent.example"),
        (METADATA, METADATA, METADATA),
        (PUBLIC, PUBLIC, "cdn.example"),
        (PUBLIC, PRIVATE, PRIVATE),
    ],
)
def test_everybody_else_may_redirect(
    island: Island, containerd: Containerd, tmp_path: Path, registry: str, victim: str, name: str
) -> None:
    def first_layer_only(url: str) -> Fault:
        first = plain(island.name).child(0).document()["layers"][0]["digest"]

        def behave(exchange: Any) -> None:
            elsewhere = exchange.asked.path.endswith(first)
            exchange.send(Reply(307, {"Location": url}) if elsewhere else None)

        return on("layer", behave)

    done, asked = run(
        island,
        containerd,
        tmp_path,
        registry=registry,
        victim=victim,
        name=name,
        fault=first_layer_only,
    )
    assert done.returncode == 0, done.stderr
    assert [one.path for one in asked.asked] == ["/secret"]
