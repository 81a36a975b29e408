"""Examination: what the checks look at, asked for once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from functools import cached_property

from pyctrd.errors import ContentError, DaemonUnreachable, NotFound
from pyctrd.oci import graph
from pyctrd.oci.model import Descriptor, Digest, ImageRecord
from pyctrd.oci.resources import DaemonVersion, Plugin
from pyctrd.operations.doctor.host import Host
from pyctrd.ports import Containerd
from pyctrd.steps.gc_state import GcState, read_state


class CannotCheck(Exception):
    """A check cannot be made; the text says why."""


class Examination:
    """A containerd with all of its namespaces, and the machine, at a moment."""

    def __init__(
        self,
        containerd: Containerd | None,
        host: Host,
        now: dt.datetime,
        unreachable: DaemonUnreachable | None = None,
    ) -> None:
        self._containerd = containerd
        self.host = host
        self.now = now
        self.unreachable = unreachable
        self._states: dict[str, GcState] = {}
        self._children: dict[tuple[Digest, str], Sequence[Descriptor]] = {}

    @property
    def containerd(self) -> Containerd:
        """The containerd. Raises CannotCheck if it does not answer."""
        if self._containerd is None:
            raise CannotCheck("containerd does not answer")
        return self._containerd

    @cached_property
    def version(self) -> DaemonVersion:
        """containerd's version."""
        return self.containerd.version()

    @cached_property
    def plugins(self) -> Sequence[Plugin]:
        """All plugins of containerd."""
        return self.containerd.introspection.plugins()

    @cached_property
    def spaces(self) -> Sequence[Containerd]:
        """All namespaces, sorted by name."""
        names = sorted(namespace.name for namespace in self.containerd.namespaces.list())
        return tuple(self.containerd.in_namespace(name) for name in names)

    @property
    def has_cri(self) -> bool:
        """Whether containerd serves the kubelet."""
        return any(
            plugin.type == "io.containerd.grpc.v1" and plugin.id == "cri" and not plugin.error
            for plugin in self.plugins
        )

    def state(self, space: Containerd) -> GcState:
        """Return the records of a namespace."""
        if space.namespace not in self._states:
            self._states[space.namespace] = read_state(space)
        return self._states[space.namespace]

    def descriptors(self, space: Containerd, image: ImageRecord) -> Iterator[Descriptor]:
        """Yield what an image consists of, as far as its documents are in the store and can be read."""
        try:
            yield from graph.preorder(image.target, lambda descriptor: self.children(space, descriptor))
        except ContentError:
            return  # it is nested too deeply, or too large

    def children(self, space: Containerd, descriptor: Descriptor) -> Sequence[Descriptor]:
        """Return the children of a document, none if it is not in the store or cannot be read."""
        key = (descriptor.digest, descriptor.media_type)
        if not graph.has_children(descriptor) or descriptor.digest not in self.state(space).content:
            return ()
        if key not in self._children:
            try:
                self._children[key] = graph.children_in(descriptor, self.read(space, descriptor))
            except (ContentError, NotFound):
                self._children[key] = ()
        return self._children[key]

    def read(self, space: Containerd, descriptor: Descriptor) -> bytes:
        """Return the bytes of a document. Raises NotFound, ContentError."""
        return space.content.read_all(descriptor.digest, limit=graph.size_limit(descriptor))
