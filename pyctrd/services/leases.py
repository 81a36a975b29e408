"""Leases: the leases of one namespace, as `client.leases`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping

from pyctrd import arguments
from pyctrd.connection import Working
from pyctrd.oci.resources import Lease
from pyctrd.operations import leases as _leases
from pyctrd.operations.leases import LeaseDetails, LeaseOverview

_LIFETIME = dt.timedelta(hours=24)


class Leases:
    """The leases of one namespace, as `client.leases`.

    A lease protects what it holds from the garbage collector until it is removed or expires.
    """

    def __init__(self, working: Working) -> None:
        self._working = working

    def list(self, filters: str | Iterable[str] = ()) -> tuple[Lease, ...]:
        """Return the leases that match any of the filters, or all of them, sorted by id."""
        wanted = arguments.texts("filters", filters)
        with self._working() as (daemon, _):
            return tuple(sorted(daemon.leases.list(wanted), key=lambda lease: lease.id))

    def overview(self, filters: str | Iterable[str] = ()) -> tuple[LeaseOverview, ...]:
        """Return the leases as `list` does, with how much each of them holds."""
        wanted = arguments.texts("filters", filters)
        with self._working() as (daemon, _):
            return _leases.overview(daemon, wanted)

    def inspect(self, id: str) -> LeaseDetails:  # noqa: A002 - containerd's word
        """Return a lease and what it holds, with sizes. Raises NotFound (`lease "...": not found`)."""
        wanted = arguments.text("id", id)
        with self._working() as (daemon, _):
            return _leases.inspect(daemon, wanted)

    def create(
        self,
        id: str = "",  # noqa: A002 - containerd's word
        *,
        ttl: dt.timedelta | None = _LIFETIME,
        labels: Mapping[str, str] | None = None,
    ) -> Lease:
        """Create a lease that expires after `ttl`, by default 24 hours; with None, it never expires.

        containerd chooses the id if it is empty. Raises AlreadyExists, InvalidInput.
        """
        wanted = arguments.text("id", id)
        made = arguments.labels("labels", labels)
        with self._working() as (daemon, _):
            return _leases.create(daemon, wanted, ttl=ttl, labels=made, now=dt.datetime.now(dt.UTC))

    def remove(
        self, ids: str | Iterable[str], *, sync: bool = False, force: bool = False
    ) -> tuple[Lease, ...]:
        """Delete leases, and return them; `sync` waits for the garbage collector.

        Without `force`, nothing is deleted if a client is writing right now what one of them holds. Raises
        NotFound, InUse.
        """
        wanted = arguments.texts("ids", ids)
        with self._working() as (daemon, _):
            return _leases.remove(daemon, wanted, sync=sync, force=force)
