"""The command line: click parses it, rich draws on terminals. It holds no logic of its own."""

from __future__ import annotations


def main() -> None:
    """Run `pyctrd` with the arguments of this process, and exit."""
    from pyctrd.cli import process

    process.use_default_sigint()
    process.open_missing_streams()
    process.tune()
    from pyctrd.cli import boundary
    from pyctrd.cli.app import app

    try:
        app.main(prog_name="pyctrd")
    except SystemExit as leaving:
        boundary.end_process(leaving)
