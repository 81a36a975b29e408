"""The `pyctrd` command: a group that imports a command's module only when that command is run.

`--help` and `--version` need only this file, so that they do not import grpc or rich.
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

# Name -> its line in `pyctrd --help`; tests compare it with the command's own help.
COMMANDS: Final[Mapping[str, str]] = {
    "pull": "Pull an image from a registry.",
    "unpack": "Unpack an image that is in the store.",
    "tag": "Give an image more names.",
    "pin": "Protect images from removal.",
    "unpin": "Remove the protection of images.",
    "label": "Set and remove labels of an image.",
    "diagnose": "Show what content of an image is missing, and why.",
    "ensure": "Fetch the missing content of an image.",
    "save": "Save images to an archive.",
    "load": "Load the images of an archive.",
    "inspect": "Show all about an image, or what is in an archive.",
    "history": "Show the steps that an image was built in, and the layers that they made.",
    "inventory": "List what a namespace has, for a smaller archive.",
    "push": "Push an image to a registry.",
    "copy": "Copy an image between registries.",
    "sync": "Copy images to or from another containerd.",
    "verify": "Report damaged or missing content.",
    "images": "List images, their complete platforms, size and use.",
    "why": "Show what keeps a blob, a snapshot or an image.",
    "rm": "Remove images, and what only they keep.",
    "usage": "Show the disk space of images, and what can be freed.",
    "prune": "Remove images by policies, and what interrupted pulls left.",
    "doctor": "Find out what is wrong with this machine's containerd, and what helps.",
    "registry": "Inspect registries and list their contents.",
    "content": "List, read, label and remove blobs in the content store.",
    "ingests": "List and abort unfinished writes.",
    "leases": "List, create and remove leases.",
    "namespaces": "List, create, label and remove namespaces.",
    "snapshots": "List, measure and remove snapshots.",
    "events": "Show what happens in containerd, as it happens.",
    "plugins": "List the plugins of containerd.",
    "completion": "Print a shell completion script.",
    "version": "Show the versions of pyctrd and containerd.",
}


class App(Group):
    """A group with lazy commands; `boundary` turns its errors into messages and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's names
        """List the commands in the order of COMMANDS, not alphabetically."""
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
        """Run the command; a broken pipe exits with 1 without a message."""
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
    """Pull, check, repair, move and remove container images through containerd's socket.

    The options below may be given before or after the command.
    """
