"""The registry side of a session: options in, remotes out, which share connections and tokens."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pyctrd import redact
from pyctrd.errors import InvalidInput, RegistryError, require_utf8
from pyctrd.oci.reference import Reference
from pyctrd.registry import listing
from pyctrd.registry.auth.authorizer import Authorizer
from pyctrd.registry.auth.keychain import Ask, Credential, Keychain
from pyctrd.registry.config import certs_d, endpoints, explain
from pyctrd.registry.config.certs_d import Search
from pyctrd.registry.config.endpoints import Endpoint, Plan
from pyctrd.registry.config.explain import Explanation
from pyctrd.registry.http import tls
from pyctrd.registry.http.retry import (
    BUDGET_SECONDS,
    CONNECT_TIMEOUT_SECONDS,
    STALL_TIMEOUT_SECONDS,
    Budget,
)
from pyctrd.registry.http.transport import Transport
from pyctrd.registry.listing import ReferrerList, TagList
from pyctrd.registry.range_control import Governor, ParallelRanges
from pyctrd.registry.repository import Repository
from pyctrd.registry.upload import UPLOAD_CHUNK_BYTES, RegistryUploader

_log = redact.logger(__name__)


@dataclass(frozen=True)
class RegistryOptions:
    """How registries are talked to.

    `username` and `password` are for the registry that a reference names, or for `account` (host[:port])
    alone when that is given; never for a mirror. `hosts_dir` holds `<host>/hosts.toml` or certificates
    (default: /etc/containerd/certs.d, then /etc/docker/certs.d, before them the user's own; see
    docs/registries.md). `docker_config` is the path of a config.json (default: $DOCKER_CONFIG/config.json,
    ~/.docker/config.json). Under sudo `sudo_user_config` True also uses the logins of the user who called it,
    False does not; None puts the question to `ask`, if there is one, once and only when a registry refuses
    what we have. Time-outs are in seconds: `connect_timeout` for a connection, `stall_timeout` without a
    byte; `retry_budget` is what may be spent on waiting between tries, in all.
    `parallel_ranges` is how many connections a large blob may have, `auto` (those that help) or `off`.
    """

    plain_http: bool = False
    skip_verify: bool = False
    username: str = ""
    password: str = field(default="", repr=False)
    account: str = ""
    hosts_dir: Path | None = None
    docker_config: Path | None = None
    sudo_user_config: bool | None = None
    ask: Ask | None = field(default=None, repr=False, compare=False)
    connect_timeout: float = CONNECT_TIMEOUT_SECONDS
    stall_timeout: float = STALL_TIMEOUT_SECONDS
    retry_budget: float = BUDGET_SECONDS
    parallel_ranges: ParallelRanges = "auto"

    def __post_init__(self) -> None:
        """Raise InvalidInput for what no clock can count."""
        for name in ("connect_timeout", "stall_timeout", "retry_budget"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise InvalidInput(f"{name}={value} is not a number of seconds")


class RegistryClient:
    """Makes remotes; thread safe. A context manager: leaving it closes all connections.

    `roots` replaces the default directories of host configuration, `environ` the environment.
    """

    def __init__(
        self,
        options: RegistryOptions = RegistryOptions(),
        *,
        environ: Mapping[str, str] = os.environ,
        sleep: Callable[[float], None] | None = None,
        roots: Sequence[Path] | None = None,
    ) -> None:
        given = None
        if options.username or options.password:
            given = Credential(options.username, options.password, source="-u")
        self._options = options
        self._environ = environ
        self._roots = certs_d.default_roots(environ, user=os.geteuid()) if roots is None else tuple(roots)
        self._noticed: set[str] = set()
        self._transport = Transport(
            connect_timeout=options.connect_timeout,
            stall_timeout=options.stall_timeout,
            budget=Budget(options.retry_budget),
            sleep=sleep,
        )
        keychain = Keychain(
            options.docker_config,
            given=given,
            given_for=options.account,
            environ=environ,
            sudo_user_config=options.sudo_user_config,
            ask=options.ask,
        )
        self._keychain = keychain
        self._authorizer = Authorizer(self._transport, keychain)
        self._governor = Governor(options.parallel_ranges)

    def __enter__(self) -> RegistryClient:
        """Give the client itself."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close all connections."""
        self.close()

    def close(self) -> None:
        """Close all connections, also those in use: that ends by ClientClosed, as do later requests."""
        self._transport.close()

    def cancel(self) -> None:
        """End all requests that are under way in other threads, by Cancelled, and refuse new ones."""
        self._transport.cancel()

    def endpoints(self, domain: str) -> tuple[Endpoint, ...]:
        """List the endpoints that would be asked for a registry, first choice first.

        Raises InvalidInput for a host configuration that cannot be used.
        """
        search, plan = self._configured(domain)
        for notice in (*search.notices, *plan.notices):
            if notice not in self._noticed:
                self._noticed.add(notice)
                _log.warning("%s", notice)
        for item in plan.endpoints:
            _check_files(item)
        return plan.endpoints

    def explain(self, reference: Reference) -> Explanation:
        """Tell which hosts would be asked for a reference, in order, and why; nothing is sent to any.

        Raises InvalidInput for a host configuration that cannot be used.
        """
        search, plan = self._configured(reference.domain)
        found = explain.explain(
            reference,
            plan.endpoints,
            search.looks,
            str(search.directory.path) if search.directory else "",
            credential_source=lambda endpoint: self._credential_source(endpoint, reference),
            environ=self._environ,
            connect_timeout=self._options.connect_timeout,
            notices=(*search.notices, *plan.notices, *map(_file_problem, plan.endpoints)),
        )
        problems = (*found.notices, *self._keychain.problems)
        if (
            self._options.username
            and not self._options.account
            and not any(item.is_own for item in plan.endpoints)
        ):
            problems += (f"-u is for {reference.domain}, which is not asked: it is sent to nobody",)
        return replace(found, notices=tuple(dict.fromkeys(filter(None, problems))))

    def tags(self, reference: Reference) -> TagList:
        """List the tags of a reference's repository; raises as `endpoints` and `listing.tags` do."""
        return listing.tags(self.remote(reference))

    def referrers(self, reference: Reference, artifact_type: str = "") -> ReferrerList:
        """List what refers to the manifest that a reference points at, of one artifact type or ("") of all.

        Raises NotFound when there is no such manifest, InvalidInput for a type that is no UTF-8, else as
        `endpoints` and `listing.referrers` do.
        """
        require_utf8(artifact_type, "artifact type")
        remote = self.remote(reference)
        return listing.referrers(remote, remote.resolve().digest, artifact_type)

    def remote(self, reference: Reference) -> Repository:
        """Give the repository of a reference; nothing is sent yet. Raises as `endpoints` does."""
        return Repository(
            reference,
            self.endpoints(reference.domain),
            self._authorizer,
            self._transport,
            governor=self._governor,
        )

    def uploader(self, reference: Reference, *, chunk_bytes: int = UPLOAD_CHUNK_BYTES) -> RegistryUploader:
        """Give the repository of a reference to write to; larger blobs than `chunk_bytes` go up in pieces.

        0 sends every blob whole. Nothing is sent yet. Raises as `endpoints` does.
        """
        return RegistryUploader(
            reference,
            self.endpoints(reference.domain),
            self._authorizer,
            self._transport,
            chunk_bytes=chunk_bytes,
        )

    def _configured(self, domain: str) -> tuple[Search, Plan]:
        """Read the configuration of a registry."""
        given = self._options.hosts_dir
        if given is not None and not os.path.isdir(given):  # noqa: PTH112 - Path.is_dir may raise
            raise InvalidInput(f"--hosts-dir {given} is not a directory")
        roots = (given,) if given is not None else self._roots
        search = certs_d.search(roots, domain, forgiving=given is None)
        plan = endpoints.plan(
            domain,
            plain_http=self._options.plain_http,
            skip_verify=self._options.skip_verify,
            directory=search.directory,
        )
        return search, plan

    def _credential_source(self, endpoint: Endpoint, reference: Reference) -> str:
        """Name where the credential for an endpoint comes from, "" for none."""
        found = self._keychain.find(endpoint.account, own=endpoint.is_own, repository=reference.repository)
        return found.source if found else ""


def _file_problem(endpoint: Endpoint) -> str:
    """Say what is wrong with the TLS files of an endpoint, "" for nothing."""
    try:
        tls.check(endpoint.tls)
    except RegistryError as error:
        return f"{endpoint.origin}: {error.message}"
    return ""


def _check_files(endpoint: Endpoint) -> None:
    """Refuse TLS files that cannot be used: falling over to the next host would hide it."""
    if problem := _file_problem(endpoint):
        raise InvalidInput(problem)
