"""The registry side of a session: options in, remotes out, which share connections and tokens."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pyctrd.errors import InvalidInput
from pyctrd.reference import Reference
from pyctrd.registry import hosts
from pyctrd.registry.auth import Authorizer
from pyctrd.registry.credentials import Credential, Keychain
from pyctrd.registry.hosts import Endpoint
from pyctrd.registry.remote import RegistryRemote
from pyctrd.registry.repository import Repository
from pyctrd.registry.transport import CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS, Transport
from pyctrd.registry.upload import UPLOAD_CHUNK_BYTES, RegistryUploader


@dataclass(frozen=True)
class RegistryOptions:
    """How registries are talked to.

    `username` and `password` are for the registry that a reference names, or for `account` (host[:port])
    alone when that is given; never for a mirror. `hosts_dir` holds `<host>/hosts.toml` or certificates.
    `docker_config` is the path of a config.json (default: $DOCKER_CONFIG/config.json, ~/.docker/config.json).
    Time-outs are in seconds.
    """

    plain_http: bool = False
    skip_verify: bool = False
    username: str = ""
    password: str = field(default="", repr=False)
    account: str = ""
    hosts_dir: Path | None = None
    docker_config: Path | None = None
    connect_timeout: float = CONNECT_TIMEOUT_SECONDS
    read_timeout: float = READ_TIMEOUT_SECONDS


class RegistryClient:
    """Makes remotes; thread safe. A context manager: leaving it closes all connections."""

    def __init__(
        self,
        options: RegistryOptions = RegistryOptions(),
        *,
        environ: Mapping[str, str] = os.environ,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        given = None
        if options.username or options.password:
            given = Credential(options.username, options.password, source="-u")
        self._options = options
        self._sleep = sleep
        self._transport = Transport(
            connect_timeout=options.connect_timeout, read_timeout=options.read_timeout, sleep=sleep
        )
        keychain = Keychain(options.docker_config, given=given, given_for=options.account, environ=environ)
        self._authorizer = Authorizer(self._transport, keychain)

    def __enter__(self) -> RegistryClient:
        """Give the client itself."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close all connections."""
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def endpoints(self, domain: str) -> tuple[Endpoint, ...]:
        """List the endpoints that would be asked for a registry, first choice first.

        Raises InvalidInput for a host configuration that cannot be used.
        """
        return hosts.endpoints(
            domain,
            plain_http=self._options.plain_http,
            skip_verify=self._options.skip_verify,
            directory=hosts.load(self._roots(), domain),
        )

    def remote(self, reference: Reference) -> RegistryRemote:
        """Give the repository of a reference; nothing is sent yet. Raises as `endpoints` does."""
        return RegistryRemote(
            reference, self.endpoints(reference.domain), self._authorizer, self._transport, sleep=self._sleep
        )

    def uploader(self, reference: Reference, *, chunk_bytes: int = UPLOAD_CHUNK_BYTES) -> RegistryUploader:
        """Give the repository of a reference to write to; larger blobs than `chunk_bytes` go up in pieces.

        0 sends every blob whole. Nothing is sent yet. Raises as `endpoints` does.
        """
        repository = Repository(
            reference, self.endpoints(reference.domain), self._authorizer, self._transport, action="push"
        )
        return RegistryUploader(repository, chunk_bytes=chunk_bytes, sleep=self._sleep)

    def _roots(self) -> tuple[Path, ...]:
        """Give the directories to search for a host's configuration: default ones would join here."""
        given = self._options.hosts_dir
        if given is None:
            return ()
        if not given.is_dir():
            raise InvalidInput(f"--hosts-dir {given} is not a directory")
        return (given,)
