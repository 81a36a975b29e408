"""Builds the message classes of the generated modules in a descriptor pool of their own.

Generated code normally registers every file and message by name in one pool for the whole process. Any other
package with containerd's API in it would then fail to import beside this one, or make this one fail. The
names cannot be changed, since they are what goes over the wire, so the pool is what is kept apart.

scripts/gen-stubs makes each generated module import this module in the place of protobuf's `descriptor_pool`
and `internal.builder`; the functions here therefore bear the names of those in these two modules.

The price: a well-known type (Timestamp, Any, FieldMask) inside one of these messages is a class of this pool,
and an instance of the public class can't be assigned to it. Fill it in place: `FromDatetime`, `append`.
"""

from __future__ import annotations

import importlib
import threading
from typing import Any, Final, Protocol

from google.protobuf import reflection
from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.builder import BuildMessageAndEnumDescriptors
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

__all__ = ["BuildMessageAndEnumDescriptors", "BuildTopDescriptorsAndMessages", "Default"]

# protobuf's own files, without their extension; `google/protobuf/any` is in google.protobuf.any_pb2.
_WELL_KNOWN: Final = ("any", "descriptor", "duration", "empty", "field_mask", "struct", "timestamp", "wrappers")


class _Pool(Protocol):
    """What generated code asks of a pool."""

    def AddSerializedFile(self, serialized_file_desc_proto: bytes) -> FileDescriptor: ...


class _PrivatePool:
    """A pool that gets each of protobuf's own files with the first file that imports it."""

    def __init__(self) -> None:
        self._pool: Any = DescriptorPool()  # the published types don't say that adding returns the file
        self._lock = threading.Lock()
        self._missing = {name: f"google/protobuf/{name}.proto".encode() for name in _WELL_KNOWN}

    def AddSerializedFile(self, serialized_file_desc_proto: bytes) -> FileDescriptor:
        with self._lock:
            for name in [one for one, path in self._missing.items() if path in serialized_file_desc_proto]:
                module = importlib.import_module(f"google.protobuf.{name}_pb2")
                self._pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
                del self._missing[name]
            return self._pool.AddSerializedFile(serialized_file_desc_proto)  # type: ignore[no-any-return]


_POOL = _PrivatePool()


def Default() -> _Pool:
    """Return the pool of this package, which the generated modules add their files to."""
    return _POOL


def BuildTopDescriptorsAndMessages(file: FileDescriptor, module_name: str, module: dict[str, Any]) -> None:
    """Add the enums, extensions, service descriptors and message classes of `file` to `module`, its globals.

    The same as protobuf's own builder but for the last step: no class is entered in the process-wide symbol
    database, which in protobuf's pure Python implementation is a second place where equal names collide.
    """
    for name, enum in file.enum_types_by_name.items():
        module["_" + name.upper()] = enum
        module[name] = EnumTypeWrapper(enum)
        module.update((value.name, value.number) for value in enum.values)
    for name, extension in file.extensions_by_name.items():
        module[name.upper() + "_FIELD_NUMBER"] = extension.number
        module[name] = extension
    for name, service in file.services_by_name.items():
        module["_" + name.upper()] = service
    for name, message in file.message_types_by_name.items():
        module[name] = _message_class(module_name, message, name)


def _message_class(module_name: str, message: Descriptor, qualified_name: str) -> type[Message]:
    members: dict[str, Any] = {
        name: _message_class(module_name, nested, f"{qualified_name}.{name}")
        for name, nested in message.nested_types_by_name.items()
    }
    # __module__ and __qualname__ are what pickle, tracebacks and reprs find the class by.
    members.update(DESCRIPTOR=message, __module__=module_name, __qualname__=qualified_name)
    build: Any = reflection.GeneratedProtocolMessageType
    return build(message.name, (Message,), members)  # type: ignore[no-any-return]
