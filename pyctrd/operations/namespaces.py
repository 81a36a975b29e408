"""The namespaces of a containerd: what is in them, and creating, labelling and removing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from pyctrd.amounts import count, listed
from pyctrd.errors import FailedPrecondition, NotFound, Remedy
from pyctrd.oci.resources import Namespace
from pyctrd.operations.pull import check_labels
from pyctrd.ports import Containerd

# How the content of a namespace can be listed.
_Method: TypeAlias = Literal["", "images", "leases.list", "snapshots.list", "content.list", "content.ingests"]


class NamespaceOverview(msgspec.Struct, frozen=True, kw_only=True):
    """A namespace, with the number of its image records and of its containers."""

    namespace: Namespace
    images: int
    containers: int


def overview(store: Containerd) -> tuple[NamespaceOverview, ...]:
    """Return all namespaces, sorted by name: two calls for each. Raises DaemonError."""
    return tuple(
        NamespaceOverview(
            namespace=namespace,
            images=len(store.in_namespace(namespace.name).images.list()),
            containers=len(store.in_namespace(namespace.name).containers.list()),
        )
        for namespace in sorted(store.namespaces.list(), key=lambda namespace: namespace.name)
    )


def create(store: Containerd, name: str, labels: Mapping[str, str]) -> Namespace:
    """Create a namespace. Raises AlreadyExists, InvalidInput for labels that containerd would refuse."""
    check_labels(labels)
    return store.namespaces.create(name, labels)


def label(store: Containerd, name: str, labels: Mapping[str, str]) -> Namespace:
    """Set labels of a namespace; an empty value removes one. Return it with all its labels.

    Raises NotFound, InvalidInput.
    """
    check_labels(labels)
    _find(store, name)  # containerd would create it
    store.namespaces.set_labels(name, labels)
    return _find(store, name)


def remove(store: Containerd, names: Sequence[str]) -> tuple[str, ...]:
    """Delete empty namespaces, and return their names.

    Raises NotFound before anything is deleted, FailedPrecondition with what is in the first one that is not
    empty.
    """
    wanted = tuple(dict.fromkeys(names))
    for name in wanted:
        _find(store, name)
    for name in wanted:
        try:
            store.namespaces.delete(name)
        except FailedPrecondition as error:
            _explain(error, store.in_namespace(name))
            raise
    return wanted


def _find(store: Containerd, name: str) -> Namespace:
    for namespace in store.namespaces.list():
        if namespace.name == name:
            return namespace
    raise NotFound(
        f'namespace "{name}": not found',
        kind="namespace",
        name=name,
        hint="list the namespaces",
        remedy=Remedy(method="namespaces.list"),
    )


def _explain(error: FailedPrecondition, store: Containerd) -> None:
    """Add to containerd's refusal what is in the namespace, and the call that lists the first kind of it."""
    snapshots = sum(len(list(store.snapshots.list(name))) for name in store.snapshotters())
    found: Sequence[tuple[int, str, _Method]] = (
        (len(store.containers.list()), "container", ""),
        (len(store.images.list()), "image", "images"),
        (len(store.leases.list()), "lease", "leases.list"),
        (snapshots, "snapshot", "snapshots.list"),
        (sum(1 for _ in store.content.list()), "blob", "content.list"),
        (len(store.content.ingests()), "unfinished write", "content.ingests"),
    )
    there = [(number, noun, method) for number, noun, method in found if number]
    if not there:
        error.hint = "it is empty by now: try again"
        return
    error.hint = f"it has {listed([count(number, noun) for number, noun, _ in there])}; remove them first"
    method: _Method = next((method for _, _, method in there if method), "")
    if method:
        error.remedy = Remedy(method=method, namespace=store.namespace)
