"""`pyctrd doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pyctrd.cli import settings
from pyctrd.cli.render import emit_json, open_page
from pyctrd.cli.session import open_client
from pyctrd.cli.text import sanitize

if TYPE_CHECKING:
    from pyctrd import DoctorReport
    from pyctrd.cli.documents import space


@click.command("doctor")
@click.option(
    "--check",
    "only",
    multiple=True,
    metavar="CODE",
    help="Make only this check, or look only for this finding; repeatable.",
)
@click.option("--skip", multiple=True, metavar="CODE", help="Leave out a check or a finding; repeatable.")
@click.option(
    "--hosts-dir",
    metavar="DIR",
    help="Directory with HOST/hosts.toml files.  "
    "[default: /etc/containerd/certs.d, then /etc/docker/certs.d]",
)
@click.option(
    "--bundle",
    metavar="FILE",
    help="Write a bug report (.tar.gz) instead: what doctor finds, versions, configuration; no secrets.",
)
@click.option("--force", is_flag=True, help="Replace the file of --bundle if it exists.")
@settings.format_option("table", "json", "jsonl")
@settings.global_options
@click.pass_context
def command(
    context: click.Context,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    hosts_dir: str | None,
    bundle: str | None,
    force: bool,
    output_format: str,
) -> None:
    """Find out what is wrong with this machine's containerd, and what helps.

    Looks at the socket and who may use it, the release, disk space, lost gc labels, discarded layers, stale
    leases and writes, images in several namespaces, the kubelet's images and its sandbox image, hosts.toml
    files, clocks, and how layers are decompressed, in all namespaces. Also works if containerd does not
    answer. Changes nothing. Exits with 1 if a finding is an error.

    With --bundle, writes a bug report with all findings to a file with mode 0600, prints what is in it, and
    exits with 0. It has no passwords, tokens or secret headers, but names of images, registries and paths.
    """
    if bundle is not None:
        if only or skip or output_format != "table":
            raise click.UsageError("--bundle has all findings: it excludes --check, --skip and --format")
        _write_report(bundle, force, hosts_dir)
        return
    if force:
        raise click.UsageError("--force needs --bundle")
    from pyctrd.cli.checkup import document, render

    with open_client() as client:
        report = client.doctor(check=only, skip=skip, hosts_dir=Path(hosts_dir) if hosts_dir else None)
    chosen = context.ensure_object(settings.Settings)
    if output_format == "json":
        emit_json(_document(report, chosen))
    elif output_format == "jsonl":
        for finding in report.findings:
            click.echo(json.dumps(document(finding, chosen)))
    else:
        render(report, open_page(), chosen)
    if report.has_errors:
        context.exit(1)


def _write_report(output: str, force: bool, hosts_dir: str | None) -> None:
    with open_client() as client:
        written = client.bug_report(output, force=force, hosts_dir=hosts_dir)
    width = max(len(file.name) for file in written.files)
    for file in written.files:
        click.echo(f"{file.name:{width}}  {file.about}")
    click.echo(f"wrote {sanitize(written.path)}: it has no passwords or tokens; read it before you send it")


def _document(report: DoctorReport, chosen: settings.Settings) -> space.Doctor:
    from pyctrd.cli.checkup import document

    return {
        "findings": [document(finding, chosen) for finding in report.findings],
        "checks": list(report.checks),
        "skipped": [{"check": item.check, "reason": item.reason} for item in report.skipped],
    }
