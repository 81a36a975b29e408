"""AsyncClient: the same surface as Client, tasks that can be cancelled, and no thread left behind."""

from __future__ import annotations

import asyncio
import inspect
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from pyctrd import AsyncClient, Client, ClientClosed, InvalidInput, InvalidReference, Progress, ProgressStream
from pyctrd.images import Images
from tests.containerd.fake import FakeDaemon, serve

PARTS = ("images", "content", "leases", "namespaces", "snapshots", "events")


@pytest.fixture
def socket() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="pyctrd-", dir="/tmp") as folder:
        path = Path(folder) / "c.sock"
        server: grpc.Server = serve(path, FakeDaemon())
        yield str(path)
        server.stop(None).wait()


def public(item: object) -> dict[str, Callable[..., Any]]:
    return {name: value for name, value in inspect.getmembers(item, callable) if not name.startswith("_")}


@pytest.mark.parametrize("part", [*PARTS, ""])
def test_both_clients_have_the_same_signatures(part: str) -> None:
    with Client("/none") as client:
        one: object = getattr(client, part) if part else client
        other: object = AsyncClient("/none")
        other = getattr(other, part) if part else other
        here, there = public(one), public(other)
        assert here.keys() == there.keys()
        for name, method in here.items():
            own = [item for item in inspect.signature(method).parameters.values() if item.name != "self"]
            awaited = [
                item for item in inspect.signature(there[name]).parameters.values() if item.name != "self"
            ]
            assert own == awaited, name


async def test_calls_are_awaited(socket: str) -> None:
    async with AsyncClient(socket) as client:
        assert (await client.version()).version
        assert await client.images.list() == ()
        with pytest.raises(InvalidReference):
            await client.content.get("nonsense")
        with pytest.raises(InvalidInput):
            await client.images.pull("alpine", cancel=True)  # type: ignore[arg-type]
    with pytest.raises(ClientClosed):
        await client.images.list()


async def test_close_ends_the_threads(socket: str) -> None:
    before = set(threading.enumerate())
    async with AsyncClient(socket) as client:
        await client.version()
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not [name for name in left if name.startswith("pyctrd-")], left


def slow_pull(started: threading.Event) -> Callable[..., str]:
    """A stub of Images.pull: reports two events, then waits until it is cancelled."""

    def pull(
        _images: object, _ref: str, *, progress: Callable[[Progress], None], cancel: threading.Event
    ) -> str:
        progress(Progress(action="resolved"))
        progress(Progress(action="downloading"))
        started.set()
        return "ended in order" if cancel.wait(10) else "not ended"

    return pull


async def test_cancelling_a_task_ends_the_call(socket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started, seen = threading.Event(), list[str]()
    ended = list[str]()
    work = slow_pull(started)

    def pull(*args: Any, **named: Any) -> None:
        ended.append(work(*args, **named))

    monkeypatch.setattr(Images, "pull", pull)
    async with AsyncClient(socket) as client:
        task = asyncio.create_task(
            client.images.pull("alpine", progress=lambda event: seen.append(event.action))
        )
        await asyncio.to_thread(started.wait, 10)
        begun = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == ["ended in order"]
        assert seen == ["resolved", "downloading"]
        assert time.monotonic() - begun < 8


async def test_progress_as_an_iterator_ends_with_the_call(
    socket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pull(_images: Images, _ref: str, *, progress: Callable[[Progress], None], **_more: Any) -> str:
        for action in ("resolved", "done"):
            progress(Progress(action=action))
        return "pulled"

    monkeypatch.setattr(Images, "pull", pull)
    async with AsyncClient(socket) as client:
        stream = ProgressStream()
        task = asyncio.create_task(client.images.pull("alpine", progress=stream))
        assert [event.action async for event in stream] == ["resolved", "done"]
        assert str(await task) == "pulled"


def test_several_loops_use_one_client(socket: str) -> None:
    client = AsyncClient(socket)
    versions = list[str]()

    async def ask() -> None:
        versions.append((await client.version()).version)

    threads = [threading.Thread(target=lambda: asyncio.run(ask())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    asyncio.run(client.close())
    assert len(versions) == 3
