"""A repository in a registry: what a reference points at, and the bytes of a descriptor from any offset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from pyctrd.oci.model import Descriptor, Digest
from pyctrd.oci.reference import Reference
from pyctrd.registry.auth.authorizer import Authorizer
from pyctrd.registry.config.endpoints import Endpoint
from pyctrd.registry.fetch import BlobFetcher
from pyctrd.registry.http.transport import Transport
from pyctrd.registry.listing import PAGE_TAGS, Discovery, ReferrerList, TagList
from pyctrd.registry.range_control import Governor
from pyctrd.registry.repository import Repository
from pyctrd.registry.resolve import Resolver


class RegistryRemote:
    """The repository of one reference, asked at its endpoints in order. Implements ports.Remote."""

    def __init__(
        self,
        reference: Reference,
        endpoints: Sequence[Endpoint],
        authorizer: Authorizer,
        transport: Transport,
        *,
        sleep: Callable[[float], None],
        governor: Governor,
    ) -> None:
        self._repository = Repository(reference, endpoints, authorizer, transport)
        self._resolver = Resolver(self._repository)
        self._discovery = Discovery(self._repository)
        self._fetcher = BlobFetcher(self._repository, sleep=sleep, governor=governor)

    @property
    def host(self) -> str:
        """The registry's host[:port], as the reference names it."""
        return self._repository.host

    @property
    def repository(self) -> str:
        """The repository's path, e.g. `library/alpine`."""
        return self._repository.name

    def resolve(self) -> Descriptor:
        """Ask what the reference points at; raises as Resolver.resolve does."""
        return self._resolver.resolve()

    def fetch(self, descriptor: Descriptor, offset: int = 0) -> AbstractContextManager[Iterator[bytes]]:
        """Open a descriptor's content at a byte offset; raises as BlobFetcher.fetch does."""
        return self._fetcher.fetch(descriptor, offset)

    def tags(self, page_size: int = PAGE_TAGS) -> TagList:
        """List the tags of the repository, `page_size` for each request; raises as Discovery.tags does."""
        return self._discovery.tags(page_size)

    def referrers(self, digest: Digest, artifact_type: str = "") -> ReferrerList:
        """List what refers to a digest, of one artifact type or ("") all; raises as Discovery.referrers."""
        return self._discovery.referrers(digest, artifact_type)
