"""Push into one repository: existence checks, blobs by upload or mount, manifests by digest or tag.

Everything is sent to the first host that allows push, as in containerd: an image must not be spread over
several hosts. Sources: OCI distribution-spec ("Pushing Blobs", "Pushing Manifests"); containerd
core/remotes/docker/pusher.go.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, Literal
from urllib.parse import urlencode

from pyctrd.errors import AuthenticationFailed, ContentError, InvalidReference, RegistryError
from pyctrd.oci import mediatypes, referrers
from pyctrd.oci.model import MAX_MANIFEST_BYTES, Descriptor, Digest
from pyctrd.oci.reference import Reference
from pyctrd.ports import BlobSource
from pyctrd.registry import referrers_tag
from pyctrd.registry.auth.authorizer import Authorizer
from pyctrd.registry.config.endpoints import Endpoint
from pyctrd.registry.hosts import RepositoryHosts, kind_of
from pyctrd.registry.http.request_body import BlobReader, Stream
from pyctrd.registry.http.response import Response
from pyctrd.registry.http.transport import Transport
from pyctrd.registry.resolve import ACCEPT
from pyctrd.registry.upload_session import BlobUpload, UploadSession

# Larger blobs are uploaded in chunks of this size, the most that a cut can lose; proxies may have a limit.
UPLOAD_CHUNK_BYTES: Final = 32 << 20

_STORED: Final = frozenset({200, 201, 204})
_HEAD_REFUSED: Final = frozenset({405, 501})
# The registry does not support mounts, or not from that repository, so the blob is uploaded.
_NO_MOUNT: Final = frozenset({400, 401, 403, 404, 405, 416, 501})


class RegistryUploader(RepositoryHosts):
    """The repository of one reference, to push to at the first host that allows it.

    Blobs larger than `chunk_bytes` are uploaded in chunks; 0 sends every blob whole. Implements
    ports.Uploader.
    """

    action = "push"

    def __init__(
        self,
        reference: Reference,
        endpoints: Sequence[Endpoint],
        authorizer: Authorizer,
        transport: Transport,
        *,
        chunk_bytes: int = UPLOAD_CHUNK_BYTES,
    ) -> None:
        super().__init__(reference, lambda: endpoints, authorizer, transport)
        self._chunk_bytes = chunk_bytes
        self._listing = threading.Lock()

    def has(self, descriptor: Descriptor) -> bool:
        """Ask by HEAD whether the repository has a blob or a manifest. Raises RegistryError.

        For a registry that refuses HEAD, this is False.
        """
        with self._head(kind_of(descriptor), str(descriptor.digest), descriptor) as response:
            return response.status == 200

    def tagged(self, tag: str) -> Digest | None:
        """Ask by HEAD for the digest of a tag; None if there is no such tag, or the registry does not say."""
        with self._head("manifests", tag) as response:
            text = response.header("Docker-Content-Digest").strip()
            try:
                return Digest(text) if response.status == 200 and text else None
            except InvalidReference:
                return None

    def upload(
        self,
        descriptor: Descriptor,
        source: BlobSource,
        *,
        mount_from: str = "",
        report: Callable[[int], None] = lambda _sent: None,
    ) -> Literal["uploaded", "mounted"]:
        """Upload a blob, or mount it from `mount_from`, a repository of this registry that has it.

        A blob larger than a chunk is sent in chunks, others whole. An interrupted upload is resumed at the
        offset that the registry states, or restarted; one that fails is cancelled. Raises RegistryError,
        AuthenticationFailed, RegistryContentError, and the errors of the source.
        """
        session: UploadSession | None = None
        if mount_from:
            session, mounted = self._mount(descriptor, mount_from)
            if mounted:
                return "mounted"
        with BlobReader(descriptor, source, report) as reader:
            BlobUpload(
                self, self._endpoint, reader, descriptor, chunk_bytes=self._chunk_bytes, has=self.has
            ).run(session)
        return "uploaded"

    def put(self, descriptor: Descriptor, raw: bytes, tag: str = "") -> None:
        """Store a manifest or an index under its digest, or under a tag.

        One with a `subject` is also added to the list of referrers, if the registry does not maintain that
        list itself. Raises RegistryError, RegistryContentError if the registry states another digest,
        ContentError for an invalid manifest.
        """
        keeps_lists = self._put(descriptor, raw, tag or str(descriptor.digest))
        subject = referrers.subject_of(descriptor, raw)
        if subject is not None and not keeps_lists:
            with self._listing:  # read, change, write: one at a time
                self._refer(descriptor, raw, subject)

    def _put(self, descriptor: Descriptor, raw: bytes, name: str) -> bool:
        """Send it; return whether the registry maintains lists of referrers (by the spec, `OCI-Subject`)."""
        url = self.url(self._endpoint, "manifests", name)
        headers = {"Content-Type": descriptor.media_type}
        response = self.send(self._endpoint, "PUT", url, headers, body=Stream.of(raw))
        with response:
            if response.status not in _STORED:
                raise self.with_context(
                    self.status_error(response), f"could not push manifest {descriptor.digest}"
                )
            stored = response.header("Docker-Content-Digest").strip()
            if stored.startswith(f"{descriptor.digest.algorithm}:") and stored != descriptor.digest:
                raise self.content_error(
                    response, f"{descriptor.digest} was pushed, but the registry stored {stored[:150]}"
                )
            return bool(response.header("OCI-Subject"))

    def _refer(self, descriptor: Descriptor, raw: bytes, subject: Descriptor) -> None:
        tag = referrers_tag.tag_of(subject.digest)
        url = self.url(self._endpoint, "manifests", tag)
        with self.send(self._endpoint, "GET", url, {"Accept": mediatypes.OCI_INDEX}) as response:
            if response.status not in (200, 404):
                raise self.status_error(response)
            present = response.read(MAX_MANIFEST_BYTES) if response.status == 200 else None
            try:
                changed = referrers_tag.listed(descriptor, raw, present)
            except ContentError as error:
                raise self.content_error(
                    response, f"the list of referrers of {subject.digest} (tag {tag}): {error.message}"
                ) from error
        if changed is not None:
            self._put(referrers_tag.descriptor_of(changed), changed, tag)

    @property
    def _endpoint(self) -> Endpoint:
        for endpoint in self.endpoints:
            if "push" in endpoint.capabilities:
                return endpoint
        raise RegistryError(
            f"{self.host}: no configured host allows push",
            host=self.host,
            repository=self.repository,
            hint='Add "push" to the capabilities of a host in its hosts.toml.',
        )

    def _head(self, kind: str, name: str, descriptor: Descriptor | None = None) -> Response:
        accept = f"{descriptor.media_type}, */*" if descriptor else ACCEPT
        url = self.url(self._endpoint, kind, name)
        response = self.send(self._endpoint, "HEAD", url, {"Accept": accept})
        if response.status in (200, 404) or response.status in _HEAD_REFUSED:
            return response
        raise self.status_error(response)

    def _mount(self, descriptor: Descriptor, source: str) -> tuple[UploadSession | None, bool]:
        """Request a mount; a registry that cannot mount opens an upload instead, or refuses."""
        url = self.url(self._endpoint, "blobs", "uploads/")
        query = urlencode({"mount": str(descriptor.digest), "from": source})
        url = f"{url}{'&' if '?' in url else '?'}{query}"
        try:
            response = self.send(self._endpoint, "POST", url, read_also=[source])
        except AuthenticationFailed:
            return None, False
        with response:
            if response.status == 201:
                return None, True
            if response.status == 202:
                return UploadSession.of(self, response), False
            if response.status in _NO_MOUNT:
                return None, False
            raise self.status_error(response)
