"""Registry: list and copy images in registries; and the registry clients that a Client shares."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from pyctrd import arguments
from pyctrd.errors import Cancelled, ClientClosed, PyctrdError
from pyctrd.oci import reference
from pyctrd.oci.model import Descriptor
from pyctrd.oci.platforms import Platforms
from pyctrd.oci.reference import Reference
from pyctrd.ports import ReferrerSource, Remote, Uploader
from pyctrd.progress import ProgressSink, no_progress, one_at_a_time
from pyctrd.waiting import on_cancel

if TYPE_CHECKING:
    from pyctrd.registry import Explanation, ReferrerList, RegistryClient, RegistryOptions, TagList
    from pyctrd.steps.upload import SendResult
    from pyctrd.steps.upload_plan import PushIndex
    from pyctrd.tracing import TracerProvider, Tracing


class Registries:
    """Creates registry clients and repositories, without using the network. Thread safe.

    An explicit user name and password are sent only to the host `account`: labels in the store may name
    other registries, which must not see them.
    """

    def __init__(
        self,
        options: RegistryOptions | None,
        environ: Mapping[str, str],
        tracing: Tracing | None = None,
    ) -> None:
        self._options = options
        self._tracing = tracing
        self._environ = environ
        self._clients: dict[str, RegistryClient] = {}
        self._scopes: weakref.WeakSet[Registries] = weakref.WeakSet()
        self._ended: Callable[[], PyctrdError] | None = None
        self._lock = threading.Lock()
        self._process = os.getpid()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def is_forked(self) -> bool:
        """Whether this is a child process: the connections are the parent's, so they are left alone."""
        return os.getpid() != self._process

    def check_process(self) -> None:
        """Raise ClientClosed in a forked child: the threads that serve connections do not survive a fork."""
        if self.is_forked:
            raise ClientClosed(
                "this client was opened by the parent process and does not work after a fork",
                hint="create a new one in the child process",
            )

    def scope(self) -> Registries:
        """Return a copy that can be cancelled and closed separately; closing this closes the copy, too."""
        self.check_process()
        scope = Registries(self._options, self._environ, self._tracing)
        with self._lock:
            if self._ended is not None:
                raise self._ended()
            self._scopes.add(scope)
        return scope

    def close(self) -> None:
        """Close all connections. Requests in progress raise ClientClosed."""
        for item in self._end(lambda: ClientClosed("the client is closed")):
            item.close()

    def cancel(self) -> None:
        """Make requests in progress raise Cancelled, and refuse new ones."""
        for item in self._end(lambda: Cancelled("the operation was cancelled")):
            item.cancel()

    def _end(self, why: Callable[[], PyctrdError]) -> list[RegistryClient | Registries]:
        """Refuse to create clients from now on; return the existing ones."""
        if self.is_forked:
            return []
        with self._lock:
            self._ended = why
            return [*self._clients.values(), *self._scopes]

    def remote(self, wanted: Reference, account: str = "") -> Remote:
        """Return a repository to read from; `account` is the registry's host unless it is given."""
        return self.client(account or wanted.domain).remote(wanted)

    def referrer_source(self, wanted: Reference, account: str = "") -> ReferrerSource:
        """Return a repository to list referrers of; `account` as in `remote`."""
        return self.client(account or wanted.domain).remote(wanted)

    def uploader(self, wanted: Reference, chunk_bytes: int | None = None) -> Uploader:
        """Return a repository to write to; it uploads larger blobs in chunks of `chunk_bytes`.

        Raises InvalidInput for an unusable host configuration.
        """
        return self.client(wanted.domain).uploader(wanted, chunk_bytes=chunk_bytes)

    def client(self, account: str) -> RegistryClient:
        """Return the client that sends an explicit user name and password to the host `account` only."""
        self.check_process()
        options = self._options
        key = account if options and options.username else ""
        with self._lock:
            if self._ended is not None:
                raise self._ended()
            if key not in self._clients:
                from pyctrd.registry import RegistryClient, RegistryOptions

                chosen = replace(options or RegistryOptions(), account=key)
                self._clients[key] = RegistryClient(chosen, environ=self._environ, tracing=self._tracing)
            return self._clients[key]


class Registry:
    """A client for registries that needs no containerd. A context manager; thread safe.

    `options` configures access to registries. `source` configures access to the registry that `copy` reads
    from, if it differs; then the user name and password of `options` are only sent to the target's registry.
    Connects on the first call. `tracer_provider` gets OpenTelemetry spans, as in Client. Every method raises
    ClientClosed after `close` and in a forked child.
    """

    def __init__(
        self,
        options: RegistryOptions | None = None,
        *,
        source: RegistryOptions | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        environ = dict(os.environ)
        tracing: Tracing | None = None
        if tracer_provider is not None:
            from pyctrd.tracing import Tracing

            tracing = Tracing(tracer_provider)
        self._registries = Registries(options, environ, tracing)
        self._sources = Registries(source, environ, tracing) if source is not None else self._registries
        if tracing is not None:
            tracing.traced(self, "registry", {})

    def __enter__(self) -> Self:
        """Return the object."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close all connections."""
        self.close()

    def close(self) -> None:
        """Close all connections. Calls in progress raise ClientClosed."""
        self._sources.close()
        self._registries.close()

    def cancel(self) -> None:
        """Make the calls in progress in all threads raise Cancelled; afterwards it can only be closed."""
        self._sources.cancel()
        self._registries.cancel()

    def resolve(self, ref: str) -> Descriptor:
        """Return the descriptor that a reference points at: media type, digest and size.

        Raises RegistryNotFound, RegistryError, InvalidReference.
        """
        parsed = reference.parse(arguments.text("ref", ref))
        return self._registries.remote(parsed).resolve()

    def tags(self, repository: str) -> TagList:
        """Return the tags of a repository, in the registry's order.

        Raises RegistryNotFound, RegistryError, InvalidReference.
        """
        parsed = reference.parse_repository(arguments.text("repository", repository))
        return self._registries.client(parsed.domain).tags(parsed)

    def referrers(self, ref: str, artifact_type: str = "") -> ReferrerList:
        """Return the manifests that refer to a manifest (signatures, SBOMs), of one artifact type or all.

        Raises RegistryNotFound if the manifest does not exist, RegistryError, InvalidReference.
        """
        parsed = reference.parse(arguments.text("ref", ref))
        kind = arguments.text("artifact_type", artifact_type)
        return self._registries.client(parsed.domain).referrers(parsed, kind)

    def explain(self, ref: str) -> Explanation:
        """Return the hosts that would be asked for an image, in order, and why. Does not use the network.

        Raises InvalidReference, and InvalidInput for an unusable host configuration.
        """
        parsed = reference.parse(arguments.text("ref", ref))
        return self._registries.client(parsed.domain).explain(parsed)

    def copy(
        self,
        source: str,
        target: str,
        *,
        platforms: Platforms | None = None,
        index: PushIndex = "prune",
        nondistributable: bool = False,
        chunk_bytes: int | None = None,
        dry_run: bool = False,
        concurrency: int = 3,
        progress: ProgressSink = no_progress,
        cancel: threading.Event | None = None,
    ) -> SendResult:
        """Copy an image from one registry to another, or within one. See Images.push for the arguments.

        Without `platforms`, the copy is identical. `dry_run` reads the manifests, asks the target's registry
        what it has, and uploads nothing. Raises RegistryNotFound, NoMatchingPlatform, RegistryError,
        RegistryContentError, InvalidInput.
        """
        from pyctrd.operations.copy import copy
        from pyctrd.steps.upload import send_options

        options = send_options(platforms, index, nondistributable, chunk_bytes, concurrency)
        origin = reference.parse(arguments.text("source", source))
        name = reference.parse(arguments.text("target", target))
        account = name.domain if self._sources is self._registries else origin.domain
        with self._working(cancel) as (sources, targets):
            return copy(
                sources.remote(origin, account),
                str(origin),
                targets.uploader(name, options.chunk_bytes),
                name,
                options,
                dry_run=dry_run,
                progress=one_at_a_time(progress),
            )

    @contextmanager
    def _working(self, cancel: threading.Event | None) -> Iterator[tuple[Registries, Registries]]:
        """Provide the registries to read from and to write to; setting `cancel` stops both."""
        if cancel is None:
            yield self._sources, self._registries
            return
        arguments.event("cancel", cancel)
        with (
            self._sources.scope() as sources,
            self._registries.scope() as targets,
            on_cancel(cancel, sources.cancel),
            on_cancel(cancel, targets.cancel),
        ):
            yield sources, targets
