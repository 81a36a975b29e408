"""Run the command line: `python -m pyctrd`."""

from __future__ import annotations

from pyctrd.cli import main

if __name__ == "__main__":
    main()
