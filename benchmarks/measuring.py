"""Run a command and measure it: time, CPU time and peak memory, its own and those of a daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

TIMEOUT_SECONDS = 600.0
_TICKS = os.sysconf("SC_CLK_TCK")

# A process inherits the peak memory of its parent, so a small one starts the command. If the first argument
# is not empty, `cat` reads the command's output.
_STARTER = """
import json, os, sys, time
piped, *command = sys.argv[1:]
quiet = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
         (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
began = time.monotonic()
if piped:
    end, start = os.pipe()
    from_pipe, to_pipe = (os.POSIX_SPAWN_DUP2, end, 0), (os.POSIX_SPAWN_DUP2, start, 1)
    reader = os.posix_spawnp("cat", ["cat"], os.environ, file_actions=[*quiet, from_pipe])
    os.close(end)
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=[*quiet, to_pipe])
    os.close(start)
else:
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=quiet)
_, status, usage = os.wait4(pid, 0)
if piped:
    os.waitpid(reader, 0)
seconds = time.monotonic() - began
cpu = usage.ru_utime + usage.ru_stime
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, cpu, usage.ru_maxrss]))
"""


class Run(msgspec.Struct, frozen=True):
    """The figures of one finished command; times in seconds, memory in MiB.

    The CPU time is user and system time, with that of processes the command started and waited for.
    """

    seconds: float
    cpu: float
    peak: float
    daemon_cpu: float = 0.0
    daemon_peak: float = 0.0
    requests: int = 0
    """Requests to the registry, where they are counted."""
    complete: bool = True
    """Whether an archive that it has written is complete."""


class HasPid(Protocol):
    """A running daemon."""

    @property
    def pid(self) -> int: ...


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    folder: Path,
    daemon: HasPid,
    piped: bool = False,
) -> Run:
    """Run a command in `folder` to its end; `piped` lets `cat` read its output.

    Raises RuntimeError with its error output if it fails, and subprocess.TimeoutExpired.
    """
    _reset_peak(daemon.pid)
    before = _cpu_seconds(daemon.pid)
    seconds, cpu, kibibytes = _started(command, env, folder, piped)
    return Run(
        seconds=seconds,
        cpu=cpu,
        peak=round(kibibytes / 1024, 1),
        daemon_cpu=round(_cpu_seconds(daemon.pid) - before, 2),
        daemon_peak=_peak(daemon.pid),
    )


def _started(
    command: Sequence[str | Path], env: Mapping[str, str], folder: Path, piped: bool
) -> tuple[float, float, int]:
    words = [str(word) for word in command]
    process = subprocess.Popen(
        [sys.executable, "-ISc", _STARTER, "piped" if piped else "", *words],
        env=dict(env),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=TIMEOUT_SECONDS)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    shown = " ".join(words)[:300]
    if process.returncode:
        raise RuntimeError(f"{shown}: {stderr.strip()}")
    code, seconds, cpu, kibibytes = json.loads(stdout)
    if code:
        raise RuntimeError(f"{shown}: exit code {code}: {stderr.strip()[-2000:]}")
    return round(seconds, 4), round(cpu, 4), kibibytes


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, and of those that it started and waited for (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(fields[place]) for place in range(11, 15)) / _TICKS


def _reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _peak(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(round(int(line.split()[1]) / 1024, 1) for line in lines if line.startswith("VmHWM:"))
