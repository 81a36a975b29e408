"""Which modules a program or a command of pyctrd loads."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

# (`-X importtime` would not do: it does not see what importlib.import_module loads.)
RUN: Final = """
import atexit, os, runpy, sys
def report(code=0, end=os._exit):
    print("loaded:", *sys.modules, file=sys.stderr, flush=True)
    end(code)
atexit.register(report)
os._exit = report  # how the command line leaves
if sys.argv[1:2] == ["-c"]:
    exec(sys.argv[2])
else:
    sys.argv = ["pyctrd", *sys.argv[1:]]
    runpy.run_module("pyctrd", run_name="__main__", alter_sys=True)
"""


def loaded(*arguments: str) -> set[str]:
    """Run `-c CODE`, or the command line with arguments, and return the names of all loaded modules."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stderr.rpartition("loaded: ")[2].split())


# What only some commands need, and what is expensive to import: third-party packages, and modules of the
# standard library that neither Python's start nor the synchronous part of grpc nor click loads.
COSTLY: Final = (
    "asyncio.base_events",
    "backports.zstd",
    "email",
    "html",
    "http",
    "importlib.metadata",
    "rich",
    "shutil",
    "tempfile",
    "tenacity",
    "tomllib",
    "urllib3",
    "pyctrd.aio",
    "pyctrd.archive",
    "pyctrd.containerd.endpoint",
    "pyctrd.containerd.events",
    "pyctrd.containerd.leases",
    "pyctrd.containerd.ssh",
    "pyctrd.hostfacts",
    "pyctrd.registry",
    "pyctrd.services",
)


def costly(names: set[str], *, but: str = "") -> list[str]:
    """Return what of COSTLY is among the names of modules, `but` for some."""
    tops = set(COSTLY) - set(but.split())
    return sorted(top for top in tops if any(name == top or name.startswith(f"{top}.") for name in names))


def named(names: set[str], *beginnings: str) -> set[str]:
    """Return the names that begin with one of these."""
    return {name for name in names if name.startswith(beginnings)}
