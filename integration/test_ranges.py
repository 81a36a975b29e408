"""One large layer in several ranges: from a real registry to a real containerd, over slow connections."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.conftest import peer_required
from integration.pulls import layer_of, leave_ingest
from integration.rig import publish
from integration.rig.daemons import ISOLATED_CONTENT, Containerd, Fault, Registry
from integration.rig.peers import NEWEST
from integration.rig.proxy import Request
from integration.rig.store import digests, snapshot_of
from integration.rig.throttle import Throttle
from integration.shell import Shell
from tests.support import shapes
from tests.support.images import Graph

MIB = 1 << 20
LAYER_BYTES = 32 * MIB


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """One generation is enough: the store gets one sequential write in any case."""
    with peer_required(), Containerd(NEWEST, tmp_path_factory.mktemp("ranges"), ISOLATED_CONTENT) as started:
        yield started


@pytest.fixture(scope="module")
def graph() -> Graph:
    return shapes.big(LAYER_BYTES, layers=1, seed=7)


@pytest.fixture
def shell(daemon: Containerd, namespace: str, tmp_path: Path) -> Shell:
    return Shell(daemon, namespace, tmp_path)


@pytest.fixture
def name(graph: Graph, registry: Registry) -> str:
    return publish.push(graph, registry, "ranges/large")


def gets(registry: Registry, graph: Graph) -> list[Request]:
    return [one for one in registry.requests() if one.method == "GET" and layer_of(graph) in one.path]


def assert_complete(shell: Shell, graph: Graph) -> None:
    assert shell.have() == set(graph.blobs)
    assert snapshot_of(shell.containerd, shell.namespace)["ingests"] == {}


def test_a_fixed_number_of_ranges(shell: Shell, registry: Registry, graph: Graph, name: str) -> None:
    result = shell.json("pull", "--no-unpack", "--parallel-ranges", "4", name)
    first, *others = gets(registry, graph)
    assert (first.range, first.status) == ("", 200)
    assert {one.status for one in others} == {206}
    assert len({one.range for one in others}) == len(others) > 50
    assert result["bytes"] == sum(map(len, graph.blobs.values()))
    assert_complete(shell, graph)


@pytest.mark.parametrize("setting", ["auto", "off"])
def test_a_fast_connection_needs_no_ranges(
    shell: Shell, registry: Registry, graph: Graph, name: str, setting: str
) -> None:
    shell("pull", "--no-unpack", "--parallel-ranges", setting, name)
    assert [one.range for one in gets(registry, graph)] == [""]
    assert_complete(shell, graph)


def test_a_resumed_layer_is_fetched_in_ranges(
    shell: Shell, registry: Registry, graph: Graph, name: str
) -> None:
    digest = layer_of(graph)
    leave_ingest(shell.containerd, shell.namespace, graph, digest, graph.blobs[digest][: 3 * MIB])
    result = shell.json("pull", "--no-unpack", "--parallel-ranges", "4", name)
    assert result["bytes_resumed"] == 3 * MIB
    assert gets(registry, graph)[0].range == f"bytes={3 * MIB}-"
    assert len(gets(registry, graph)) > 50
    assert_complete(shell, graph)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("blobs/", ignore_range=True),
        Fault("blobs/", cut_after=700_000, times=30),
        Fault("blobs/", drop_headers=("Content-Range",)),
    ],
    ids=["ignores Range", "cuts", "does not say which range"],
)
def test_a_layer_is_complete_despite_faults(
    shell: Shell, registry: Registry, graph: Graph, name: str, fault: Fault
) -> None:
    registry.add_fault(fault)
    shell("pull", "--no-unpack", "--parallel-ranges", "4", name)
    assert_complete(shell, graph)


def test_wrong_bytes_in_a_range_are_not_kept(
    shell: Shell, registry: Registry, graph: Graph, name: str
) -> None:
    registry.add_fault(Fault(f"blobs/{layer_of(graph)}", corrupt_at=1000))
    done = shell("pull", "--no-unpack", "--parallel-ranges", "4", name, code=5)
    assert "wrong content for" in done.stderr.decode()
    assert layer_of(graph) not in digests(shell.containerd, shell.namespace)
    assert snapshot_of(shell.containerd, shell.namespace)["ingests"] == {}


# The command is started by a small process, since a child inherits the peak memory of its parent.
_LAUNCHER = """
import json, os, sys, time
start = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
print(json.dumps([time.perf_counter() - start, usage.ru_maxrss / 1024, status]), file=sys.stderr)
"""


def measured(shell: Shell, namespace: str, *arguments: str) -> tuple[float, float]:
    """Run a pull in a new namespace; return the seconds and its peak memory in MiB."""
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, sys.executable, "-m", "pyctrd"]
    command = [*launcher, "pull", "--no-unpack", "--progress", "none", *arguments]
    done = subprocess.run(
        command,
        env={**os.environ, **shell.env, "CONTAINERD_NAMESPACE": namespace},
        cwd=shell.folder,
        capture_output=True,
        check=True,
        timeout=120,
    )
    seconds, peak, status = json.loads(done.stderr.splitlines()[-1])
    assert status == 0, done.stderr
    return seconds, peak


def test_auto_is_faster_if_each_connection_is_slow(
    shell: Shell, registry: Registry, graph: Graph, name: str
) -> None:
    with Throttle(registry.proxy.port, per_connection=5 * MIB, delay=0.01) as line:
        slow = name.replace(registry.host, line.host)
        plain, _ = measured(shell, f"{shell.namespace}-off", "--parallel-ranges", "off", slow)
        assert line.most_connections <= 4
        auto, peak = measured(shell, f"{shell.namespace}-auto", "--parallel-ranges", "auto", slow)
    assert line.most_connections > 4
    assert auto < plain * 0.8, (auto, plain)
    assert peak < 100
    assert digests(shell.containerd, f"{shell.namespace}-auto") == set(graph.blobs)


def test_three_concurrent_layers_stay_within_the_memory_limit(
    shell: Shell, registry: Registry, repository: str
) -> None:
    graph = shapes.big(3 * 20 * MIB, layers=3, seed=8)
    name = publish.push(graph, registry, repository)
    with Throttle(registry.proxy.port, per_connection=10 * MIB) as line:
        slow = name.replace(registry.host, line.host)
        _, peak = measured(shell, shell.namespace, "--parallel-ranges", "8", slow)
    assert peak < 100
    assert shell.have() == set(graph.blobs)
