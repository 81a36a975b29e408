"""`pyctrd registry`: a group, whose commands need no containerd."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from pyctrd.cli import commandline, settings
from pyctrd.cli.group import Group
from pyctrd.cli.page import Cell, Column, Item, Page
from pyctrd.cli.render import content_of, digest_cell, emit_json, open_page
from pyctrd.cli.session import open_registry
from pyctrd.cli.text import seconds, size

if TYPE_CHECKING:
    from pyctrd.cli.documents import services
    from pyctrd.registry import ExplainedHost, Explanation, ProxyUse, ReferrerList


@click.group("registry", cls=Group)
def command() -> None:
    """Inspect registries and list their contents."""


@command.command("explain")
@click.argument("ref")
@settings.registry_options
@settings.format_option("text", "json")
@settings.global_options
def explain(ref: str, output_format: str) -> None:
    """Show the hosts and settings used for an image.

    Lists hosts in the order they are tried, with the source of each setting. Sends no requests and prints no
    secrets, but runs credential helpers. Does not use containerd.
    """
    with open_registry() as registries:
        found = registries.explain(ref)
    notices = tuple(map(commandline.with_options, found.notices))
    explanation = replace(found, notices=notices)
    if output_format == "json":
        emit_json(explanation)
    else:
        _print(open_page(), explanation)


@command.command("tags")
@click.argument("repo")
@settings.registry_options
@settings.format_option("text", "json")
@settings.global_options
def tags(repo: str, output_format: str) -> None:
    """List the tags of a repository.

    If the registry returns no list, its mirrors are asked and a warning is printed. Does not use
    containerd.
    """
    with open_registry() as registries:
        found = registries.tags(repo)
    if output_format == "json":
        emit_json(found)
        return
    for tag in found.tags:
        click.echo(tag)


@command.command("referrers")
@click.argument("ref")
@click.option(
    "--artifact-type",
    default="",
    metavar="TYPE",
    help="List only artifacts of this type, such as application/spdx+json.",
)
@settings.registry_options
@settings.format_option("text", "json")
@settings.global_options
def referrers(ref: str, artifact_type: str, output_format: str) -> None:
    """List the artifacts that refer to a manifest, such as signatures and SBOMs.

    Uses the referrers tag if the registry does not support the referrers API. An empty list is not an
    error. Does not use containerd.
    """
    with open_registry() as registries:
        found = registries.referrers(ref, artifact_type)
    if output_format == "json":
        emit_json(_document(found))
        return
    open_page().table(
        [Column("DIGEST"), Column("ARTIFACT TYPE"), Column("SIZE", right=True)],
        [
            (digest_cell(item.digest), Cell(item.artifact_type), Cell(size(item.size)))
            for item in found.referrers
        ],
    )


def _document(found: ReferrerList) -> services.RegistryReferrers:
    return {
        "repository": found.repository,
        "host": found.host,
        "mirror": found.mirror,
        "subject": found.subject,
        "source": found.source,
        "referrers": [
            {
                **content_of(item),
                "artifactType": item.artifact_type,
                "annotations": dict(item.annotations),
            }
            for item in found.referrers
        ],
    }


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
    used = ", ".join(host.asked_for) or "nothing"
    yield Item("configured by", host.origin)
    yield Item("used for", f"{used} (?ns={host.namespace})" if host.namespace else used)
    yield Item("credentials", host.credentials or "none")
    yield Item("proxy", _proxy(host.proxy))
    if host.url.startswith("https:"):
        yield from _tls(host)
    if host.headers:
        yield Item("headers", ", ".join(host.headers))
    yield Item("connect timeout", seconds(host.dial_timeout))


def _tls(host: ExplainedHost) -> Iterator[Item]:
    if host.plain_fallback:
        yield Item("TLS", "tried first, then plain HTTP", "warn")
    if host.skip_verify:
        yield Item("certificate", "not verified", "warn")
    else:
        yield Item("CA", ", ".join(["system", *host.ca_files]))
    if host.client_certificates:
        pairs = (f"{name} with {key}" if key else name for name, key in host.client_certificates)
        yield Item("client certificate", ", ".join(pairs))


def _proxy(way: ProxyUse) -> str:
    if way.url:
        return f"{way.url} ({way.source})"
    return f"none ({way.source} ignored: {way.excluded_by})" if way.excluded_by else "none"
