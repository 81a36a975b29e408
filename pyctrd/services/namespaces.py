"""Namespaces: the namespaces of one containerd, as `client.namespaces`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pyctrd import arguments, namespaces
from pyctrd.connection import Working
from pyctrd.containerd.address import resolve_namespace
from pyctrd.oci.resources import Namespace
from pyctrd.operations import namespaces as _namespaces
from pyctrd.operations.namespaces import NamespaceOverview


class Namespaces:
    """The namespaces of one containerd, as `client.namespaces`."""

    def __init__(self, working: Working) -> None:
        self._working = working

    def list(self) -> tuple[Namespace, ...]:
        """Return all namespaces, sorted by name."""
        with self._working() as (daemon, _):
            return tuple(sorted(daemon.namespaces.list(), key=lambda namespace: namespace.name))

    def overview(self) -> tuple[NamespaceOverview, ...]:
        """Return all namespaces as `list` does, with the number of their images and containers."""
        with self._working() as (daemon, _):
            return _namespaces.overview(daemon)

    def having(self, names: str | Iterable[str] = ()) -> tuple[str, ...]:
        """Return the other namespaces that have an image with one of these exact names.

        Without `names`, return those that have any image.
        """
        wanted: Sequence[str] = arguments.texts("names", names)
        with self._working() as (daemon, _):
            return namespaces.having(daemon, wanted)

    def create(self, name: str, *, labels: Mapping[str, str] | None = None) -> Namespace:
        """Create a namespace. Raises AlreadyExists, and InvalidInput for a malformed name."""
        wanted = resolve_namespace(arguments.text("name", name), {})
        made = arguments.labels("labels", labels)
        with self._working() as (daemon, _):
            return _namespaces.create(daemon, wanted, made)

    def label(self, name: str, labels: Mapping[str, str]) -> Namespace:
        """Set labels of a namespace, and return it; an empty value removes a label. Raises NotFound."""
        wanted = resolve_namespace(arguments.text("name", name), {})
        made = arguments.labels("labels", labels)
        with self._working() as (daemon, _):
            return _namespaces.label(daemon, wanted, made)

    def remove(self, names: str | Iterable[str]) -> tuple[str, ...]:
        """Delete empty namespaces, and return their names.

        Raises NotFound before anything is deleted; FailedPrecondition (`namespace "..." must be empty`), with
        a hint that says what is in it.
        """
        wanted = [resolve_namespace(name, {}) for name in arguments.texts("names", names)]
        with self._working() as (daemon, _):
            return _namespaces.remove(daemon, wanted)
