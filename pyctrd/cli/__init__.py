"""The command line: click for the words, rich for what a person sees. It holds no logic of its own."""

from __future__ import annotations


def main() -> None:
    """Run `pyctrd` with the arguments of this process, and leave with its exit code."""
    from pyctrd.cli import process

    process.die_quietly()
    process.open_missing_streams()
    process.tune()
    from pyctrd.cli import boundary
    from pyctrd.cli.app import app

    try:
        app.main(prog_name="pyctrd")
    except SystemExit as leaving:
        boundary.leave(leaving)
