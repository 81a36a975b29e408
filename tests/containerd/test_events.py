"""Events: converted from containerd's messages, and streamed until the client or the daemon ends."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd import AsyncClient, Cancelled, Client, ClientClosed, DaemonUnreachable, InvalidInput
from pyctrd.containerd.calls import Call
from pyctrd.containerd.events import _TYPES, to_event
from pyctrd.protos.events import container_pb2, image_pb2, snapshot_pb2, task_pb2
from pyctrd.protos.types import event_pb2
from tests.containerd.fake import FakeDaemon, fault


def envelope(topic: str, message: Any, type_url: str = "") -> event_pb2.Envelope:
    made = event_pb2.Envelope(namespace="default", topic=topic)
    made.timestamp.FromDatetime(dt.datetime(2026, 11, 27, 12, tzinfo=dt.UTC))
    made.event.type_url = type_url or message.DESCRIPTOR.full_name
    made.event.value = message.SerializeToString()
    return made


IMAGE = envelope("/images/create", image_pb2.ImageCreate(name="app:1", labels={"a": "1"}))


@pytest.fixture
def opened(fake: FakeDaemon, sockets: Path) -> Iterator[Client]:
    with Client(sockets / "containerd.sock", "testing") as client:
        yield client


# --- one event --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "message", "words"),
    [
        ("/images/create", image_pb2.ImageCreate(name="app:1"), "image create app:1"),
        ("/images/delete", image_pb2.ImageDelete(name="app:1"), "image delete app:1"),
        ("/containers/create", container_pb2.ContainerCreate(id="c"), "container create c"),
        ("/containers/delete", container_pb2.ContainerDelete(id="c"), "container destroy c"),
        ("/tasks/start", task_pb2.TaskStart(container_id="c", pid=7), "container start c"),
        ("/tasks/exit", task_pb2.TaskExit(container_id="c", id="c"), "container die c"),
        ("/tasks/exit", task_pb2.TaskExit(container_id="c", id="shell"), "container exec_die c"),
        ("/tasks/exec-added", task_pb2.TaskExecAdded(container_id="c"), "container exec_create c"),
        ("/tasks/paused", task_pb2.TaskPaused(container_id="c"), "container pause c"),
        ("/tasks/create", task_pb2.TaskCreate(container_id="c"), "task create c"),
        ("/snapshot/commit", snapshot_pb2.SnapshotCommit(key="k", name="n"), "snapshot commit n"),
        ("/snapshot/remove", snapshot_pb2.SnapshotRemove(key="k"), "snapshot remove k"),
        ("/mine/a/b", image_pb2.ImageDelete(name="x"), "mine a/b x"),
        ("odd", image_pb2.ImageDelete(name="x"), " odd x"),
    ],
)
def test_events_have_the_words_of_docker(topic: str, message: Any, words: str) -> None:
    event = to_event(envelope(topic, message))
    assert f"{event.kind} {event.action} {event.name}" == words
    assert event.topic == topic
    assert event.time == dt.datetime(2026, 11, 27, 12, tzinfo=dt.UTC)


def test_the_payload_has_all_fields() -> None:
    message = task_pb2.TaskCreate(container_id="c", pid=3)
    message.rootfs.add(type="overlay", options=["ro"])
    event = to_event(envelope("/tasks/create", message))
    assert event.payload == {
        "container_id": "c",
        "bundle": "",
        "rootfs": [{"type": "overlay", "source": "", "target": "", "options": ["ro"]}],
        "io": {"stdin": "", "stdout": "", "stderr": "", "terminal": False},
        "checkpoint": "",
        "pid": 3,
    }
    created = container_pb2.ContainerCreate(id="c")
    created.runtime.options.type_url = "containerd.runc.v1.Options"
    runtime = (to_event(envelope("/containers/create", created)).payload or {})["runtime"]
    assert runtime == {"name": "", "options": {"type_url": "containerd.runc.v1.Options"}}


def test_an_unknown_type_is_no_error() -> None:
    event = to_event(envelope("/new/thing", image_pb2.ImageDelete(name="x"), "containerd.events.New"))
    assert (event.payload, event.type_url, event.name) == (None, "containerd.events.New", "")


@given(name=st.sampled_from(sorted(_TYPES)), value=st.binary(max_size=40))
def test_a_malformed_message_is_no_error(name: str, value: bytes) -> None:
    made = event_pb2.Envelope(topic="/a/b")
    made.event.type_url, made.event.value = f"types.example/{name}", value
    event = to_event(made)
    assert event.payload is None or set(event.payload) == set(_TYPES[name].DESCRIPTOR.fields_by_name)


# --- the stream -------------------------------------------------------------------------------------------


def test_events_are_streamed_until_the_stream_is_closed(opened: Client, fake: FakeDaemon) -> None:
    fake.events = [IMAGE, IMAGE]
    stream = opened.events.stream(["namespace==default", "topic==x"])
    assert [next(stream).name, next(stream).name] == ["app:1", "app:1"]
    closing = threading.Timer(0.1, stream.close)
    closing.start()
    assert list(stream) == []
    closing.join()
    stream.close()
    (request,) = fake.requests("Subscribe")
    assert list(request.filters) == ["namespace==default", "topic==x"]


def test_cancel_ends_a_stream(opened: Client, fake: FakeDaemon) -> None:
    cancel = threading.Event()
    with opened.events.stream(cancel=cancel) as stream:
        threading.Timer(0.1, cancel.set).start()
        with pytest.raises(Cancelled):
            next(stream)


def test_closing_the_client_ends_a_stream(opened: Client, fake: FakeDaemon) -> None:
    stream = opened.events.stream()
    threading.Timer(0.1, opened.close).start()
    with pytest.raises(ClientClosed):
        next(stream)


def test_a_stream_that_the_daemon_ends_is_an_error(opened: Client, fake: FakeDaemon) -> None:
    fake.events, fake.waits_for_events = [IMAGE], False
    stream = opened.events.stream()
    assert next(stream).name == "app:1"
    with pytest.raises(DaemonUnreachable, match="containerd ended the stream of events"):
        next(stream)
    assert list(stream) == []


def test_a_refused_filter_is_an_error(opened: Client, fake: FakeDaemon) -> None:
    message = "subscription error: filters: parse error: [x >|<]: expected an operator"
    fake.faults["Subscribe"] = fault(grpc.StatusCode.INVALID_ARGUMENT, message)
    with pytest.raises(InvalidInput, match=r"invalid filter: .*parse error") as refused:
        next(opened.events.stream("x"))
    assert "FIELD==VALUE" in str(refused.value.hint)


async def test_a_task_that_waits_for_events_can_be_cancelled(sockets: Path, fake: FakeDaemon) -> None:
    fake.events = [IMAGE]
    seen: list[str] = []
    got = asyncio.Event()

    async def read(client: AsyncClient) -> None:
        async with client.events.stream() as stream:
            async for event in stream:
                seen.append(event.name)
                got.set()

    async with AsyncClient(sockets / "containerd.sock", "testing", threads=1) as client:
        task = asyncio.create_task(read(client))
        await got.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await client.version()).version  # the only thread is free again
    assert seen == ["app:1"]


def test_a_quiet_stream_of_events_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyctrd.containerd.calls.IDLE_SECONDS", -1.0)

    class Raw:
        def __init__(self) -> None:
            self.idle: list[bool] = []
            self.call: Call | None = None

        def __next__(self) -> None:
            assert self.call is not None
            self.idle.append(self.call.is_idle)

    for method, idle in (("/containerd.services.events.v1.Events/Subscribe", False), ("/a/B", True)):
        raw = Raw()
        raw.call = Call(raw, method)
        next(raw.call)
        assert raw.idle == [idle]
