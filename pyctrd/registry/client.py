"""A client for registries: creates repositories that share connections, tokens and a retry budget."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pyctrd import redact
from pyctrd.errors import InvalidInput, RegistryError, require_utf8
from pyctrd.oci.reference import Reference
from pyctrd.registry.auth.authorizer import Authorizer
from pyctrd.registry.auth.keychain import Ask, Credential, Keychain
from pyctrd.registry.config import certs_d, endpoints
from pyctrd.registry.config.certs_d import Search
from pyctrd.registry.config.endpoints import Endpoint, Plan
from pyctrd.registry.http import tls
from pyctrd.registry.http.retry import (
    BUDGET_SECONDS,
    CONNECT_TIMEOUT_SECONDS,
    STALL_TIMEOUT_SECONDS,
    Budget,
)
from pyctrd.registry.http.transport import Transport
from pyctrd.registry.range_control import ParallelRanges, RangeControl
from pyctrd.registry.repository import Repository

if TYPE_CHECKING:
    from pyctrd.registry.config.explain import Explanation
    from pyctrd.registry.listing import ReferrerList, TagList
    from pyctrd.registry.upload import RegistryUploader
    from pyctrd.tracing import Tracing

_log = redact.logger("pyctrd.registry")


@dataclass(frozen=True)
class RegistryOptions:
    """How to connect to registries, and who the user is there.

    `username` and `password` are for the registry that a reference names, or, if it is given, for `account`
    (host[:port]) only; never for a mirror. `hosts_dir` contains `<host>/hosts.toml` or certificates (default:
    the user's own directories, /etc/containerd/certs.d, then /etc/docker/certs.d; see docs/registries.md).
    `docker_config` is the path of a config.json (default: $DOCKER_CONFIG/config.json,
    ~/.docker/config.json). Under sudo, `sudo_user_config` True also uses the logins of the user who called
    it, False does not; None asks by `ask`, if it is given, once and only when a registry denies access.

    `connect_timeout` (seconds) is the time limit for connecting, `stall_timeout` aborts a connection that
    stalls for this long, `retry_budget` is how long to wait for registries, in all. `parallel_ranges` is the
    number of connections for a large blob, `auto` (as many as help) or `off`.
    """

    plain_http: bool = False
    skip_verify: bool = False
    username: str = ""
    password: str = field(default="", repr=False)
    account: str = ""
    hosts_dir: str | os.PathLike[str] | None = None
    docker_config: str | os.PathLike[str] | None = None
    sudo_user_config: bool | None = None
    ask: Ask | None = field(default=None, repr=False, compare=False)
    connect_timeout: float = CONNECT_TIMEOUT_SECONDS
    stall_timeout: float = STALL_TIMEOUT_SECONDS
    retry_budget: float = BUDGET_SECONDS
    parallel_ranges: ParallelRanges = "auto"

    def __post_init__(self) -> None:
        """Raise InvalidInput for values that are not paths, and for invalid numbers of seconds."""
        for name in ("hosts_dir", "docker_config"):
            value = getattr(self, name)
            if not isinstance(value, str | os.PathLike | None):
                raise InvalidInput(f"{name}={value!r}: must be a path")
        for name in ("connect_timeout", "stall_timeout", "retry_budget"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise InvalidInput(f"{name}={value} is not a number of seconds")


class RegistryClient:
    """Creates repositories to read from and to write to. Thread safe; a context manager.

    `roots` replaces the default directories of host configuration, `environ` the environment.
    """

    def __init__(
        self,
        options: RegistryOptions = RegistryOptions(),
        *,
        environ: Mapping[str, str] = os.environ,
        sleep: Callable[[float], None] | None = None,
        roots: Sequence[Path] | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        given = None
        if options.username or options.password:
            given = Credential(options.username, options.password, source="-u")
        self._options = options
        self._environ = environ
        self._roots = certs_d.default_roots(environ, user=os.geteuid()) if roots is None else tuple(roots)
        self._warned: set[str] = set()
        self._transport = Transport(
            connect_timeout=options.connect_timeout,
            stall_timeout=options.stall_timeout,
            budget=Budget(options.retry_budget),
            sleep=sleep,
            tracing=tracing,
        )
        keychain = Keychain(
            Path(options.docker_config) if options.docker_config else None,
            given=given,
            given_for=options.account,
            environ=environ,
            sudo_user_config=options.sudo_user_config,
            ask=options.ask,
        )
        self._keychain = keychain
        self._authorizer = Authorizer(self._transport, keychain)
        self._range_control = RangeControl(options.parallel_ranges)

    def __enter__(self) -> RegistryClient:
        """Return the client itself."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close all connections."""
        self.close()

    def close(self) -> None:
        """Close all connections; requests in progress and later ones raise ClientClosed."""
        self._transport.close()

    def cancel(self) -> None:
        """End all requests: those in progress in other threads and later ones raise Cancelled."""
        self._transport.cancel()

    def endpoints(self, domain: str) -> tuple[Endpoint, ...]:
        """List the endpoints that would be used for a registry, in order.

        Raises InvalidInput for a host configuration that cannot be used.
        """
        search, plan = self._configured(domain)
        for warning in (*search.warnings, *plan.warnings):
            if warning not in self._warned:
                self._warned.add(warning)
                _log.warning("%s", warning)
        for item in plan.endpoints:
            _check_files(item)
        return plan.endpoints

    def explain(self, reference: Reference) -> Explanation:
        """Explain which hosts would be used for a reference, in order, and why. Sends nothing.

        Raises InvalidInput for a host configuration that cannot be used.
        """
        from pyctrd.registry.config.explain import explain

        search, plan = self._configured(reference.domain)
        found = explain(
            reference,
            plan.endpoints,
            search.searched,
            str(search.directory.path) if search.directory else "",
            credential_source=lambda endpoint: self._credential_source(endpoint, reference),
            environ=self._environ,
            connect_timeout=self._options.connect_timeout,
            notices=(*search.warnings, *plan.warnings, *map(_file_problem, plan.endpoints)),
        )
        problems = (*found.notices, *self._keychain.problems)
        if (
            self._options.username
            and self._options.account in ("", reference.domain)
            and not any(item.is_own for item in plan.endpoints)
        ):
            problems += (
                f"`username` is for {reference.domain}, which is not asked: it is not sent to any host",
            )
        return replace(found, notices=tuple(dict.fromkeys(filter(None, problems))))

    def tags(self, reference: Reference) -> TagList:
        """List the tags of a reference's repository. Raises the errors of `endpoints` and `listing.tags`."""
        from pyctrd.registry.listing import tags

        return tags(self.remote(reference))

    def referrers(self, reference: Reference, artifact_type: str = "") -> ReferrerList:
        """List the artifacts that refer to a reference's manifest, of one artifact type or (with "") of all.

        Raises NotFound if there is no such manifest, InvalidInput for a type that is not UTF-8, and the
        errors of `endpoints` and `listing.referrers`.
        """
        from pyctrd.registry.listing import referrers

        require_utf8(artifact_type, "artifact type")
        remote = self.remote(reference)
        return referrers(remote, remote.resolve().digest, artifact_type)

    def remote(self, reference: Reference) -> Repository:
        """Return the repository of a reference, to read from; sends nothing.

        The host configuration is read by the first request, which raises as `endpoints` does: that of a
        registry that is not asked does not matter.
        """
        return Repository(
            reference,
            partial(self.endpoints, reference.domain),
            self._authorizer,
            self._transport,
            range_control=self._range_control,
        )

    def uploader(self, reference: Reference, *, chunk_bytes: int | None = None) -> RegistryUploader:
        """Return the repository of a reference, to write to; sends nothing. Raises as `endpoints` does.

        Blobs larger than `chunk_bytes` are uploaded in chunks (None: 32 MiB); 0 sends every blob whole.
        """
        from pyctrd.registry.upload import UPLOAD_CHUNK_BYTES, RegistryUploader

        return RegistryUploader(
            reference,
            self.endpoints(reference.domain),
            self._authorizer,
            self._transport,
            chunk_bytes=UPLOAD_CHUNK_BYTES if chunk_bytes is None else chunk_bytes,
        )

    def _configured(self, domain: str) -> tuple[Search, Plan]:
        """Find the host configuration of a registry, and its endpoints."""
        given = Path(self._options.hosts_dir) if self._options.hosts_dir else None
        if given is not None and not os.path.isdir(given):  # noqa: PTH112 - Path.is_dir may raise
            raise InvalidInput(f"`hosts_dir` {given} is not a directory")
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
        """Return where the credential for an endpoint comes from; "" for none."""
        found = self._keychain.find(endpoint.account, own=endpoint.is_own, repository=reference.repository)
        return found.source if found else ""


def _file_problem(endpoint: Endpoint) -> str:
    """Return what is wrong with the TLS files of an endpoint; "" if nothing is."""
    try:
        tls.check(endpoint.tls)
    except RegistryError as error:
        return f"{endpoint.origin}: {error.message}"
    return ""


def _check_files(endpoint: Endpoint) -> None:
    """Raise InvalidInput for TLS files that cannot be used: trying the next host would hide the error."""
    if problem := _file_problem(endpoint):
        raise InvalidInput(problem)
