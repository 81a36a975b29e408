"""Part: what the parts of `client.images` have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyctrd.connection import Working, WorkingWith
from pyctrd.containerd import Daemon
from pyctrd.oci.model import ImageRecord
from pyctrd.registries import Registries

if TYPE_CHECKING:
    from pyctrd.ports import Fetcher, ReferrerSource


class Part:
    """Methods that work on a containerd and on registries."""

    def __init__(self, working: Working, working_with: WorkingWith) -> None:
        self._working = working
        self._working_with = working_with


def listed(daemon: Daemon) -> tuple[ImageRecord, ...]:
    """Return all images, sorted by name."""
    return tuple(sorted(daemon.images.list(), key=lambda image: image.name))


def fetchers(daemon: Daemon, registries: Registries, image: ImageRecord) -> Sequence[Fetcher]:
    """Return the repositories to fetch an image's content from."""
    from pyctrd.steps.sources import sources_of

    sources = sources_of(daemon, image)
    return [registries.remote(source, account=sources[0].domain) for source in sources]


def referrer_sources(daemon: Daemon, registries: Registries, image: ImageRecord) -> Sequence[ReferrerSource]:
    """Return the repositories to ask for the referrers of an image."""
    from pyctrd.steps.sources import sources_of

    sources = sources_of(daemon, image)
    return [registries.referrer_source(source, account=sources[0].domain) for source in sources]
