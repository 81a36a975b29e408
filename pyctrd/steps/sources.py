"""The repositories of an image's content, from its name and the labels of its content."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import msgspec

from pyctrd.errors import DaemonError, InvalidReference, NotFound
from pyctrd.oci import mediatypes, reference
from pyctrd.oci.model import EMPTY, Descriptor, ImageRecord
from pyctrd.oci.reference import Reference
from pyctrd.ports import Store
from pyctrd.steps.fetch import host_name


def sources_of(store: Store, image: ImageRecord) -> list[Reference]:
    """Return the repositories to ask for an image's content, the likeliest first, without tags.

    The `containerd.io/distribution.source.<host>` labels of the target say where it came from. The image's
    own name comes first if it agrees with the labels, or if there are none; otherwise it is probably a local
    tag, and comes last. The labels do not have the registry's port, which the name of another image may have.
    """
    own = _named(image.name)
    labelled = fetched_from(store, [_labels(store, image.target)], own)
    agreed = own is not None and (not labelled or own in labelled)
    ordered = [own, *labelled] if agreed else [*labelled, own]
    return list(dict.fromkeys(item for item in ordered if item is not None))


def fetched_from(
    store: Store, labels: Iterable[Mapping[str, str]], own: Reference | None = None
) -> list[Reference]:
    """Return the repositories that blobs were fetched from, by their labels, without tags.

    The labels do not have the registry's port: it is taken from `own`, or from the name of another image.
    """
    bare = dict.fromkeys(source for one in labels for source in _labelled(one))
    known: dict[tuple[str, str], dict[Reference, None]] = {}
    for item in [own, *_with_ports(store, bare)]:
        if item is not None:
            known.setdefault((host_name(item.domain), item.repository), {})[item] = None
    return [item for one in bare for item in known.get((host_name(one.domain), one.repository), (one,))]


def _with_ports(store: Store, bare: Collection[Reference]) -> list[Reference | None]:
    """Return the repositories of the images whose names match; other images may have very many labels."""
    if not bare:
        return []
    filters = [
        f'name~="^{_literally(item.domain)}(:[0-9]+)?/{_literally(item.repository)}([:@]|$)"' for item in bare
    ]
    try:
        return [_named(record.name) for record in store.images.list(filters)]
    except DaemonError as error:
        if error.code != "RESOURCE_EXHAUSTED":
            raise
        return []  # the labels of a single image are larger than a message may be


def _literally(text: str) -> str:
    """Return a regular expression for a text, without backslashes, which a quoted filter would lose."""
    return "".join(letter if letter.isalnum() else f"[{letter}]" for letter in text)


def _named(name: str) -> Reference | None:
    """Return the repository of an image's name; None if the name is not a reference."""
    try:
        parsed = reference.parse(name)
    except InvalidReference:
        return None
    return msgspec.structs.replace(parsed, tag="", digest=None)


def _labels(store: Store, target: Descriptor) -> Mapping[str, str]:
    try:
        return store.content.info(target.digest).labels
    except NotFound:
        return EMPTY


def _labelled(labels: Mapping[str, str]) -> Iterator[Reference]:
    for key, value in sorted(labels.items()):
        if key.startswith(mediatypes.DISTRIBUTION_SOURCE):
            host = key.removeprefix(mediatypes.DISTRIBUTION_SOURCE)
            for path in filter(None, value.split(",")):
                found = _named(f"[{host}]/{path}" if ":" in host else f"{host}/{path}")
                if found is not None:
                    yield found
