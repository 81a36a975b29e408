"""`pyctrd registry`: a group, whose commands need no containerd."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from pyctrd.cli import settings
from pyctrd.cli.page import Cell, Column, Item, Page
from pyctrd.cli.render import emit_json, open_page
from pyctrd.cli.session import open_registry
from pyctrd.cli.text import seconds

if TYPE_CHECKING:
    from pyctrd.registry import ExplainedHost, Explanation, ProxyUse


@click.group("registry")
def command() -> None:
    """Show how registries would be reached, and why."""


@command.command("explain")
@click.argument("ref")
@settings.registry_options
@settings.format_option("text", "json")
@settings.global_options
def explain(ref: str, output_format: str) -> None:
    """Print which hosts would be asked for an image, and why.

    They are in the order in which they are asked. Nothing is sent to any of them, and no secret is printed.
    Credential helpers are run, to see whether they have a credential. containerd need not run.
    """
    from pyctrd import reference

    parsed = reference.parse(ref)
    with open_registry() as client:
        explanation = client.explain(parsed)
    if output_format == "json":
        emit_json(explanation)
    else:
        _print(open_page(), explanation)


def _print(page: Page, explanation: Explanation) -> None:
    page.line(explanation.reference, "strong")
    for number, host in enumerate(explanation.hosts, start=1):
        stands_for = f"  (for {host.namespace})" if host.namespace else ""
        page.heading(f"{number}. {host.url}{stands_for}")
        page.items(list(_items(host)))
    page.heading("Configuration directories")
    page.table(
        [Column("DIRECTORY"), Column("STATE")],
        [
            (Cell(item.path), Cell(item.state, "good" if item.state == "used" else "dim"))
            for item in explanation.directories
        ],
    )
    if explanation.configuration:
        page.line(f"used: {explanation.configuration}", "dim")
    if explanation.notices:
        page.heading("Notices")
        for notice in explanation.notices:
            page.line(notice, "warn")


def _items(host: ExplainedHost) -> Iterator[Item]:
    asked = ", ".join(host.asked_for) or "nothing"
    yield Item("because of", host.origin)
    yield Item("asked for", f"{asked} (?ns={host.namespace})" if host.namespace else asked)
    yield Item("credentials", host.credentials or "none")
    yield Item("proxy", _proxy(host.proxy))
    if host.url.startswith("https:"):
        yield from _tls(host)
    if host.headers:
        yield Item("headers", ", ".join(host.headers))
    yield Item("dial time-out", seconds(host.dial_timeout))


def _tls(host: ExplainedHost) -> Iterator[Item]:
    if host.plain_fallback:
        yield Item("TLS", "tried first, plain HTTP where the host has none", "warn")
    if host.skip_verify:
        yield Item("certificate", "any is accepted", "warn")
    else:
        yield Item("CA", ", ".join(["the system's", *host.ca_files]))
    if host.client_certificates:
        pairs = (f"{name} with {key}" if key else name for name, key in host.client_certificates)
        yield Item("client certificate", ", ".join(pairs))


def _proxy(way: ProxyUse) -> str:
    if way.url:
        return f"{way.url} ({way.source})"
    return f"none ({way.source} does not count: {way.excluded_by})" if way.excluded_by else "none"
