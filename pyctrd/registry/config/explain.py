"""Explain which hosts would be used for a reference, and why. Sends nothing, and shows no secrets.

Credential helpers are run, since only they know whether they have a credential.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pyctrd.oci.reference import Reference
from pyctrd.registry.config import proxy
from pyctrd.registry.config.certs_d import SearchedDirectory
from pyctrd.registry.config.endpoints import Endpoint

# In the order in which a client uses them.
_ACTIONS: Final = ("resolve", "pull", "push", "referrers")

CredentialSource = Callable[[Endpoint], str]
"""Returns where the credential for an endpoint comes from, "" when there is none."""


@dataclass(frozen=True)
class ProxyUse:
    """How a host is reached: `url` of a proxy without user and password, or "" for a direct connection.

    `source` is the variable or the file:line that names the proxy, "" when none is named; `excluded_by` is
    why it is not used: `loopback`, or the variable and its entry that matches.
    """

    url: str = ""
    source: str = ""
    excluded_by: str = ""


@dataclass(frozen=True)
class ExplainedHost:
    """A host that would be asked, and how.

    `url` is the base of the API, `plain_fallback` whether plain HTTP is used if it has no TLS, `namespace`
    what is sent as `?ns=` (to a mirror) or "". `asked_for` is a subset of resolve, pull, push and referrers.
    `origin` is the file:line, directory or flag that configures the host, or `default`. `credentials` is
    where they come from, "" for none. `headers` are names only; `dial_timeout` is in seconds.
    """

    url: str
    plain_fallback: bool
    namespace: str
    asked_for: tuple[str, ...]
    origin: str
    credentials: str
    proxy: ProxyUse
    ca_files: tuple[str, ...]
    client_certificates: tuple[tuple[str, str], ...]
    skip_verify: bool
    headers: tuple[str, ...]
    dial_timeout: float


@dataclass(frozen=True)
class Explanation:
    """Everything that decides which hosts are asked for a reference, first choice first.

    `configuration` is the directory that configures the registry, "" for none. `notices` list settings
    without effect, and what prevents credentials from being found.
    """

    reference: str
    registry: str
    repository: str
    configuration: str
    directories: tuple[SearchedDirectory, ...]
    hosts: tuple[ExplainedHost, ...]
    notices: tuple[str, ...]


def explain(
    reference: Reference,
    endpoints: Sequence[Endpoint],
    searched: Sequence[SearchedDirectory],
    configuration: str,
    *,
    credential_source: CredentialSource,
    environ: Mapping[str, str],
    connect_timeout: float,
    notices: Sequence[str],
) -> Explanation:
    """Describe the endpoints of a reference; `connect_timeout` (seconds) is for those without their own."""
    hosts = tuple(
        ExplainedHost(
            url=f"{item.scheme}://{item.host}{item.prefix}",
            plain_fallback=item.plain_fallback,
            namespace=item.namespace,
            asked_for=_asked_for(item),
            origin=item.origin,
            credentials=credential_source(item),
            proxy=_proxy_of(item, environ),
            ca_files=item.tls.ca_files,
            client_certificates=item.tls.client_certs,
            skip_verify=item.tls.skip_verify,
            headers=tuple(dict.fromkeys(name for name, _value in item.headers)),
            dial_timeout=item.dial_timeout or connect_timeout,
        )
        for item in endpoints
    )
    return Explanation(
        reference=str(reference),
        registry=reference.domain,
        repository=reference.repository,
        configuration=configuration,
        directories=tuple(searched),
        hosts=hosts,
        notices=(*notices, *_of_hosts(endpoints)),
    )


def _proxy_of(endpoint: Endpoint, environ: Mapping[str, str]) -> ProxyUse:
    if endpoint.proxy:
        return ProxyUse(proxy.without_secrets(endpoint.proxy), endpoint.proxy_origin)
    choice = proxy.choose(endpoint.scheme, endpoint.host, environ)
    url = proxy.without_secrets(choice.url) if choice.url else ""
    return ProxyUse(url, choice.variable, choice.excluded_by)


def _asked_for(endpoint: Endpoint) -> tuple[str, ...]:
    """List what the host is used for; as in containerd, only a host that may pull is used to resolve."""
    able = endpoint.capabilities if "pull" in endpoint.capabilities else endpoint.capabilities - {"resolve"}
    return tuple(action for action in _ACTIONS if action in able)


def _of_hosts(endpoints: Sequence[Endpoint]) -> list[str]:
    """Return a line for each action that no host allows, and for capabilities without effect."""
    found = [
        f"{item.origin}: a host that may resolve, but not pull, is not asked to resolve"
        for item in endpoints
        if "resolve" in item.capabilities and "pull" not in item.capabilities
    ]
    able = {action for item in endpoints for action in _asked_for(item)}
    missing = [action for action in ("resolve", "pull") if action not in able]
    return [*found, *(f"no host is configured that may {action}" for action in missing)]
