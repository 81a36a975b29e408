"""The options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pyctrd.cli import completions, logs
from pyctrd.cli.state import RegistryArguments, Settings
from pyctrd.errors import InvalidPlatform

__all__ = ["RegistryArguments", "Settings"]

# As many as the governor (registry/governor.py) lets a process have.
_MAX_RANGES = 8
_F = TypeVar("_F", bound=Callable[..., Any])


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    # Called once for the group and once for the command: only an option that was given may overwrite.
    if value is not None and value is not False:
        setattr(context.ensure_object(Settings), str(parameter.name), value)


def _remember_debug(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    _remember(context, parameter, value)
    if value:
        logs.show_everything()


def _remember_registry(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    arguments = context.ensure_object(Settings).registry
    arguments.are_offered = True
    setattr(arguments, str(parameter.name), value)


def _remember_ranges(context: click.Context, parameter: click.Parameter, value: str) -> None:
    number = int(value) if value.isascii() and value.isdigit() and len(value) < 4 else 0
    if value not in ("auto", "off") and not 1 <= number <= _MAX_RANGES:
        raise click.BadParameter(f"{value!r} is not auto, off, or a number from 1 to {_MAX_RANGES}")
    _remember_registry(context, parameter, number or value)


def _all(options: list[Callable[[_F], _F]]) -> Callable[[_F], _F]:
    def decorate(function: _F) -> _F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


global_options = _all(
    [
        click.option(
            "-a",
            "--address",
            metavar="ADDRESS",
            expose_value=False,
            callback=_remember,
            help="containerd's socket, a path or unix://PATH.  "
            "[env: CONTAINERD_ADDRESS; default: /run/containerd/containerd.sock]",
        ),
        click.option(
            "-n",
            "--namespace",
            metavar="NAMESPACE",
            shell_complete=completions.namespaces,
            expose_value=False,
            callback=_remember,
            help="containerd's namespace.  [env: CONTAINERD_NAMESPACE; default: default]",
        ),
        click.option(
            "--debug",
            is_flag=True,
            expose_value=False,
            callback=_remember_debug,
            help="Show each request, retry and source of credentials, and the traceback of an error.",
        ),
    ]
)
"""Give a command the options that every command has; their values are in `Settings`."""


class _Seconds(click.FloatRange):
    """A range of seconds; `nan` compares with nothing, so that click finds it in every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse `nan`."""
        number = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return number


def _seconds(name: str, help_text: str, least: float = 0.01) -> Callable[[_F], _F]:
    return click.option(
        name,
        type=_Seconds(min=least, max=86400),
        metavar="SECONDS",
        expose_value=False,
        callback=_remember_registry,
        help=help_text,
    )


registry_options = _all(
    [
        click.option(
            "--plain-http",
            is_flag=True,
            expose_value=False,
            callback=_remember_registry,
            help="Talk HTTP to the registry.  [default: only to localhost]",
        ),
        click.option(
            "-k",
            "--skip-verify",
            is_flag=True,
            expose_value=False,
            callback=_remember_registry,
            help="Accept any TLS certificate of the registry.",
        ),
        click.option(
            "-u",
            "--user",
            metavar="USER[:PASS]",
            expose_value=False,
            callback=_remember_registry,
            help="Log in as this user; without a password it is asked for.  "
            "[default: DOCKER_AUTH_CONFIG, Docker's config.json, podman's auth.json]",
        ),
        click.option(
            "--password-stdin",
            is_flag=True,
            expose_value=False,
            callback=_remember_registry,
            help="Read the password from stdin.",
        ),
        click.option(
            "--sudo-user-config/--no-sudo-user-config",
            default=None,
            expose_value=False,
            callback=_remember_registry,
            help="Under sudo: use the logins of the user who called it, too.  [default: ask when needed]",
        ),
        click.option(
            "--hosts-dir",
            metavar="DIR",
            expose_value=False,
            callback=_remember_registry,
            help="Folder with HOST/hosts.toml files, as containerd reads them.  "
            "[default: /etc/containerd/certs.d, then /etc/docker/certs.d]",
        ),
        _seconds("--connect-timeout", "Give a connection up that is not there by then.  [default: 10]"),
        _seconds("--stall-timeout", "Give a connection up that brings nothing for so long.  [default: 60]"),
        _seconds(
            "--retry-budget",
            "Spend at most this on waiting for registries, in all; 0 never tries again.  [default: 300]",
            least=0,
        ),
        click.option(
            "--parallel-ranges",
            default="auto",
            show_default=True,
            metavar="N|auto|off",
            expose_value=False,
            callback=_remember_ranges,
            help="Connections for one large layer: auto opens more where one is slow and more are faster.",
        ),
    ]
)
"""Give a command the options about registries; their values are in `Settings.registry`."""


def image_argument(name: str, **how: Any) -> Callable[[_F], _F]:
    """Give a command an argument for images of the namespace; the shell completes their names."""
    return click.argument(name, callback=_remember_images, shell_complete=completions.image_names, **how)


def _remember_images(
    context: click.Context, _parameter: click.Parameter, value: str | tuple[str, ...]
) -> str | tuple[str, ...]:
    context.ensure_object(Settings).images = (value,) if isinstance(value, str) else value
    return value


def remember_output(context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Note where a save goes: a command that is printed goes there, too."""
    context.ensure_object(Settings).output = value or ""
    return value


def checked_reference(_context: click.Context, _parameter: click.Parameter, ref: str | None) -> str | None:
    """Refuse a malformed reference as any other bad usage: before anybody is connected to."""
    from pyctrd.oci import reference

    if ref is not None:
        reference.parse(ref)
    return ref


def _chunk_bytes(_context: click.Context, _parameter: click.Parameter, value: int | None) -> int | None:
    return None if value is None else value << 20


sending_options = _all(
    [
        click.option(
            "--index",
            type=click.Choice(["prune", "flatten"]),
            default="prune",
            show_default=True,
            help="The index where platforms are chosen: cut to those, or left out for the one manifest.",
        ),
        click.option(
            "--allow-nondistributable",
            is_flag=True,
            help="Send layers, too, that say that they may not be distributed.",
        ),
        click.option(
            "--max-concurrent-uploads",
            type=click.IntRange(min=1),
            default=3,
            show_default=True,
            metavar="N",
            help="How many blobs to send at once.",
        ),
        click.option(
            "--chunk-size",
            type=click.IntRange(min=0),
            metavar="MIB",
            callback=_chunk_bytes,
            help="Send larger blobs in pieces of this many MiB, 0 for never.  [default: 32]",
        ),
        click.option(
            "--dry-run",
            is_flag=True,
            help="Print what would be sent, by what the registry has; send nothing.",
        ),
    ]
)
"""Give a command the options of what is sent to a registry, and how."""


def platform_option(help_text: str, *, local: bool = True) -> Callable[[_F], _F]:
    """Give a command `--platform`; the values are read by the client."""
    return click.option(
        "--platform",
        "platforms",
        multiple=True,
        metavar="P",
        shell_complete=completions.platforms,
        callback=_checked_platforms,
        help=f"{help_text} {_PLATFORM_FORMS if local else _REMOTE_PLATFORM_FORMS}",
    )


def _checked_platforms(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    from pyctrd.oci.platforms import select

    select(values)  # a malformed one is an error of usage, before anything is connected
    return values


_PLATFORM_FORMS = (
    "May be repeated, or a list with commas; `all` and `local` (what is complete here) work, too."
)

_REMOTE_PLATFORM_FORMS = "May be repeated, or a list with commas."

all_platforms_option = click.option("--all-platforms", is_flag=True, help="Every platform of the image.")
snapshotter_option = click.option(
    "--snapshotter",
    metavar="S",
    shell_complete=completions.snapshotters,
    help="Snapshotter to use.  [env: CONTAINERD_SNAPSHOTTER; default: the server's]",
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print no progress, and only the essential.")
progress_option = click.option(
    "--progress",
    type=click.Choice(["auto", "bar", "plain", "json", "none"]),
    default="auto",
    help="How to show progress on stderr.  [default: auto, bars on a terminal, lines elsewhere]",
)


def format_option(*choices: str) -> Callable[[_F], _F]:
    """Give a command `--format`; the first choice is the default."""
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(choices),
        default=choices[0],
        show_default=True,
        help="Format of the data on stdout; docs/json.md has the JSON schemas.",
    )


def platforms_of(platforms: tuple[str, ...], all_platforms: bool) -> tuple[str, ...] | None:
    """Join `--platform` and `--all-platforms` to the library's argument; None where neither was used."""
    if all_platforms and platforms:
        raise InvalidPlatform("cannot specify both --platform and --all-platforms")
    return ("all",) if all_platforms else platforms or None
