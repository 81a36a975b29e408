"""Open a client or a registry from the options. grpc is imported only when a client is opened."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import click

from pyctrd.cli import process, screen
from pyctrd.cli.state import RegistryArguments, Settings
from pyctrd.waiting import on_cancel

if TYPE_CHECKING:
    from pyctrd.client import Client
    from pyctrd.registries import Registry
    from pyctrd.registry import RegistryOptions


@contextmanager
def open_client(*, snapshotter: str | None = None, context: click.Context | None = None) -> Iterator[Client]:
    """Open the client for the global options.

    `context` defaults to that of the running command.
    """
    with process.importing_grpc():
        from pyctrd.client import Client

    chosen = (context or click.get_current_context()).ensure_object(Settings)
    with (
        Client(
            chosen.address,
            chosen.namespace,
            snapshotter=snapshotter,
            registry=_registry_options(chosen, chosen.registry),
        ) as client,
        on_cancel(chosen.cancel, client.cancel),
    ):
        yield client


def resumable(kept: str = "downloaded data is kept for a day") -> None:
    """From here on, print on Ctrl-C that the command can be resumed."""
    chosen = click.get_current_context().ensure_object(Settings)
    chosen.interrupted = f"{kept}: run the same command again to resume"


@contextmanager
def open_registry() -> Iterator[Registry]:
    """Open the Registry for the options, without a containerd."""
    from pyctrd.registries import Registry

    chosen = click.get_current_context().ensure_object(Settings)
    with (
        Registry(_registry_options(chosen, chosen.registry)) as registry,
        on_cancel(chosen.cancel, registry.cancel),
    ):
        yield registry


@contextmanager
def open_copying_registry(
    source: str, target: str, *, plain_http: bool, skip_verify: bool, user: str | None
) -> Iterator[Registry]:
    """Open the Registry for a copy; the arguments apply to the source's registry."""
    from pyctrd.oci import reference
    from pyctrd.registries import Registry
    from pyctrd.registry import RegistryOptions

    chosen = click.get_current_context().ensure_object(Settings)
    arguments = chosen.registry
    of_source = replace(
        arguments, plain_http=plain_http, skip_verify=skip_verify, user=user, password_stdin=False
    )
    shared = reference.parse(source).domain == reference.parse(target).domain or not (
        arguments.plain_http or arguments.skip_verify or arguments.user
    )
    options = _registry_options(chosen, arguments)
    if shared and not (plain_http or skip_verify or user):
        registry = Registry(options)
    else:
        registry = Registry(options, source=_registry_options(chosen, of_source) or RegistryOptions())
    with registry, on_cancel(chosen.cancel, registry.cancel):
        yield registry


def _registry_options(chosen: Settings, arguments: RegistryArguments) -> RegistryOptions | None:
    username, password = _credentials(arguments)
    ask = partial(screen.confirm, cancel=chosen.cancel) if arguments.are_offered and _may_ask() else None
    if ask is None and arguments == RegistryArguments(are_offered=arguments.are_offered):
        return None
    from pathlib import Path

    from pyctrd.registry import RegistryOptions

    timing = {
        name: value
        for name in ("connect_timeout", "stall_timeout", "retry_budget")
        if (value := getattr(arguments, name)) is not None
    }
    return RegistryOptions(
        plain_http=arguments.plain_http,
        skip_verify=arguments.skip_verify,
        username=username,
        password=password,
        hosts_dir=Path(arguments.hosts_dir) if arguments.hosts_dir else None,
        sudo_user_config=arguments.sudo_user_config,
        ask=ask,
        **timing,
        parallel_ranges=arguments.parallel_ranges,
    )


def _may_ask() -> bool:
    """Whether the question about sudo may come up and a user can answer it."""
    return "SUDO_USER" in os.environ and screen.is_interactive()


def _credentials(arguments: RegistryArguments) -> tuple[str, str]:
    if arguments.user is None:
        if arguments.password_stdin:
            raise click.UsageError("--password-stdin needs --user")
        return "", ""
    username, colon, password = arguments.user.partition(":")
    if arguments.password_stdin:
        if colon:
            raise click.UsageError("cannot specify a password with both --user and --password-stdin")
        password = sys.stdin.readline().rstrip("\r\n")
    elif not colon:
        if not sys.stdin.isatty():
            raise click.UsageError("no password: use --password-stdin, or -u USER:PASS")
        with screen.asking():
            password = click.prompt(f"Password for {username}", hide_input=True, err=True)
    return username, password
