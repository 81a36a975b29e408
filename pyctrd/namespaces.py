"""Find images in the namespaces of a containerd."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyctrd import arguments
from pyctrd.containerd import Daemon
from pyctrd.errors import DaemonError, NotFound, Remedy
from pyctrd.oci.model import ImageRecord
from pyctrd.oci.resources import Namespace
from pyctrd.operations import lookup
from pyctrd.ports import ImageStore


def find_image(daemon: Daemon, ref: str) -> ImageRecord:
    """Find an image. If only other namespaces have it, or a similar name, the error's hint names them."""
    try:
        return lookup.find(daemon.images, arguments.text("ref", ref))
    except NotFound as error:
        found = having(daemon, (ref, error.name))
        if found:
            error.hint = f"it is in the namespace {' and in '.join(found)}"
            error.remedy = Remedy(namespace=found[0])
        elif error.remedy and error.remedy.method == "pull":  # there is nothing similar here
            _point_to_similar(daemon, error)
        raise


def find_images(daemon: Daemon, refs: Sequence[str]) -> list[ImageRecord]:
    """Find images, many at a time. Raises what `find_image` raises, for the first one that is not found."""
    known = lookup.find_by_name(daemon.images, refs)
    return [known.get(ref) or find_image(daemon, ref) for ref in refs]


def _point_to_similar(daemon: Daemon, error: NotFound) -> None:
    for other in others(daemon):
        try:
            names = lookup.similar(other.images, error.name)
        except DaemonError:
            continue  # a namespace that cannot be listed
        if names:
            error.hint = f"did you mean {', '.join(names)} in the namespace {other.namespace}?"
            error.remedy = None
            return


def having(daemon: Daemon, names: Sequence[str]) -> tuple[str, ...]:
    """Return the other namespaces that have an image with one of these exact names; without names, any."""
    return tuple(other.namespace for other in others(daemon) if _has(other.images, names))


def _has(images: ImageStore, names: Sequence[str]) -> bool:
    import json

    try:
        return bool(images.list([f"name=={json.dumps(name, ensure_ascii=False)}" for name in names]))
    except DaemonError:
        return False  # a namespace that cannot be listed


def sharing(daemon: Daemon) -> Sequence[Daemon]:
    """Return the other namespaces whose content this one can use without a download."""
    if daemon.introspection.shares_content():
        return others(daemon)
    if not daemon.introspection.has_transfer():  # containerd 1.6, which shares nothing then
        return []
    return others(daemon, lambda namespace: namespace.is_shareable)


def all_of(daemon: Daemon) -> Sequence[Daemon]:
    """Return all namespaces of a containerd, sorted by name."""
    return sorted([daemon, *others(daemon)], key=lambda one: one.namespace)


def others(daemon: Daemon, wanted: Callable[[Namespace], bool] = lambda _namespace: True) -> Sequence[Daemon]:
    """Return the other namespaces of a containerd."""
    return [
        daemon.in_namespace(namespace.name)
        for namespace in daemon.namespaces.list()
        if namespace.name != daemon.namespace and wanted(namespace)
    ]
