"""The repository that a reference names, to read from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from pyctrd.oci.model import Descriptor, Digest
from pyctrd.oci.reference import Reference
from pyctrd.registry import resolve
from pyctrd.registry.auth.authorizer import Authorizer
from pyctrd.registry.config.endpoints import Endpoint
from pyctrd.registry.fetch import BlobRequests
from pyctrd.registry.hosts import RepositoryHosts
from pyctrd.registry.http.transport import Transport
from pyctrd.registry.range_control import RangeControl
from pyctrd.registry.ranges import RangedDownload, Segments


class Repository(RepositoryHosts):
    """The repository of one reference, whose hosts are used in order.

    Implements ports.Remote and ports.ReferrerSource.
    """

    def __init__(
        self,
        reference: Reference,
        find_endpoints: Callable[[], Sequence[Endpoint]],
        authorizer: Authorizer,
        transport: Transport,
        *,
        range_control: RangeControl,
    ) -> None:
        super().__init__(reference, find_endpoints, authorizer, transport)
        self._segments = Segments(self)
        self._range_control = range_control

    def resolve(self) -> Descriptor:
        """Request the descriptor of the reference. Raises NotFound and RegistryError."""
        return resolve.resolve(self)

    def referrers(self, subject: Digest) -> Sequence[Descriptor]:
        """List the manifests that refer to a digest. Raises RegistryError; see listing.referrers."""
        from pyctrd.registry import listing

        return listing.referrers(self, subject).referrers

    @contextlib.contextmanager
    def fetch(self, descriptor: Descriptor, offset: int = 0) -> Iterator[Iterator[bytes]]:
        """Open a descriptor's content at a byte offset; the iterator's chunks have at most 1 MiB.

        After a cut the download is resumed at the byte reached, after several cuts at another host. Raises
        RegistryError with status 404 if no host has the content, RegistryContentError if it is shorter or
        longer than the descriptor says, and other RegistryErrors. The digest is not verified here, but by the
        code that stores the bytes. Source: containerd core/remotes/docker/fetcher.go.
        """
        download = RangedDownload(BlobRequests(self, descriptor), offset, self._segments, self._range_control)
        with contextlib.closing(download):
            yield download.chunks()
