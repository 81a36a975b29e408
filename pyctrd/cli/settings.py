"""The options that several commands share."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from pyctrd.cli import completions, logs
from pyctrd.cli.state import RegistryArguments, Settings
from pyctrd.errors import InvalidPlatform

__all__ = ["RegistryArguments", "Settings"]

# The limit of registry/range_control.py, which is not imported here: it would load urllib3.
_MAX_RANGES = 8
_F = TypeVar("_F", bound=Callable[..., Any])


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    # Called for the group and for the command: only an option that was given may overwrite a value.
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
            help="Socket of containerd, as PATH or unix://PATH.  "
            "[env: CONTAINERD_ADDRESS; default: /run/containerd/containerd.sock]",
        ),
        click.option(
            "-n",
            "--namespace",
            metavar="NAMESPACE",
            shell_complete=completions.namespaces,
            expose_value=False,
            callback=_remember,
            help="Namespace of containerd.  [env: CONTAINERD_NAMESPACE; default: default]",
        ),
        click.option(
            "--debug",
            is_flag=True,
            expose_value=False,
            callback=_remember_debug,
            help="Log requests, retries and sources of credentials; print tracebacks.",
        ),
    ]
)
"""Add the global options to a command; their values are in `Settings`."""


class _Seconds(click.FloatRange):
    """A range of seconds without `nan`, which click accepts in any range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Reject `nan`."""
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
            help="Use plain HTTP.  [default: for localhost only]",
        ),
        click.option(
            "-k",
            "--skip-verify",
            is_flag=True,
            expose_value=False,
            callback=_remember_registry,
            help="Do not verify TLS certificates.",
        ),
        click.option(
            "-u",
            "--user",
            metavar="USER[:PASS]",
            expose_value=False,
            callback=_remember_registry,
            help="Registry credentials; prompts for a missing password.  "
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
            help="Under sudo, also use the credentials of the calling user.  [default: ask when needed]",
        ),
        click.option(
            "--hosts-dir",
            metavar="DIR",
            expose_value=False,
            callback=_remember_registry,
            help="Directory with HOST/hosts.toml files.  "
            "[default: /etc/containerd/certs.d, then /etc/docker/certs.d]",
        ),
        _seconds("--connect-timeout", "Time limit for connecting.  [default: 10]"),
        _seconds("--stall-timeout", "Abort a connection that stalls for this long.  [default: 60]"),
        _seconds(
            "--retry-budget",
            "Total time to wait for failing registries; 0 disables retries.  [default: 300]",
            least=0,
        ),
        click.option(
            "--parallel-ranges",
            default="auto",
            show_default=True,
            metavar="N|auto|off",
            expose_value=False,
            callback=_remember_ranges,
            help="Connections per large layer; auto adds more while they speed it up.",
        ),
    ]
)
"""Add the registry options to a command; their values are in `Settings.registry`."""


def image_argument(name: str, **how: Any) -> Callable[[_F], _F]:
    """Add an argument for images of the namespace, with completion of their names."""
    return click.argument(name, callback=_remember_images, shell_complete=completions.image_names, **how)


def _remember_images(
    context: click.Context, _parameter: click.Parameter, value: str | tuple[str, ...]
) -> str | tuple[str, ...]:
    context.ensure_object(Settings).images = (value,) if isinstance(value, str) else value
    return value


def remember_output(context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Store the output file of a save, for the commands in hints."""
    context.ensure_object(Settings).output = value or ""
    return value


def checked_reference(_context: click.Context, _parameter: click.Parameter, ref: str | None) -> str | None:
    """Reject a malformed reference as a usage error, before anything is connected."""
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
            help="Prune the index to the selected platforms, or flatten it to a single manifest.",
        ),
        click.option(
            "--allow-nondistributable",
            is_flag=True,
            help="Include non-distributable layers.",
        ),
        click.option(
            "--max-concurrent-uploads",
            type=click.IntRange(min=1),
            default=3,
            show_default=True,
            metavar="N",
            help="Maximum number of concurrent uploads.",
        ),
        click.option(
            "--chunk-size",
            type=click.IntRange(min=0),
            metavar="MIB",
            callback=_chunk_bytes,
            help="Upload larger blobs in chunks of this size; 0 disables chunks.  [default: 32]",
        ),
        click.option(
            "--dry-run",
            is_flag=True,
            help="Print what would be uploaded, without uploading it.",
        ),
    ]
)
"""Add the options of push and copy to a command."""


def platform_option(help_text: str, *, local: bool = True) -> Callable[[_F], _F]:
    """Add `--platform` to a command; the client parses the values."""
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

    select(values)  # an invalid platform is a usage error, before anything is connected
    return values


_PLATFORM_FORMS = "Repeatable or comma-separated; also `all`, or `local` for those complete locally."
_REMOTE_PLATFORM_FORMS = "Repeatable or comma-separated."

all_platforms_option = click.option(
    "--all-platforms", is_flag=True, help="Select every platform of the image."
)
snapshotter_option = click.option(
    "--snapshotter",
    metavar="S",
    shell_complete=completions.snapshotters,
    help="Snapshotter to use.  [env: CONTAINERD_SNAPSHOTTER; default: the server's]",
)


def parse_labels(
    _context: click.Context, _parameter: click.Parameter, values: Sequence[str]
) -> dict[str, str]:
    """Parse the values of a `--label` option."""
    labels = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{value!r} is not KEY=VALUE")
        labels[key] = text
    return labels


label_option = click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="K=V",
    callback=parse_labels,
    help="Add a label to the image; repeatable.",
)

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604_800}
_MAX_TTL = dt.timedelta(days=36_525)


def duration(text: str) -> dt.timedelta:
    """Parse a length of time: `90s`, `30m`, `12h`, `7d` or `2w`. Raises BadParameter."""
    found = re.fullmatch(r"([0-9]+)([smhdw])", text)
    if not found:
        raise click.BadParameter(f"{text!r} is not a time like 90s, 30m, 12h, 7d or 2w")
    try:
        return dt.timedelta(seconds=int(found[1]) * _UNITS[found[2]])
    except (OverflowError, ValueError):  # int() refuses thousands of digits
        raise click.BadParameter(f"{text[:20]!r} is too long") from None


def ttl_option(help_text: str) -> Callable[[_F], _F]:
    """Add `--ttl`; the value is checked before anything is connected."""
    return click.option("--ttl", metavar="TIME", callback=_ttl, help=help_text)


def _ttl(_context: click.Context, _parameter: click.Parameter, text: str | None) -> dt.timedelta | None:
    if text is None:
        return None
    found = duration(text)
    if not dt.timedelta() < found <= _MAX_TTL:
        raise click.BadParameter(f"{text!r}: must be more than 0, and at most 100 years")
    return found


quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print only the result.")
progress_option = click.option(
    "--progress",
    type=click.Choice(["auto", "bar", "plain", "json", "none"]),
    default="auto",
    help="Format of progress on stderr.  [default: auto, bars on a terminal, else plain]",
)


def format_option(*choices: str) -> Callable[[_F], _F]:
    """Add `--format` to a command; the first choice is the default."""
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(choices),
        default=choices[0],
        show_default=True,
        help="Output format.",
    )


def platforms_of(platforms: tuple[str, ...], all_platforms: bool) -> tuple[str, ...] | None:
    """Combine `--platform` and `--all-platforms` to the library's argument; None if neither was given."""
    if all_platforms and platforms:
        raise InvalidPlatform("cannot specify both --platform and --all-platforms")
    return ("all",) if all_platforms else platforms or None
