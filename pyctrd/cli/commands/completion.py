"""`pyctrd completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from pyctrd.cli import settings, shells


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@settings.global_options
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print a shell completion script.

    \b
    bash:  eval "$(pyctrd completion bash)"                     in ~/.bashrc
    zsh:   eval "$(pyctrd completion zsh)"                      in ~/.zshrc
    fish:  pyctrd completion fish > ~/.config/fish/completions/pyctrd.fish
    """
    shells.install()
    completion = get_completion_class(shell)
    assert completion is not None
    click.echo(completion(context.find_root().command, {}, "pyctrd", "_PYCTRD_COMPLETE").source())
