"""Daemons for a whole test session; which generations of containerd: PYCTRD_GENERATIONS, e.g. "1.6,2.4"."""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from integration.bench import Bench
from integration.rig import peers
from integration.rig.collector import empty
from integration.rig.cri import NAMESPACE, Node, Pod, runnable
from integration.rig.daemons import (
    ISOLATED_CONTENT,
    Containerd,
    ContainerdInDocker,
    Dockerd,
    Registry,
    Sshd,
)
from integration.rig.disk import SmallDisk
from integration.rig.peers import CURRENT, GENERATIONS, NEWEST, PeerUnavailable
from integration.rig.publish import push
from integration.scenarios import ORACLES, Oracle
from integration.shell import Shell
from integration.syncing import Pair
from pyctrd.containerd.calls import Calls
from tests.support.signals import ctrl_c_is_not_ignored as ctrl_c_is_not_ignored

pytest_plugins = ["pyctrd.pytest_plugin"]
pytest.register_assert_rewrite("integration.pulls", "tests.support.contract")

_Peer = TypeVar("_Peer")

DISK_BYTES = 2 << 30
"""The limit for the data of a containerd in a container; memory is used only for what it writes."""


@contextmanager
def peer_required() -> Iterator[None]:
    """Skip the test with the reason if a peer is unavailable; in CI, fail."""
    try:
        yield
    except PeerUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@contextmanager
def run_required(make: Callable[[], AbstractContextManager[_Peer]]) -> Iterator[_Peer]:
    """Run a required peer while the context is open."""
    with ExitStack() as stack:
        with peer_required():
            peer = stack.enter_context(make())
        yield peer


def chosen() -> tuple[str, ...]:
    """The generations to test: all of them, or those of PYCTRD_GENERATIONS."""
    names = [name.strip() for name in os.environ.get("PYCTRD_GENERATIONS", "").split(",") if name.strip()]
    if unknown := set(names) - set(GENERATIONS):
        raise pytest.UsageError(f"PYCTRD_GENERATIONS: unknown {sorted(unknown)}, have {list(GENERATIONS)}")
    return tuple(names) or GENERATIONS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test that uses a containerd once for each current generation.

    With the mark `every_generation` also for 1.6 and 2.1, which are end-of-life but still in use; with
    `two_generations` only for the first and the last of the current ones, which suffices for what is the same
    on each of them.
    """
    own = any("generation" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "generation" in metafunc.fixturenames and not own:
        every = metafunc.definition.get_closest_marker("every_generation")
        two = metafunc.definition.get_closest_marker("two_generations")
        wanted = GENERATIONS if every else (CURRENT[0], CURRENT[-1]) if two else CURRENT
        names = [name for name in chosen() if name in wanted]
        metafunc.parametrize("generation", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def generation(request: pytest.FixtureRequest) -> str:
    """One of GENERATIONS, e.g. "1.7" (see pytest_generate_tests)."""
    return str(request.param)


@pytest.fixture(scope="session")
def containerd(generation: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """A containerd shared by the session's tests, each of which uses its own `namespace`."""
    with run_required(
        lambda: Containerd(generation, tmp_path_factory.mktemp(f"containerd-{generation}"))
    ) as daemon:
        yield daemon


@pytest.fixture
def fresh_containerd(generation: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """An empty containerd for one test: no namespace has content to share; starts in 0.1 s."""
    with run_required(
        lambda: Containerd(generation, tmp_path_factory.mktemp(f"fresh-{generation}"))
    ) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def isolated_containerd(generation: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """A containerd for one file's tests whose namespaces share no content: every pull has to fetch it."""
    folder = tmp_path_factory.mktemp(f"isolated-{generation}")
    with run_required(lambda: Containerd(generation, folder, config=ISOLATED_CONTENT)) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def pyctrd_containerd() -> str:
    """The containerd that the plugin for users' tests starts."""
    with peer_required():
        return str(peers.containerd(NEWEST).containerd)


@pytest.fixture(scope="session")
def session_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The registry process behind `registry`."""
    with run_required(lambda: Registry(tmp_path_factory.mktemp("registry"))) as daemon:
        yield daemon


@pytest.fixture
def registry(session_registry: Registry) -> Registry:
    """A plain-http registry on 127.0.0.1 without faults and with an empty log; use `repository` in it."""
    session_registry.clear_faults()
    session_registry.clear_requests()
    return session_registry


@pytest.fixture(scope="session")
def dockerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    """A Docker engine for the session."""
    with run_required(lambda: Dockerd(tmp_path_factory.mktemp("dockerd"))) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def contained(
    generation: str, dockerd: Dockerd, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ContainerdInDocker]:
    """A containerd in a container for one file's tests; its namespaces share no content.

    Its data is in memory: that is twice as fast, and the data of a killed process is kept as well.
    """
    folder = tmp_path_factory.mktemp(f"contained-{generation}")
    with ExitStack() as stack:
        with peer_required():
            stack.enter_context(SmallDisk(folder, DISK_BYTES))
            daemon = ContainerdInDocker(dockerd, generation, folder, ISOLATED_CONTENT)
            stack.enter_context(daemon)
        yield daemon


@pytest.fixture(scope="module")
def node(
    generation: str, session_registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    """A containerd with the CRI plugin for one file's tests, which share its namespace k8s.io."""
    with peer_required():
        sandbox = push(runnable("sandbox"), session_registry, "pause", "1")
    with run_required(
        lambda: Node(generation, tmp_path_factory.mktemp(f"node-{generation}"), sandbox)
    ) as one:
        yield one


@pytest.fixture
def on_node(node: Node, tmp_path: Path) -> Shell:
    """The command line in the node's k8s.io."""
    return Shell(node.containerd, NAMESPACE, tmp_path)


@pytest.fixture
def pulled(node: Node, registry: Registry, repository: str) -> str:
    """An image that crictl has pulled on the node, and that is not in use."""
    name = push(runnable(repository, platforms=2), registry, repository, "v1")
    node.crictl("pull", name)
    return name


@pytest.fixture
def pod(node: Node, pulled: str) -> Iterator[Pod]:
    """A pod that runs the image `pulled`."""
    with node.pod(pulled) as running:
        yield running


@pytest.fixture
def namespace() -> str:
    """A containerd namespace that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """A repository name that no other test uses."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    return f"{words[:60].strip('-')}/{uuid.uuid4().hex[:8]}"


@pytest.fixture
def bench(
    containerd: Containerd, registry: Registry, tmp_path: Path, namespace: str, repository: str
) -> Bench:
    return Bench(containerd, registry, tmp_path, namespace=namespace, repository=repository)


@pytest.fixture(scope="module", params=ORACLES, ids=str)
def oracle(request: pytest.FixtureRequest) -> Oracle:
    found: Oracle = request.param
    return found


@pytest.fixture(scope="module")
def daemon(oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """A containerd in which every namespace has to download its content."""
    with (
        peer_required(),
        Containerd(oracle.generation, tmp_path_factory.mktemp("containerd"), ISOLATED_CONTENT) as started,
    ):
        yield started


@pytest.fixture
def shell(bench: Bench) -> Shell:
    """The command line in the bench's namespace."""
    return Shell(bench.containerd, bench.namespace, bench.folder)


@pytest.fixture
def target(bench: Bench) -> str:
    """A repository that nothing has been pushed to."""
    return f"{bench.repository}-pushed/new"


@pytest.fixture(scope="session")
def sshd() -> Iterator[Sshd]:
    """An sshd that lets root in."""
    with run_required(Sshd) as server:
        yield server


@pytest.fixture(scope="session")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """A second containerd, of the newest generation; its namespaces share no content."""
    folder = tmp_path_factory.mktemp("far")
    with run_required(lambda: Containerd(chosen()[-1], folder, config=ISOLATED_CONTENT)) as daemon:
        daemon.address.parent.chmod(0o711)  # as /run/containerd is: any user may see the socket
        yield daemon


@pytest.fixture
def pair(
    isolated_containerd: Containerd, far: Containerd, sshd: Sshd, registry: Registry, tmp_path: Path
) -> Iterator[Pair]:
    """A namespace in two containerds; afterwards no ssh is left, and nothing that a collection leaves."""
    made = Pair(isolated_containerd, far, sshd, registry, tmp_path)
    yield made
    made.check_no_process_is_left()
    made.drop_leases()
    for daemon in (isolated_containerd, far):
        assert empty(daemon, made.namespace) == []


@pytest.fixture
def in_process(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """The pair, for syncs in this process."""
    monkeypatch.setenv("PATH", pair.shell.env["PATH"])
    monkeypatch.setattr(tempfile, "tempdir", str(pair.temporary))
    return pair


# The files that take longest. They run first, since pytest-xdist assigns whole files to workers.
LONGEST = (
    "test_matrix",
    "test_death_of_sending",
    "test_kill",
    "test_death",
    "test_expensive",
    "test_load_parity",
    "test_collector",
    "test_signals",
    "test_verify",
    "test_frozen",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first; needs xdist's --no-loadscope-reorder."""
    order = {f"{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """All calls to containerd, by service and method."""
    counts: Counter[str] = Counter()
    start = Calls.start

    def counting(self: Calls, method: str, *args: Any) -> Any:
        if self._parent is None:  # calls of a scope are started by those of the channel
            counts[method.rpartition(".")[2]] += 1
        return start(self, method, *args)

    monkeypatch.setattr(Calls, "start", counting)
    return counts
