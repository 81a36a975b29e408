"""A registry on another address must not direct requests to local services: in a network namespace.

The addresses of integration/faults/elsewhere.py exist there, and so do the services on loopback that
must not get requests.
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

from integration.conftest import chosen
from integration.faults.broken import plain, with_layer
from integration.faults.case import first_layer, on
from integration.faults.elsewhere import FOLLOWED, KINDS, LOOPBACK, NAMES, PUBLIC, REFUSED, Sent
from integration.rig.daemons import Containerd
from integration.rig.faultserver import Behaviour, Exchange, Fault, FaultServer, Reply, answering
from integration.rig.peers import NEWEST
from integration.shell import REPOSITORY_ROOT
from tests.support import images
from tests.support.images import Graph

# The address checks do not depend on containerd.
_ONE = [name for name in chosen() if name == NEWEST]
_CLONE_NEWNET = 0x40000000
_HOSTS = "".join(f"{address} {name}\n" for name, address in NAMES.items())


class Island:
    """A network namespace with addresses of every kind on its loopback device."""

    def __init__(self, folder: Path) -> None:
        self.name = f"pyctrd-{uuid.uuid4().hex[:8]}"
        self.hosts = folder / "hosts"
        self.hosts.write_text(_HOSTS)

    def __enter__(self) -> Island:
        self._ip("netns", "add", self.name)
        self._ip("-n", self.name, "link", "set", "lo", "up")
        for address in KINDS.keys() - {LOOPBACK}:
            self._ip("-n", self.name, "address", "add", f"{address}/32", "dev", "lo")
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ip("netns", "delete", self.name)

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    def listener(self, address: str) -> socket.socket:
        """A socket that listens there; a socket belongs to the namespace of the thread that creates it."""
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

    def run(self, *arguments: str, containerd: Containerd, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run pyctrd in the namespace."""
        program = [sys.executable, "-m", "pyctrd", *arguments, "--plain-http", "--retry-budget", "0"]
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


PULLED: dict[str, Callable[[str], Fault]] = {"redirect": redirect, "realm": realm, "foreign layer": nothing}


def pull(
    island: Island, containerd: Containerd, folder: Path, sent: Sent, fault: Callable[[str], Fault]
) -> tuple[subprocess.CompletedProcess[str], FaultServer]:
    """Pull from a registry whose fault names the victim; return the pull and the victim's server."""
    with ExitStack() as stack:
        good = plain(island.name)  # not used by other tests, since namespaces share content
        asked = FaultServer(good, on("", _as_told(good)), listener=island.listener(sent.victim))
        stack.enter_context(asked)
        url = f"http://{sent.name}:{asked.host.rpartition(':')[2]}/secret"
        graph = foreign(url)(island.name) if sent.by == "foreign layer" else good
        server = FaultServer(graph, fault(url), listener=island.listener(sent.registry))
        stack.enter_context(server)
        done = island.run("pull", f"{server.host}/team/app", containerd=containerd, folder=folder)
        return done, asked


def copy(
    island: Island, containerd: Containerd, folder: Path, sent: Sent
) -> tuple[subprocess.CompletedProcess[str], FaultServer]:
    """Copy an image to a registry that names the victim as upload location."""
    with ExitStack() as stack:
        good = plain(island.name)
        asked = FaultServer(good, on("", answering(201)), listener=island.listener(sent.victim))
        stack.enter_context(asked)
        url = f"http://{sent.name}:{asked.host.rpartition(':')[2]}/secret"
        source = stack.enter_context(FaultServer(good, listener=island.listener(PUBLIC)))
        opens = on("", _opens_uploads(url))
        target = FaultServer(plain("other"), opens, listener=island.listener(sent.registry))
        stack.enter_context(target)
        names = (f"{source.host}/team/app", f"{target.host}/their/app")
        done = island.run("copy", "--src-plain-http", *names, containerd=containerd, folder=folder)
        return done, asked


def _as_told(graph: Graph) -> Behaviour:
    """Serve the layer of the registry's redirect at any path."""
    layer = graph.child(0).document()["layers"][0]["digest"]
    return lambda exchange: exchange.send(Reply(200, {}, graph.blobs[layer]))


def _opens_uploads(url: str) -> Behaviour:
    """Have no content, direct every upload to another host, and accept every manifest."""

    def behave(exchange: Exchange) -> None:
        answers = {"POST": Reply(202, {"Location": url}), "PUT": Reply(201)}
        exchange.send(answers.get(exchange.asked.method, Reply(404)))

    return behave


@pytest.mark.parametrize("generation", _ONE, indirect=True)
@pytest.mark.parametrize("sent", REFUSED, ids="-".join)
def test_a_registry_cannot_direct_us_to_forbidden_addresses(
    island: Island, containerd: Containerd, tmp_path: Path, sent: Sent
) -> None:
    if sent.by == "upload location":
        done, asked = copy(island, containerd, tmp_path, sent)
    else:
        done, asked = pull(island, containerd, tmp_path, sent, PULLED[sent.by])
    assert done.returncode == 5, done.stderr
    assert f"is a {KINDS[sent.victim]} address" in done.stderr
    assert sent.registry in done.stderr.partition("pyctrd: ")[2]
    assert asked.connections == 0


@pytest.mark.parametrize("generation", _ONE, indirect=True)
@pytest.mark.parametrize("sent", FOLLOWED, ids="-".join)
def test_a_registry_can_direct_us_to_other_addresses(
    island: Island, containerd: Containerd, tmp_path: Path, sent: Sent
) -> None:
    def first_layer_only(url: str) -> Fault:
        first = plain(island.name).child(0).document()["layers"][0]["digest"]

        def behave(exchange: Any) -> None:
            elsewhere = exchange.asked.path.endswith(first)
            exchange.send(Reply(307, {"Location": url}) if elsewhere else None)

        return on("layer", behave)

    if sent.by == "upload location":
        done, asked = copy(island, containerd, tmp_path, sent)
        assert {one.path.partition("?")[0] for one in asked.asked} == {"/secret"}
    else:
        done, asked = pull(island, containerd, tmp_path, sent, first_layer_only)
        assert [one.path for one in asked.asked] == ["/secret"]
    assert done.returncode == 0, done.stderr
