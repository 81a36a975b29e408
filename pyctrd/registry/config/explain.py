"""What would be asked for a reference, and why: nothing is sent, and no secret is in it.

A credential helper is run, since nobody else knows whether it has a credential.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pyctrd.oci.reference import Reference
from pyctrd.registry.config import proxy
from pyctrd.registry.config.certs_d import Look
from pyctrd.registry.config.endpoints import Endpoint

# In the order of the work.
_ERRANDS: Final = ("resolve", "pull", "push", "referrers")

CredentialSource = Callable[[Endpoint], str]
"""Gives where the credential for an endpoint comes from, "" when there is none."""


@dataclass(frozen=True)
class ConfigurationDirectory:
    """A directory that may have configured the registry.

    `state` is `used`, `no entry` (nothing for this registry), `absent`, `not readable` or `not reached`.
    """

    path: str
    state: str


@dataclass(frozen=True)
class ProxyUse:
    """The way to a host: `url` of a proxy without user and password, or "" for a direct connection.

    `source` is the variable or the file:line that names the proxy, "" when none is named; `excluded_by` why
    it is not used: `loopback`, or the variable and its entry that fits.
    """

    url: str = ""
    source: str = ""
    excluded_by: str = ""


@dataclass(frozen=True)
class ExplainedHost:
    """A host that would be asked, and how.

    `url` is the API's base, `plain_fallback` whether plain HTTP is spoken where it has no TLS, `namespace`
    what is sent as `?ns=` (a mirror) or "". `asked_for` is out of resolve, pull, push and referrers. `origin`
    is the file:line, the directory or the flag that says so, or `default`. `credentials` is where they come
    from, "" for none. `headers` are names; `dial_timeout` seconds.
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
    """Everything that decides where a reference is looked for, first choice first.

    `configuration` is the directory that configures the registry, "" for none. `notices` are what is
    configured but has no effect, and what stands in the way of finding credentials.
    """

    reference: str
    registry: str
    repository: str
    configuration: str
    directories: tuple[ConfigurationDirectory, ...]
    hosts: tuple[ExplainedHost, ...]
    notices: tuple[str, ...]


def explain(
    reference: Reference,
    endpoints: Sequence[Endpoint],
    looks: Sequence[Look],
    configuration: str,
    *,
    credential_source: CredentialSource,
    environ: Mapping[str, str],
    connect_timeout: float,
    notices: Sequence[str],
) -> Explanation:
    """Tell what the endpoints of a reference mean; `connect_timeout` (seconds) is for those without."""
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
        directories=tuple(ConfigurationDirectory(str(look.path), look.state) for look in looks),
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
    """List what the host is asked for: a tag is resolved only where it can be pulled, as in containerd."""
    able = endpoint.capabilities if "pull" in endpoint.capabilities else endpoint.capabilities - {"resolve"}
    return tuple(errand for errand in _ERRANDS if errand in able)


def _of_hosts(endpoints: Sequence[Endpoint]) -> list[str]:
    """Say which errands have nobody to do them, and which host has none."""
    found = [
        f"{item.origin}: a host that may resolve, but not pull, is not asked to resolve"
        for item in endpoints
        if "resolve" in item.capabilities and "pull" not in item.capabilities
    ]
    able = {errand for item in endpoints for errand in _asked_for(item)}
    missing = [errand for errand in ("resolve", "pull") if errand not in able]
    return [*found, *(f"no host is configured that may {errand}" for errand in missing)]
