"""What deals with disk space: usage and prune."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from pyctrd import arguments
from pyctrd.images.part import Part

if TYPE_CHECKING:
    import threading

    from pyctrd.operations.usage import UsageResult
    from pyctrd.steps.removal import RemoveResult


class Space(Part):
    """The methods of Images for disk space."""

    def usage(self, *, all_namespaces: bool = False, cancel: threading.Event | None = None) -> UsageResult:
        """Return the disk space of images, blobs and snapshots, and how much of it can be freed.

        Does not read any content. containerd is asked for the size of each snapshot, which for those of
        containers takes as long as walking their files. `all_namespaces` covers all namespaces of this
        containerd, not only the client's.
        """
        from pyctrd.operations.usage import usage

        with self._working(cancel) as (daemon, _):
            return usage(daemon, dt.datetime.now(dt.UTC), all_namespaces=all_namespaces)

    def prune(
        self,
        *,
        dangling: bool = False,
        unused: bool = False,
        older_than: dt.timedelta | None = None,
        keep_last: int | None = None,
        until_free: int | str | None = None,
        keep: str | Iterable[str] = (),
        expired: bool = False,
        leftovers: bool = False,
        dry_run: bool = False,
        confirm: Callable[[RemoveResult], bool] | None = None,
        cancel: threading.Event | None = None,
    ) -> RemoveResult:
        """Remove images by policies, and run the garbage collector; return what is gone.

        All names of one image go together or not at all. An image that a container uses, that is pinned, or
        one of whose names contains a match of a regular expression in `keep` is never removed. `dangling`
        chooses images without a tag, `unused` all others, too. Of these, `older_than` leaves the images that
        were pulled or changed since then, `keep_last` the newest ones of each repository, so many of each,
        and `until_free` those that need not be removed, oldest first, for so many bytes to be free where
        containerd has its content: a number, a size like `20G`, or a percentage of the disk like `15%`. Each
        of these three without `dangling` means `unused`.

        `expired` removes images whose expiry is over, which containerd 2 does by itself, as it does with
        leases, and `leftovers` what interrupted pulls have left: writes without progress for an hour, and
        their leases. What nothing refers to is removed in any case. `dry_run` returns what would be gone.
        `confirm` is called with that before anything is removed; if it returns false, nothing is.

        Raises InvalidInput without any policy, Unsupported if the free space is not known.
        """
        from pyctrd.containerd.disk import disk_space
        from pyctrd.operations.prune_images import FreeSpace, PrunePolicy, prune

        if keep_last is not None:
            arguments.count("keep_last", keep_last)
        policy = PrunePolicy(
            dangling=dangling,
            unused=unused,
            older_than=arguments.duration("older_than", older_than),
            keep_last=keep_last,
            until_free=None if until_free is None else FreeSpace.parse(until_free),
            keep=arguments.patterns("keep", keep),
            expired=expired,
            leftovers=leftovers,
        )
        policy.check()
        with self._working(cancel) as (daemon, _):
            now = dt.datetime.now(dt.UTC)
            return prune(
                daemon,
                policy,
                now,
                disk=partial(disk_space, daemon),
                confirm=confirm or (lambda _planned: True),
                dry_run=dry_run,
            )
