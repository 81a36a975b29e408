"""docs/howto/p2p.md: one containerd is the other's mirror, and requests at the registry are counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from integration.conftest import peer_required
from integration.mirror import Mirror
from integration.pages import section
from integration.rig.daemons import ISOLATED_CONTENT, Containerd, Registry
from integration.rig.peers import NEWEST
from integration.rig.publish import push
from integration.shell import Shell
from pyctrd import Client
from tests.support import shapes
from tests.support.images import Graph

NAME = "registry.example.com"
MIRRORS = {"Spegel": "http://192.0.2.10:30020", "Dragonfly": "http://127.0.0.1:4001"}


@dataclass
class Fleet:
    """Two nodes: the first has the image and serves it, the second has nothing."""

    first: Shell
    second: Shell
    mirror: Mirror
    registry: Registry
    graph: Graph
    image: str
    """The name by which both nodes know it."""

    @property
    def layer(self) -> str:
        digest: str = self.graph.document()["layers"][0]["digest"]
        return digest

    def configure(self, shell: Shell, program: str = "Spegel", **changes: str) -> Path:
        """Write the page's hosts.toml, with the addresses of this test; return its --hosts-dir."""
        (text,) = re.findall(r"```toml\n(.*?)```", section("howto/p2p.md", program), re.DOTALL)
        # A busy machine may need longer.
        real = {MIRRORS[program]: self.mirror.url, f"https://{NAME}": self.registry.url, "200ms": "30s"}
        for before, after in {**real, **changes}.items():
            text = text.replace(before, after)
        folder = shell.folder / "certs.d" / NAME
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts.toml").write_text(text)
        return folder.parent

    def pull(self, certs_d: Path) -> None:
        """Pull on the second node, and check that it has everything."""
        self.second("pull", self.image, "--hosts-dir", str(certs_d))
        assert set(self.graph.blobs) <= self.second.have()

    def at_registry(self) -> list[tuple[str, str]]:
        """Return the method and the digest or tag of each request."""
        return [(one.method, one.path.rpartition("/")[2]) for one in self.registry.requests()]

    def at_mirror(self) -> list[tuple[str, str]]:
        return [(one.method, one.reference) for one in self.mirror.requests if one.status == 200]

    @property
    def of_a_pull(self) -> Counter[tuple[str, str]]:
        """The requests of a pull: a HEAD of the tag and a GET of each blob."""
        return Counter([("HEAD", "v1"), *(("GET", digest) for digest in self.graph.blobs)])


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Containerd, Containerd]]:
    with peer_required(), ExitStack() as stack:
        first, second = (
            stack.enter_context(Containerd(NEWEST, tmp_path_factory.mktemp(name), ISOLATED_CONTENT))
            for name in ("first", "second")
        )
        yield first, second


@pytest.fixture
def fleet(
    daemons: tuple[Containerd, Containerd],
    registry: Registry,
    repository: str,
    namespace: str,
    tmp_path: Path,
) -> Iterator[Fleet]:
    graph = shapes.single(layers=3, salt=repository)
    push(graph, registry, repository, "v1")
    shells = []
    for daemon, name in zip(daemons, ("a", "b"), strict=True):
        (tmp_path / name).mkdir()
        shells.append(Shell(daemon, namespace, tmp_path / name))
    with Client(daemons[0].address, namespace) as client, Mirror(client) as mirror:
        found = Fleet(shells[0], shells[1], mirror, registry, graph, f"{NAME}/{repository}:v1")
        certs_d = tmp_path / "certs.d"
        (certs_d / NAME).mkdir(parents=True)
        (certs_d / NAME / "hosts.toml").write_text(f'server = "{registry.url}"\n')
        found.first("pull", found.image, "--hosts-dir", str(certs_d))
        registry.clear_requests()
        yield found


def test_what_the_mirror_has_is_not_requested_from_the_registry(fleet: Fleet) -> None:
    fleet.pull(fleet.configure(fleet.second))
    assert fleet.at_registry() == []
    assert Counter(fleet.at_mirror()) == fleet.of_a_pull
    assert {one.registry for one in fleet.mirror.requests} == {NAME}


def test_ctr_sends_the_same_requests_with_the_same_file(fleet: Fleet) -> None:
    certs_d = fleet.configure(fleet.second)
    fleet.second.containerd.ctr(
        "images", "pull", "--hosts-dir", certs_d, fleet.image, namespace=fleet.second.namespace
    )
    assert fleet.at_registry() == []
    assert Counter(fleet.at_mirror()) == fleet.of_a_pull


def test_without_resolve_only_the_tag_is_requested_from_the_registry(fleet: Fleet) -> None:
    fleet.pull(fleet.configure(fleet.second, **{'["pull", "resolve"]': '["pull"]'}))
    assert fleet.at_registry() == [("HEAD", "v1")]
    assert Counter(fleet.at_mirror()) == fleet.of_a_pull - Counter([("HEAD", "v1")])


def test_what_the_mirror_lacks_comes_from_the_registry(fleet: Fleet) -> None:
    fleet.first("content", "rm", "--force", fleet.layer)
    fleet.pull(fleet.configure(fleet.second))
    assert fleet.at_registry() == [("GET", fleet.layer)]


def test_without_the_mirror_everything_comes_from_the_registry(fleet: Fleet) -> None:
    fleet.mirror.stop()
    fleet.pull(fleet.configure(fleet.second))
    assert Counter(fleet.at_registry()) == fleet.of_a_pull
    assert fleet.mirror.requests == []


def test_ensure_uses_the_mirror(fleet: Fleet) -> None:
    certs_d = fleet.configure(fleet.second)
    fleet.pull(certs_d)
    fleet.second("content", "rm", "--force", fleet.layer)
    fleet.mirror.requests.clear()
    fleet.second("ensure", fleet.image, "--hosts-dir", str(certs_d))
    assert fleet.at_mirror() == [("GET", fleet.layer)]
    assert set(fleet.graph.blobs) <= fleet.second.have()
    assert fleet.at_registry() == []


def test_only_the_mirror_gets_its_header(fleet: Fleet) -> None:
    fleet.first("content", "rm", "--force", fleet.layer)
    certs_d = fleet.configure(fleet.second, "Dragonfly")
    fleet.pull(certs_d)
    header = "x-dragonfly-registry"
    assert {one.headers.get(header) for one in fleet.mirror.requests} == {fleet.registry.url}
    (request,) = fleet.registry.requests()
    assert header not in {name.lower() for name in request.headers}


def test_the_log_shows_which_host_was_used(fleet: Fleet) -> None:
    certs_d = fleet.configure(fleet.second)
    log = fleet.second("pull", fleet.image, "--hosts-dir", str(certs_d), "--debug").stderr.decode()
    assert fleet.mirror.url.removeprefix("http://") in log
    assert fleet.registry.host not in log


def test_explain_shows_the_mirror_first(fleet: Fleet) -> None:
    certs_d = fleet.configure(fleet.second)
    text = fleet.second("registry", "explain", fleet.image, "--hosts-dir", str(certs_d)).stdout.decode()
    assert text.index(fleet.mirror.url) < text.index(fleet.registry.url)
