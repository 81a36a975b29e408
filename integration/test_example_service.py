"""examples/service: a web service with AsyncClient, asked by a real HTTP client."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import zlib
from types import ModuleType
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from integration.killing import SECONDS
from integration.rig.daemons import Containerd, Fault, Registry
from integration.rig.peers import NEWEST
from integration.rig.publish import push
from integration.shell import REPOSITORY_ROOT
from tests.support import shapes
from tests.support.images import config, manifest, random_layer

pytestmark = pytest.mark.parametrize("generation", [NEWEST], indirect=True)


def service() -> ModuleType:
    path = REPOSITORY_ROOT / "examples" / "service" / "service.py"
    spec = importlib.util.spec_from_file_location("service", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_the_service(
    containerd: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    graph = shapes.five_platform()
    name = push(graph, registry, repository)
    app: Any = service().application(str(containerd.address), namespace)
    async with TestClient(TestServer(app)) as client:
        assert await (await client.get("/images")).json() == []

        absent = await client.get("/diagnosis", params={"ref": name})
        assert absent.status == 404
        assert "not found" in (await absent.json())["error"]

        pulled = await client.post("/pull", params={"ref": name})
        *progress, last = [json.loads(line) for line in (await pulled.text()).splitlines()]
        assert last["image"] == name
        assert last["digest"] == graph.digest
        assert sum(line["bytes"] for line in progress) == last["bytes"] > 0

        assert await (await client.get("/images")).json() == [{"name": name, "complete": True}]
        found = await (await client.get("/diagnosis", params={"ref": name})).json()
        assert found["complete"]
        assert {one["platform"]: one["complete"] for one in found["platforms"]}["linux/amd64"]

        failed = await client.post("/pull", params={"ref": f"{name}-absent"})
        (error,) = [json.loads(line) for line in (await failed.text()).splitlines()]
        assert "not found" in error["error"]

        assert (await client.get("/diagnosis", params={"ref": "A B"})).status == 400
        for missing in (await client.get("/diagnosis"), await client.post("/pull")):
            assert missing.status == 400
            assert await missing.json() == {"error": "the parameter 'ref' is missing"}


async def test_a_pull_ends_when_its_client_goes_away(
    containerd: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    layer = random_layer(3 << 20, seed=zlib.crc32(namespace.encode()))
    name = push(manifest(config([layer]), [layer]), registry, repository)
    fault = registry.add_fault(Fault(f"blobs/{layer.digest}", stall_after=1 << 20, times=1))
    app: Any = service().application(str(containerd.address), namespace)

    def pulls() -> list[asyncio.Task[Any]]:
        return [task for task in asyncio.all_tasks() if task.get_name().startswith("pull ")]

    async with TestClient(TestServer(app)) as client, asyncio.timeout(SECONDS):
        response = await client.post("/pull", params={"ref": name})
        assert await asyncio.to_thread(fault.stalled.wait, SECONDS)
        assert len(pulls()) == 1
        response.close()
        while pulls():
            await asyncio.sleep(0.05)
        fault.release.set()
        assert await (await client.get("/images")).json() == []
