"""The registry clients that Client and RegistryCopier share, and RegistryCopier itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pyctrd.errors import Cancelled, ClientClosed, PyctrdError
from pyctrd.oci import platforms as _platforms
from pyctrd.oci import reference
from pyctrd.oci.model import Descriptor
from pyctrd.oci.reference import Reference
from pyctrd.ports import Remote, Uploader
from pyctrd.progress import ProgressSink, no_progress

if TYPE_CHECKING:
    from pyctrd.registry import RegistryClient, RegistryOptions
    from pyctrd.steps.upload import SendPlan, SendResult
    from pyctrd.steps.upload_plan import PushIndex


class Registries:
    """Gives repositories to read from and to write to; thread safe. Nothing is sent yet.

    An explicit user name and password go to the host `account` alone: labels in the store may name further
    registries, and those must not see them.
    """

    def __init__(self, options: RegistryOptions | None, environ: Mapping[str, str]) -> None:
        self._options = options
        self._environ = environ
        self._clients: dict[str, RegistryClient] = {}
        self._ended: Callable[[], PyctrdError] | None = None
        self._lock = threading.Lock()
        self._open = ExitStack()

    def close(self) -> None:
        """Close all connections, also those in use: that ends by ClientClosed. A second time does nothing."""
        self._refuse(lambda: ClientClosed("the client is closed"))
        self._open.close()

    def cancel(self) -> None:
        """End all requests that are under way, by Cancelled, and refuse new ones."""
        for client in self._refuse(lambda: Cancelled("the work was cancelled")):
            client.cancel()

    def _refuse(self, why: Callable[[], PyctrdError]) -> list[RegistryClient]:
        """Make no client from now on; gives those that there are."""
        with self._lock:
            self._ended = why
            return list(self._clients.values())

    def remote(self, wanted: Reference, account: str) -> Remote:
        """Give a repository to read from; raises InvalidInput for a host configuration of no use."""
        return self._client(account).remote(wanted)

    def uploader(self, wanted: Reference, account: str, chunk_bytes: int | None = None) -> Uploader:
        """Give a repository to write to; blobs above `chunk_bytes` go up in pieces (None: the default)."""
        more = {} if chunk_bytes is None else {"chunk_bytes": chunk_bytes}
        return self._client(account).uploader(wanted, **more)

    def _client(self, account: str) -> RegistryClient:
        options = self._options
        key = account if options and options.username else ""
        with self._lock:
            if self._ended is not None:
                raise self._ended()
            if key not in self._clients:
                from pyctrd.registry import RegistryClient, RegistryOptions

                chosen = replace(options or RegistryOptions(), account=key)
                client = RegistryClient(chosen, environ=self._environ)
                self._clients[key] = self._open.enter_context(client)
            return self._clients[key]


class LazyRepository:
    """A repository that is contacted, and its registry configured, only when something is fetched from it.

    A broken registry configuration must not matter to an image that is complete. Implements ports.Fetcher.
    """

    def __init__(self, connect: Callable[[], Remote], source: Reference) -> None:
        self._connect = connect
        self._source = source

    @property
    def host(self) -> str:
        """The registry's host[:port]."""
        return self._source.domain

    @property
    def repository(self) -> str:
        """The repository's path."""
        return self._source.repository

    def fetch(self, descriptor: Descriptor, offset: int = 0) -> AbstractContextManager[Iterator[bytes]]:
        """Open the content of a descriptor at a byte offset."""
        return self._connect().fetch(descriptor, offset)


class RegistryCopier:
    """Copies images from one registry to another, or within one. A context manager; thread safe.

    `registry` says how the target's registry is talked to, and, where `source` is None, the other one, too.
    A user name and password are sent to the registry that they are given for alone: those of `registry` to
    the target's, those of `source` to the source's.
    """

    def __init__(
        self, registry: RegistryOptions | None = None, *, source: RegistryOptions | None = None
    ) -> None:
        environ = dict(os.environ)
        self._open = ExitStack()
        self._targets = Registries(registry, environ)
        self._open.callback(self._targets.close)
        self._sources = self._targets
        if source is not None:
            self._sources = Registries(source, environ)
            self._open.callback(self._sources.close)

    def __enter__(self) -> Self:
        """Give the copier itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        self.close()

    def close(self) -> None:
        """Close all connections, also those in use: that ends by ClientClosed. A second time does nothing."""
        self._open.close()

    def cancel(self) -> None:
        """End what is under way in all threads, by Cancelled: from here on only `close` is of use."""
        self._sources.cancel()
        self._targets.cancel()

    def copy(
        self,
        source: str,
        target: str,
        *,
        platforms: Sequence[str] = (),
        all_platforms: bool = False,
        index: PushIndex = "prune",
        nondistributable: bool = False,
        max_concurrent_uploads: int = 3,
        chunk_bytes: int | None = None,
        progress: ProgressSink = no_progress,
    ) -> SendResult:
        """Copy an image, all of it unless platforms are chosen; see Client.push for what those do.

        Without a choice every byte and digest stays. Raises NotFound, NoMatchingPlatform, RegistryError,
        RegistryContentError, InvalidInput, InvalidReference, InvalidPlatform.
        """
        from pyctrd.operations import copy as _copy
        from pyctrd.steps.upload import send_options

        options = send_options(platforms, all_platforms, index, nondistributable, max_concurrent_uploads)
        origin, name = reference.parse(source), reference.parse(target)
        return _copy.copy(
            self._sources.remote(origin, self._account(origin, name)),
            str(origin),
            self._targets.uploader(name, name.domain, chunk_bytes),
            name,
            options,
            host=_platforms.host(),
            progress=progress,
        )

    def plan(
        self,
        source: str,
        target: str,
        *,
        platforms: Sequence[str] = (),
        all_platforms: bool = False,
        index: PushIndex = "prune",
        nondistributable: bool = False,
    ) -> SendPlan:
        """Tell what `copy` would send: manifests are read, and the target is asked what it has."""
        from pyctrd.operations import copy as _copy
        from pyctrd.steps.upload import send_options

        options = send_options(platforms, all_platforms, index, nondistributable)
        origin, name = reference.parse(source), reference.parse(target)
        return _copy.plan(
            self._sources.remote(origin, self._account(origin, name)),
            str(origin),
            self._targets.uploader(name, name.domain),
            name,
            options,
            host=_platforms.host(),
        )

    def _account(self, source: reference.Reference, target: reference.Reference) -> str:
        """Say to which registry the credentials of the source's options belong."""
        return target.domain if self._sources is self._targets else source.domain
