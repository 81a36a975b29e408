"""From registry to registry, without a containerd: the library's door to pyctrd.copy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pyctrd import copy as _copy
from pyctrd.oci import platforms as _platforms
from pyctrd.oci import reference
from pyctrd.ports import ProgressSink, no_progress
from pyctrd.sending import SendPlan, SendResult, send_options
from pyctrd.shipment import PushIndex
from pyctrd.wiring import Registries

if TYPE_CHECKING:
    from pyctrd.registry import RegistryOptions


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
