"""containerd's events service: what happens in all namespaces, as it happens.

Source: containerd api/services/events/v1/events.proto, api/events, plugins/services/events/service.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

from google.protobuf.message import DecodeError, Message

from pyctrd.containerd import convert
from pyctrd.containerd.calls import Call
from pyctrd.containerd.channel import Connection
from pyctrd.oci.resources import Event
from pyctrd.protos.events import (
    container_pb2,
    content_pb2,
    image_pb2,
    namespace_pb2,
    sandbox_pb2,
    snapshot_pb2,
    task_pb2,
)
from pyctrd.protos.services.events.v1 import events_pb2, events_pb2_grpc
from pyctrd.protos.types import event_pb2

_MODULES: Final = (
    container_pb2,
    content_pb2,
    image_pb2,
    namespace_pb2,
    sandbox_pb2,
    snapshot_pb2,
    task_pb2,
)
# The messages by their type URL, which is the full name (github.com/containerd/typeurl).
_TYPES: Final[Mapping[str, Any]] = {
    descriptor.full_name: getattr(module, name)
    for module in cast("Any", _MODULES)
    for name, descriptor in module.DESCRIPTOR.message_types_by_name.items()
}
# The words of `docker events` where they differ from those of the topic.
_NAMES: Final[Mapping[str, tuple[str, str]]] = {
    "/containers/delete": ("container", "destroy"),
    "/tasks/start": ("container", "start"),
    "/tasks/exit": ("container", "die"),
    "/tasks/oom": ("container", "oom"),
    "/tasks/paused": ("container", "pause"),
    "/tasks/resumed": ("container", "unpause"),
    "/tasks/checkpointed": ("container", "checkpoint"),
    "/tasks/exec-added": ("container", "exec_create"),
    "/tasks/exec-started": ("container", "exec_start"),
}
_KINDS: Final[Mapping[str, str]] = {
    "containers": "container",
    "images": "image",
    "namespaces": "namespace",
    "sandboxes": "sandbox",
    "tasks": "task",
}
# The field with the name of the object, the first one that a message has.
_SUBJECTS: Final = ("name", "digest", "container_id", "sandbox_id", "key", "id")


class EventService:
    """The events of one containerd, of all its namespaces."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = events_pb2_grpc.EventsStub(connection.channel)

    def subscribe(self, filters: Sequence[str] = ()) -> EventCall:
        """Subscribe to what matches any of the filters, e.g. `topic~="/images/.*"` or `namespace==default`.

        Errors of the call are raised by the first step of the iteration.
        """
        return EventCall(self._connection, self._stub.Subscribe(events_pb2.SubscribeRequest(filters=filters)))


class EventCall:
    """An open subscription: an iterator of events. Raises DaemonUnreachable if containerd stops."""

    def __init__(self, connection: Connection, call: Any) -> None:
        self._connection = connection
        self._call: Call = call

    def __iter__(self) -> Iterator[Event]:
        """Return the iterator."""
        return self

    def __next__(self) -> Event:
        """Wait for the next event."""
        with self._connection.calling("events", "subscribe"):
            try:
                return to_event(next(self._call))
            except StopIteration:
                raise self._connection.explain("containerd ended the stream of events") from None

    def close(self) -> None:
        """End the subscription."""
        self._call.cancel()


def to_event(envelope: event_pb2.Envelope) -> Event:
    """Convert an event. The payload of an unknown type, or one that cannot be parsed, is None."""
    type_url = envelope.event.type_url
    payload = _payload(type_url.rpartition("/")[2], envelope.event.value)
    kind, action = _named(envelope.topic)
    if envelope.topic == "/tasks/exit" and payload and payload["id"] != payload["container_id"]:
        action = "exec_die"
    return Event(
        time=convert.to_datetime(envelope.timestamp),
        namespace=envelope.namespace,
        topic=envelope.topic,
        kind=kind,
        action=action,
        name=next((str(payload[field]) for field in _SUBJECTS if field in payload), "") if payload else "",
        type_url=type_url,
        payload=payload,
    )


def _named(topic: str) -> tuple[str, str]:
    """Return what a topic is about, and what happened; a topic of any other form is an action."""
    if topic in _NAMES:
        return _NAMES[topic]
    kind, _, action = topic.strip("/").partition("/")
    return (_KINDS.get(kind, kind), action) if action else ("", kind)


def _payload(name: str, value: bytes) -> Mapping[str, Any] | None:
    kind = _TYPES.get(name)
    if kind is None:
        return None
    try:
        return _plain(kind.FromString(value))
    except (DecodeError, UnicodeDecodeError):
        return None


def _plain(message: Any) -> dict[str, Any]:
    """Return the fields of a message as JSON types, under the names of the .proto files.

    Not with protobuf's json_format, which needs the type of every Any in the message.
    """
    return {name: _plain_value(getattr(message, name)) for name in message.DESCRIPTOR.fields_by_name}


def _plain_value(value: Any) -> Any:
    if isinstance(value, str | int):
        return value
    if not isinstance(value, Message):
        return dict(value) if isinstance(value, Mapping) else list(map(_plain_value, value))
    match value.DESCRIPTOR.full_name:
        case "google.protobuf.Timestamp":
            return convert.to_datetime(cast("Any", value))
        case "google.protobuf.Any":
            return {"type_url": cast("Any", value).type_url}
        case _:
            return _plain(value)
