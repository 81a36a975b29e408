"""The check of all images on a real containerd, compared with `ctr images check`; and ensure --all."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest

from integration.rig.daemons import Registry
from integration.rig.publish import push
from integration.rig.store import collect_garbage, prune_references
from integration.shell import Shell
from integration.test_hints import commands, run, told
from integration.test_hints import shell as shell
from pyctrd import Client
from pyctrd.oci.platforms import host, to_string
from tests.support import shapes
from tests.support.images import Graph

pytestmark = pytest.mark.two_generations

HOST = to_string(host())


class Node:
    """A namespace with one image of each kind, broken by the tools that break them in practice."""

    def __init__(self, shell: Shell, registry: Registry, repository: str) -> None:
        self.shell = shell
        self.containerd = shell.containerd
        self.registry = registry
        self.repository = repository
        self.names: dict[str, str] = {}

    def ctr(self, *arguments: str, check: bool = True) -> str:
        done = self.containerd.ctr(*arguments, namespace=self.shell.namespace, check=check)
        return done.stdout.decode()

    def pull(self, kind: str, graph: Graph, *flags: str) -> str:
        name = push(graph, self.registry, f"{self.repository}/{kind}")
        self.ctr("images", "pull", "--plain-http", *flags, name, check=False)
        self.names[kind] = name
        return name

    def fill(self) -> None:
        """Pull and break images."""
        salt = uuid.uuid4().hex
        pruned = shapes.single(layers=2, salt=f"{salt}p")
        self.pull("pruned", pruned)
        prune_references(self.containerd, self.shell.namespace)
        lost = shapes.single(layers=2, salt=f"{salt}l")
        self.pull("lost-layer", lost)
        gone = shapes.five_platform(salt=f"{salt}g")
        self.pull("lost-target", gone)
        child = shapes.five_platform(salt=f"{salt}c")
        self.pull("lost-manifest", child)
        for digest in (lost.document()["layers"][1]["digest"], gone.digest, child.child(0).digest):
            self.ctr("content", "rm", digest)
        collect_garbage(self.containerd, self.shell.namespace)
        self.pull("whole", shapes.mixed(salt=f"{salt}w"))
        self.pull("artifact", shapes.artifact(text=salt))
        foreign = shapes.multi(["linux/s390x"], salt=f"{salt}f")
        self.pull("foreign", foreign, "--platform", "linux/s390x")
        self.pull(
            "foreign-single", shapes.single("linux/s390x", salt=f"{salt}s"), "--platform", "linux/s390x"
        )
        other = shapes.multi([HOST, "linux/s390x"], salt=f"{salt}o")
        self.pull("other-platform", other, "--platform", "linux/s390x")

    def complete(self) -> set[str]:
        """The images whose content is complete, according to ctr; it fails if some are not unpacked."""
        lines = map(str.split, self.ctr("images", "check", check=False).splitlines())
        return {words[0] for words in lines if words[3] == "complete"}

    def list(self, *arguments: str, code: int) -> list[dict[str, Any]]:
        where = ("-a", str(self.containerd.address), "-n", self.shell.namespace)
        images: list[dict[str, Any]] = self.shell.json(*where, *arguments, code=code)["images"]
        return images


@pytest.fixture
def node(shell: Shell, registry: Registry, repository: str) -> Node:
    node = Node(shell, registry, repository)
    node.fill()
    return node


BROKEN = {"pruned", "lost-layer", "lost-target", "lost-manifest", "other-platform"}


def test_the_list_agrees_with_ctr_and_with_diagnoses_and_its_commands_fix_all(node: Node) -> None:
    images = node.list("diagnose", code=4)
    kinds = {name: kind for kind, name in node.names.items()}
    assert {item["image"] for item in images} == set(kinds)
    assert {item["namespace"] for item in images} == {node.shell.namespace}
    complete = {item["image"] for item in images if item["complete"]}
    assert {kinds[name] for name in complete} == set(kinds.values()) - BROKEN - {"foreign"}
    assert node.complete() == complete
    causes = {kinds[item["image"]]: item["cause"] for item in images if not item["complete"]}
    assert causes["pruned"] == "gc_label_lost"
    assert causes["lost-target"] == "target_gone"
    assert causes["foreign"] == "no_such_platform"
    with Client(str(node.containerd.address), node.shell.namespace) as client:
        for item in images:
            single = client.images.diagnose(item["image"])
            assert (single.complete, single.missing_bytes) == (item["complete"], item["missing_bytes"])
            assert item["cause"] in {None, *(cause.code for cause in single.causes)}
            fixable = not item["complete"] and kinds[item["image"]] != "foreign"
            assert (item["remedy"] is not None) == (single.remedy is not None) == fixable
    everywhere = node.list("diagnose", "-A", code=4)
    assert [item for item in everywhere if item["namespace"] == node.shell.namespace] == images

    _check_a_row_and_a_verdict(node)
    planned = node.list("ensure", "--all", "--dry-run", "--plain-http", code=3)
    assert {kinds[item["image"]] for item in planned} == BROKEN - {"lost-layer", "lost-target"} | {"foreign"}
    assert len([item for item in node.list("diagnose", code=4) if not item["complete"]]) == len(planned)
    (everything,) = commands(told(node.shell, "diagnose", code=4))
    run(node.shell, f"{everything} --plain-http", code=3)
    broken = [item["image"] for item in node.list("diagnose", code=4) if not item["complete"]]
    assert broken == [node.names["foreign"]]
    node.ctr("images", "rm", node.names["foreign"])
    assert {node.names[kind] for kind in BROKEN} <= node.complete()
    assert told(node.shell, "diagnose", "-q", code=0) == ""
    assert node.list("ensure", "--all", code=0) == []


def _check_a_row_and_a_verdict(node: Node) -> None:
    """Run the command in a row of the list, and the one on top of a diagnosis."""
    rows = re.findall(r"(pyctrd .* ensure (?!--all).*)$", told(node.shell, "diagnose", code=4), re.MULTILINE)
    assert len(rows) == len(BROKEN)
    (row,) = (row for row in rows if node.names["lost-layer"] in row)
    run(node.shell, f"{row} --plain-http")
    assert node.names["lost-layer"] in node.complete()
    text = told(node.shell, "diagnose", node.names["lost-target"], code=4)
    found = re.match(r"incomplete: .*; this fetches (?:it|them):\n +\$ (pyctrd .*)\n", text)
    assert found, text
    run(node.shell, f"{found[1]} --plain-http")
    text = told(node.shell, "diagnose", node.names["lost-target"], code=0)
    assert text.startswith(f"complete: {HOST}\n")
    verdict = told(node.shell, "diagnose", node.names["foreign"], code=4).splitlines()[0]
    assert verdict == f"incomplete: the image has no {HOST}"


def test_a_similar_name_is_suggested_also_of_another_namespace(
    shell: Shell, registry: Registry, repository: str
) -> None:
    name = push(shapes.single(salt=uuid.uuid4().hex), registry, f"{repository}/similar-only-here")
    told(shell, "pull", "-q", name, code=0)
    address = ("-a", str(shell.containerd.address))
    for command in (("diagnose",), ("save", "-o", "x.tar")):
        done = shell(*address, "-n", f"{shell.namespace}-none", *command, "similar-only-here:9", code=3)
        assert done.stderr.decode().endswith(
            f"hint: did you mean {name} in the namespace {shell.namespace}?\n"
        )
    done = shell(*address, "-n", shell.namespace, "diagnose", "similar-only-here:9", code=3)
    assert done.stderr.decode().endswith(f"hint: did you mean {name}?\n")
    told(shell, "diagnose", name, code=0)
