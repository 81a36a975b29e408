"""From the command line to a client. The client, and with it grpc, is imported only when it is opened."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pyctrd.cli.settings import RegistryArguments, Settings

if TYPE_CHECKING:
    from pyctrd.client import Client
    from pyctrd.copier import RegistryCopier
    from pyctrd.registry import RegistryOptions


def open_client(*, snapshotter: str | None = None, context: click.Context | None = None) -> Client:
    """Make the client that the global options ask for; it is a context manager.

    `context` is the command's; without one it is that of the command which runs now.
    """
    from pyctrd.client import Client

    chosen = (context or click.get_current_context()).ensure_object(Settings)
    return Client(
        chosen.address,
        chosen.namespace,
        snapshotter=snapshotter,
        registry=_registry_options(chosen.registry),
    )


def open_copier(
    source: str, target: str, *, plain_http: bool, skip_verify: bool, user: str | None
) -> RegistryCopier:
    """Make the copier that the options ask for; the arguments are those about the source's registry."""
    from pyctrd import reference
    from pyctrd.copier import RegistryCopier

    arguments = click.get_current_context().ensure_object(Settings).registry
    of_source = RegistryArguments(
        plain_http=plain_http, skip_verify=skip_verify, user=user, hosts_dir=arguments.hosts_dir
    )
    same = reference.parse(source).domain == reference.parse(target).domain
    options = _registry_options(arguments)
    if of_source == RegistryArguments() and (same or arguments == RegistryArguments()):
        return RegistryCopier(options)
    from pyctrd.registry import RegistryOptions

    return RegistryCopier(options, source=_registry_options(of_source) or RegistryOptions())


def _registry_options(arguments: RegistryArguments) -> RegistryOptions | None:
    username, password = _credentials(arguments)
    if arguments == RegistryArguments():
        return None
    from pyctrd.registry import RegistryOptions

    return RegistryOptions(
        plain_http=arguments.plain_http,
        skip_verify=arguments.skip_verify,
        username=username,
        password=password,
        hosts_dir=Path(arguments.hosts_dir) if arguments.hosts_dir else None,
    )


def _credentials(arguments: RegistryArguments) -> tuple[str, str]:
    if arguments.user is None:
        if arguments.password_stdin:
            raise click.UsageError("--password-stdin needs --user")
        return "", ""
    username, colon, password = arguments.user.partition(":")
    if arguments.password_stdin:
        if colon:
            raise click.UsageError("a password was given twice: in --user and by --password-stdin")
        password = sys.stdin.readline().rstrip("\r\n")
    elif not colon:
        if not sys.stdin.isatty():
            raise click.UsageError("no password: use --password-stdin, or -u USER:PASS")
        password = click.prompt(f"Password for {username}", hide_input=True, err=True)
    return username, password
