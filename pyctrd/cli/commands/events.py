"""`pyctrd events`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
import msgspec

from pyctrd.cli import settings
from pyctrd.cli.render import plain_json
from pyctrd.cli.session import open_client
from pyctrd.cli.text import moment, sanitize

if TYPE_CHECKING:
    from pyctrd import Event
    from pyctrd.cli.documents import services


@click.command("events")
@click.option(
    "-f",
    "--filter",
    "filters",
    multiple=True,
    metavar="F",
    help="Show what matches a filter of containerd, e.g. `namespace==k8s.io` or `topic~=^/images/`; "
    "repeatable (or).",
)
@settings.format_option("text", "wide", "json", "jsonl")
@settings.global_options
def command(filters: tuple[str, ...], output_format: str) -> None:
    """Show what happens in containerd, as it happens.

    Shows all namespaces, a line per event: time, namespace, what happened, to what. The words are those of
    `docker events`; `wide` adds containerd's topic, and `json` (the same as `jsonl`) all fields. containerd
    keeps no events, so there is no `--since`. Ends with Ctrl-C.
    """
    with open_client() as client, client.events.stream(filters) as events:
        for event in events:
            click.echo(_line(event, output_format))


def _line(event: Event, output_format: str) -> str:
    if output_format in ("json", "jsonl"):
        return json.dumps(msgspec.to_builtins(_document(event), enc_hook=plain_json))
    words = [moment(event.time), event.namespace or "-", event.kind, event.action, event.name]
    if event.payload is None:
        words.append(f"({event.type_url})")
    if output_format == "wide":
        words.append(event.topic)
    return sanitize(" ".join(filter(None, words)))


def _document(event: Event) -> services.Event:
    return {
        "time": event.time.isoformat().replace("+00:00", "Z") if event.time else "",
        "namespace": event.namespace,
        "topic": event.topic,
        "kind": event.kind,
        "action": event.action,
        "name": event.name,
        "type_url": event.type_url,
        "payload": None if event.payload is None else dict(event.payload),
    }
