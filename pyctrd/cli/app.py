"""The `pyctrd` command: a group that imports a command's module only when that command is run.

`--help` and `--version` answer from this file alone, so that they cost no import of grpc or rich.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from pyctrd.cli import boundary
from pyctrd.cli.group import Group
from pyctrd.cli.settings import Settings, global_options

# Name -> the line that `pyctrd --help` shows; tests compare it with the command's own help.
COMMANDS: Final[Mapping[str, str]] = {
    "pull": "Pull an image into containerd's content store.",
    "diagnose": "Show what of an image is here, what is not, and what each tool would do.",
    "ensure": "Fetch what an image lacks for its target platforms, and nothing else.",
    "save": "Write images to an archive that ctr, docker and podman load.",
    "push": "Push an image from containerd to a registry, under its own name or as TARGET.",
    "copy": "Copy an image from registry to registry; needs no containerd, and keeps nothing.",
    "verify": "Hash what is in the content store, and tell what is not what it should be.",
    "images": "List the images of a namespace, with the platforms that are complete here.",
    "registry": "Show how registries would be reached, and list what they have.",
    "content": "List the blobs of a namespace.",
    "completion": "Print the script that completes commands in a shell.",
    "version": "Show the versions of pyctrd and of containerd.",
}


class App(Group):
    """A group with lazy commands, whose errors become messages and exit codes at one boundary."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's names
        """List the commands in the order of a working day."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the command's module."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"pyctrd.cli.commands.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Run a command line and exit."""
        settings = Settings()
        if "_PYCTRD_COMPLETE" in os.environ:
            from pyctrd.cli import shells

            shells.install()
        extra.setdefault("obj", settings)
        extra["standalone_mode"] = False
        run = super().main
        sys.exit(boundary.run(lambda: run(args, *rest, **extra), extra["obj"]))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader who went away is our boundary's business, not click's."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            boundary.close_stdout()
            ctx.exit(1)


def _show_version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from pyctrd import __version__

        click.echo(f"pyctrd {__version__}")
        context.exit()


@click.group(
    cls=App,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 content incomplete, 5 registry or "
    "authentication, 6 daemon unreachable, 130 interrupted.",
)
@global_options
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version of pyctrd and exit.",
)
def app() -> None:
    """Pull, diagnose, complete, save and push container images through containerd's own socket.

    The options below are accepted before and after the command.
    """
