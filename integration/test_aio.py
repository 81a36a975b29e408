"""AsyncClient on a real containerd: pulls compared with Client, and cancelled tasks."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from integration.pulls import assert_equal, layer_of, state
from integration.rig import publish
from integration.rig.daemons import Containerd, Fault, Registry
from integration.rig.peers import NEWEST
from integration.scenarios import SCENARIOS, Scenario
from pyctrd import AsyncClient, Client, ImageNotFound, ProgressStream
from tests.support import shapes

MIB = 1 << 20


# AsyncClient runs Client in threads, and other tests run Client on every generation.
pytestmark = pytest.mark.parametrize("generation", [NEWEST], indirect=True)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_both_clients_leave_the_same_content(
    scenario: Scenario, containerd: Containerd, registry: Registry, namespace: str, tmp_path: Path
) -> None:
    name = publish.push(scenario.graph(), registry, f"pull/{scenario.name}")
    platforms = "all" if scenario.all_platforms else scenario.platforms
    archives = [tmp_path / "sync.tar", tmp_path / "async.tar"]
    with Client(containerd.address, f"{namespace}-sync") as client:
        pulled = client.images.pull(name, platforms=platforms, labels=scenario.labels)
        saved = client.images.save(name, archives[0], platforms="local", reproducible=True)
    async with AsyncClient(containerd.address, f"{namespace}-async") as other:
        again = await other.images.pull(name, platforms=platforms, labels=scenario.labels)
        assert (again.image.target, again.unpacked) == (pulled.image.target, pulled.unpacked)
        assert await other.images.save(name, archives[1], platforms="local", reproducible=True) == saved
        assert (await other.images.diagnose(name)).platforms
    assert archives[0].read_bytes() == archives[1].read_bytes()
    assert_equal(state(containerd, f"{namespace}-sync"), state(containerd, f"{namespace}-async"))


async def until_stored(client: AsyncClient, digest: str) -> None:
    """Wait until the store has a blob."""
    async with asyncio.timeout(30):
        while digest not in [str(blob.digest) for blob in await client.content.list()]:
            await asyncio.sleep(0.01)


async def test_a_cancelled_pull_stops_and_the_next_one_resumes(
    containerd: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    """Within two seconds although the registry sends nothing, and no thread continues."""
    graph = shapes.big(2 * MIB, layers=1)
    name = publish.push(graph, registry, repository)
    stalled = registry.add_fault(Fault(f"blobs/{layer_of(graph)}", stall_after=MIB + 1000, times=1))
    before = set(threading.enumerate())
    async with AsyncClient(containerd.address, namespace) as client:
        stream = ProgressStream()
        task = asyncio.create_task(client.images.pull(name, progress=stream))
        async for event in stream:
            if event.action == "downloading" and event.offset >= MIB:
                break
        await until_stored(client, graph.document()["config"]["digest"])  # it is downloaded at the same time
        begun = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - begun < 2
        stalled.release.set()
        with pytest.raises(ImageNotFound):
            await client.images.get(name)
        result = await client.images.pull(name)
        assert MIB <= result.bytes_resumed <= MIB + 1000
        assert [str(item.digest) for item in result.fetched] == [layer_of(graph)]
        assert result.bytes_fetched + result.bytes_resumed == result.fetched[0].size
    left = [thread.name for thread in set(threading.enumerate()) - before]
    assert not [name for name in left if name.startswith("pyctrd")], left


async def test_concurrent_calls(
    containerd: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    names = [publish.push(shapes.five_platform(salt=str(n)), registry, f"{repository}/{n}") for n in range(8)]
    async with AsyncClient(containerd.address, namespace, threads=4) as client:
        await asyncio.gather(*(client.images.pull(name) for name in names))
        assert [image.name for image in await client.images.list()] == sorted(names)
        found = await asyncio.gather(*(client.images.diagnose(name) for name in names))
        assert all(diagnosis.complete for diagnosis in found)
        async with client.content.open(found[0].target.digest) as chunks:
            data = b"".join([bytes(chunk) async for chunk in chunks])
        assert len(data) == found[0].target.size
