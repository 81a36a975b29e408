"""What the checks need to know about the machine itself, apart from what containerd answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from pyctrd.operations.doctor.model import Severity


class SocketFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A socket: who may use it, and the sockets of other containerds on this machine, with their product.

    `mode` are the permission bits, None if there is no socket or it cannot be seen. `group` is "" for root's.
    `is_open` is false if the folders above keep other users away from it.
    """

    path: str
    owner: str = ""
    group: str = ""
    mode: int | None = None
    is_open: bool = True
    others: tuple[tuple[str, str], ...] = ()


class ProcessFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The process of containerd, if it runs on this machine.

    `path` are the folders of its PATH, None if this user may not read them; `environment` are its variables
    that begin with CONTAINERD_.
    """

    pid: int
    path: tuple[str, ...] | None = None
    environment: Mapping[str, str] = msgspec.field(default_factory=dict)


class DiskSpace(msgspec.Struct, frozen=True, kw_only=True):
    """The space of a file system that this user may still write to; `inodes` is 0 if it has no limit."""

    bytes_total: int
    bytes_free: int
    inodes: int
    inodes_free: int
    device: int


class ConfigFile(msgspec.Struct, frozen=True, kw_only=True):
    """containerd's configuration: the file, and what it and the files that it imports say, merged."""

    path: str
    settings: Mapping[str, Any]


class Pitfall(msgspec.Struct, frozen=True, kw_only=True):
    """Something wrong with the directories that configure registries; `where` is a path, or file:line."""

    code: str
    severity: Severity
    where: str
    text: str
    advice: str


class Host(Protocol):
    """The machine that this program runs on."""

    def socket(self) -> SocketFacts:
        """Return what is known about containerd's socket."""

    def process(self) -> ProcessFacts | None:
        """Return the process that listens on the socket, None unless it is a containerd on this machine."""

    def has_program(self, folders: Sequence[str], name: str) -> bool:
        """Whether one of the folders has a program."""

    def disk(self, folder: str) -> DiskSpace | None:
        """Return the space of the file system with a folder of containerd's, None if it cannot be seen."""

    def config(self) -> ConfigFile:
        """Return containerd's configuration. Raises OSError or ValueError."""

    def pitfalls(self) -> Sequence[Pitfall]:
        """Return what is wrong with the directories that configure registries."""


class ReportedHost(Host, Protocol):
    """The machine that a bug report describes. Nothing that these methods return has a secret."""

    def versions(self) -> Mapping[str, str]:
        """Return the versions of pyctrd, Python and the libraries."""

    def platform(self) -> Mapping[str, object]:
        """Return facts about the operating system and the hardware."""

    def environment(self) -> Mapping[str, str]:
        """Return the variables that change what pyctrd does; values that may be secret are replaced."""

    def registries(self) -> Mapping[str, object]:
        """Return the configuration of registries, and where logins are stored."""
