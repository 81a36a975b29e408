"""Registries for whoever needs them: made on first use, one client for each account, closed together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from pyctrd.errors import Cancelled, ClientClosed, PyctrdError
from pyctrd.oci.model import Descriptor
from pyctrd.oci.reference import Reference
from pyctrd.ports import Remote, Uploader

if TYPE_CHECKING:
    from pyctrd.registry import RegistryClient, RegistryOptions


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
