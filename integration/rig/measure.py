"""A command's exit code, output, time and peak memory.

A process inherits the peak memory of its parent, and a test runner is large, so a small Python process
starts the command.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_STARTER = """
import json, os, sys, time
began = time.monotonic()
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
told = [os.waitstatus_to_exitcode(status), usage.ru_maxrss, time.monotonic() - began]
os.write(int(os.environ["RIG_MEASURE"]), json.dumps(told).encode())
"""


class Measured(NamedTuple):
    """The result of a command; memory in MiB, time in seconds."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    mebibytes: float


def measured(
    command: Sequence[str], *, env: Mapping[str, str], folder: Path, timeout: float = 60.0
) -> Measured:
    """Run a command; raises subprocess.TimeoutExpired, with the command ended, after `timeout` seconds."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-ISc", _STARTER, *command],
        env={**env, "RIG_MEASURE": str(writer)},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[writer],
        start_new_session=True,
    )
    os.close(writer)
    try:
        stdout, stderr = process.communicate(timeout=timeout)
        told = os.read(reader, 4096)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    finally:
        os.close(reader)
    code, kibibytes, seconds = json.loads(told)
    return Measured(code, stdout.decode(), stderr.decode(errors="replace"), seconds, kibibytes / 1024)
