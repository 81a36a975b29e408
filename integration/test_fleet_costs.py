"""docs/howto/fleet.md: what commands cost a real registry, the arithmetic, and the commands for ssh."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from integration.conftest import peer_required
from integration.pages import commands, run, section
from integration.rig.daemons import ISOLATED_CONTENT, Containerd, Registry, Sshd, TokenService
from integration.rig.peers import NEWEST
from integration.rig.proxy import Request
from integration.rig.publish import push
from integration.shell import Shell
from tests.support import shapes
from tests.support.images import Graph

PAGE = "howto/fleet.md"
COSTS, FLEET = "What a node costs", "What a fleet costs"
NODES = (10, 1_000, 100_000)


def rows(title: str) -> list[list[str]]:
    """Return the cells of the first table of a section, without its head."""
    lines = [line for line in section(PAGE, title).splitlines() if line.startswith("|")]
    end = next((at for at, line in enumerate(lines) if at > 1 and line.startswith("|---")), len(lines) + 1)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2 : end - 1]]


class Costs(NamedTuple):
    """Requests, by what they ask for."""

    head: int
    manifests: int
    blobs: int

    @classmethod
    def of(cls, requests: list[Request]) -> Costs:
        got = [one.path for one in requests if one.method == "GET"]
        return cls(
            sum(one.method == "HEAD" for one in requests),
            sum("/manifests/" in path for path in got),
            sum("/blobs/" in path for path in got),
        )

    @property
    def total(self) -> int:
        return sum(self)


def page_costs() -> dict[str, Costs]:
    return {what: Costs(*map(int, numbers)) for what, *numbers in rows(COSTS)}


class Machine:
    """A node with the image of the page, in the state that a row of the page asks for."""

    def __init__(self, shell: Shell, name: str, graph: Graph) -> None:
        self.shell, self.name, self.graph = shell, name, graph

    def all_of_it_there(self) -> None:
        self.shell("pull", self.name)

    def one_layer_missing(self) -> None:
        self.shell("pull", self.name)
        layer = self.graph.child(0).document()["layers"][0]["digest"]
        self.shell("content", "rm", "--force", layer)

    def nothing_there(self) -> None:
        """Leave it as it is."""


STATES: dict[str, Callable[[Machine], None]] = {
    "": Machine.all_of_it_there,
    "nothing missing": Machine.all_of_it_there,
    "all of it there": Machine.all_of_it_there,
    "one layer missing": Machine.one_layer_missing,
    "nothing there": Machine.nothing_there,
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    folder = tmp_path_factory.mktemp("containerd")
    with peer_required(), Containerd(NEWEST, folder, ISOLATED_CONTENT) as running:
        yield running


@pytest.fixture
def machine(
    daemon: Containerd, registry: Registry, repository: str, namespace: str, tmp_path: Path
) -> Machine:
    graph = shapes.five_platform(3, salt=repository)
    return Machine(Shell(daemon, namespace, tmp_path), push(graph, registry, repository), graph)


@pytest.mark.parametrize("what", list(page_costs()))
def test_what_a_node_costs(machine: Machine, registry: Registry, what: str) -> None:
    command, _, state = what.removeprefix("`").partition("`")
    STATES[state.removeprefix(", ")](machine)
    registry.clear_requests()
    run(machine.shell, command.replace("IMAGE", machine.name))
    assert Costs.of(registry.requests()) == page_costs()[what]
    assert Costs.of(registry.requests()).total == len(registry.requests())


def test_no_blob_is_fetched_twice(machine: Machine, registry: Registry) -> None:
    found = machine.shell.json("pull", machine.name)
    assert found["bytes"] == sum(len(machine.graph.blobs[one["digest"]]) for one in found["fetched"])
    digests = [one.path.rpartition("/")[2] for one in registry.requests() if one.method == "GET"]
    assert sorted(digests) == sorted(one["digest"] for one in found["fetched"])


def test_a_registry_with_tokens_costs_two_requests_more(
    daemon: Containerd, namespace: str, tmp_path: Path
) -> None:
    graph = shapes.five_platform(3)
    with peer_required(), Registry(tmp_path / "registry", config=TokenService(tmp_path / "keys")) as registry:
        shell = Shell(daemon, namespace, tmp_path)
        name = push(graph, registry, "team/app")
        shell("pull", name)
        assert len(registry.requests()) == page_costs()["`pyctrd pull IMAGE`, nothing there"].total + 2


def test_the_arithmetic() -> None:
    costs = page_costs()
    whole = costs["`pyctrd pull IMAGE`, nothing there"]
    selected = costs["`pyctrd pull --metadata selected IMAGE`, nothing there"]
    expected = {
        "diagnose every hour, requests a day": 24 * costs["`pyctrd diagnose`"].total,
        "ensure every day, nothing missing, requests a day": costs[
            "`pyctrd ensure IMAGE`, nothing missing"
        ].total,
        "pull of 40 images again, requests": 40 * costs["`pyctrd pull IMAGE`, all of it there"].total,
        "pull of a new image, requests": whole.total,
        "pull of a new image, manifests": whole.manifests,
        "the same with `--metadata selected`, requests": selected.total,
        "the same, manifests": selected.manifests,
        "pull of a new image, MB": 100,
    }
    found = {what: [int(one.replace(",", "")) for one in numbers] for what, *numbers in rows(FLEET)}
    assert found == {what: [one, *(one * count for count in NODES)] for what, one in expected.items()}


def test_the_rates() -> None:
    """The sentences below the tables, for 15 minutes."""
    text = section(PAGE, FLEET)
    whole = page_costs()["`pyctrd pull IMAGE`, nothing there"]
    seconds = 15 * 60
    assert f"are {whole.total * 1_000 / seconds:.0f} a second" in text.replace("\n  ", " ")
    assert f"make {whole.total * 100_000 / seconds:,.0f} requests a second" in text
    assert f"of which {whole.manifests * 100_000 / seconds:,.0f} are manifests" in text
    assert f"{100 * 100_000 / 1_000 / seconds:.0f} GB a second" in text
    assert f"two new images: 2 × {whole.manifests * 10}" in text
    assert 2 * whole.manifests * 10 > 100


def test_the_commands_for_ssh(machine: Machine, sshd: Sshd, registry: Registry) -> None:
    machine.all_of_it_there()
    machine.shell.env["PATH"] = f"{sshd.bin_dir}:{os.environ['PATH']}"
    node = machine.shell.containerd
    on_node = f"CONTAINERD_ADDRESS={node.address} {sys.prefix}/bin/pyctrd"
    real = {
        "ssh -n root@NODE pyctrd": f"ssh -n -p {sshd.port} root@NODE {on_node}",
        "root@edge1": f"-p {sshd.port} root@127.0.0.1",
        "/run/containerd/containerd.sock": str(node.address),
        "-n k8s.io": f"-n {machine.shell.namespace}",
    }
    (machine.shell.folder / "nodes.txt").write_text("127.0.0.1\n127.0.0.2\n")
    everywhere, forward, diagnose, ensure, end = commands(PAGE, "ssh", real)
    codes = run(machine.shell, everywhere)
    assert sorted(codes.splitlines()) == ["127.0.0.1 0", "127.0.0.2 255"]  # sshd is on the first only
    lines = (machine.shell.folder / "127.0.0.1.jsonl").read_text().splitlines()
    assert (machine.name, machine.shell.namespace, True) in {
        (one["image"], one["namespace"], one["complete"]) for one in map(json.loads, lines)
    }

    del machine.shell.env["CONTAINERD_ADDRESS"]
    run(machine.shell, forward)
    try:
        (found,) = map(json.loads, run(machine.shell, diagnose).splitlines())
        assert (found["image"], found["complete"]) == (machine.name, True)
        layer = machine.graph.child(0).document()["layers"][0]["digest"]
        machine.shell("content", "rm", "--force", "-a", str(node.address), layer)
        registry.clear_requests()
        run(machine.shell, ensure)
        assert [one.path.rpartition("/")[2] for one in registry.requests()] == [layer]
    finally:
        run(machine.shell, end)
