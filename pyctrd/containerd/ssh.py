"""Reach the socket of a containerd on another machine, forwarded by OpenSSH's client.

The user's own ssh configuration applies. Nothing is installed on the other machine; if no containerd answers,
one command of its shell finds out why, because sshd only says `open failed`.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from pyctrd.containerd.endpoint import Endpoint
from pyctrd.errors import DaemonUnreachable

# ssh appends 17 characters to the path of its control socket until it listens; a socket's path may have 107.
_LONGEST_FOLDER: Final = 80
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./-]+")
_POLL_SECONDS: Final = 0.02
_END_SECONDS: Final = 2.0
# How long ssh may take to notice that a connection has ended, and the other machine to answer one command.
_NOTICE_SECONDS: Final = 1.0
_ASK_SECONDS: Final = 10.0
_MOST_LINES: Final = 20

# Replaces the shell by ssh, which so keeps the shell's process id. A second process reads stdin: a line means
# that ssh has ended; the end of the file means that pyctrd has, however it was killed, so it ends ssh and
# removes the folder. Ctrl-C must not end ssh first: the lease on the other side has to be deleted through it.
_SCRIPT: Final = """\
folder=$1
shift
trap '' INT QUIT HUP
exec 3<&0 </dev/null
{ read -r line <&3 || { kill -TERM $$; rm -rf -- "$folder"; }; } >/dev/null 2>&1 &
exec "$@" 3<&-
"""

# Lines of ssh that are not the reason why it failed.
_NOISE: Final = ("warning:", "** warning", "** this session", "** the server", "debug")
_ADVICE: Final = (
    ("host key verification failed", "connect once with `{ssh}` and check the host's key"),
    ("permission denied", "check that `{ssh}` logs in; without a terminal it needs a key or an agent"),
    ("could not resolve hostname", "check the host's name; `{ssh}` has to work"),
    (
        "could not request local forwarding",
        "a LocalForward in ssh's configuration of this host may be in use",
    ),
    ("connection refused", "check the host and the port: no ssh server listens there"),
    ("bad configuration option", "ssh is too old, or its configuration is broken"),
)


class Tunnel:
    """A running ssh that forwards the socket. Implements address.Place."""

    def __init__(self, endpoint: Endpoint, folder: Path) -> None:
        self._endpoint = endpoint
        self._control = folder / "c"
        self.name = endpoint.name
        self.path = str(folder / "s")
        self._lines: deque[str] = deque(maxlen=_MOST_LINES)
        program = shutil.which("ssh")
        if program is None:
            raise self._failed("ssh: command not found", "install OpenSSH's client")
        self._program = program
        shell = ["/bin/sh", "-c", _SCRIPT, "pyctrd-ssh", str(folder), *self._command()]
        self._process = subprocess.Popen(
            shell, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert self._process.stderr is not None
        self._reader = threading.Thread(
            target=self._read, args=(self._process.stderr,), name="pyctrd-ssh", daemon=True
        )
        self._reader.start()

    def _command(self) -> Sequence[str]:
        options = {
            "ControlMaster": "yes",  # its own, so that it ends with this call
            "ControlPath": str(self._control),
            "ControlPersist": "no",
            "ExitOnForwardFailure": "yes",
            "LogLevel": "INFO",
            "BatchMode": "no" if _has_terminal() else "yes",
        }
        forward = f"{self.path}:{self._endpoint.path}"
        return [
            self._program,
            "-N",
            "-T",
            *_options(options),
            *self._login(),
            "-L",
            forward,
            "--",
            self._host,
        ]

    def _login(self) -> Iterator[str]:
        if self._endpoint.user:
            yield from ("-l", self._endpoint.user)
        if self._endpoint.port:
            yield from ("-p", self._endpoint.port)

    @property
    def _host(self) -> str:
        return self._endpoint.host

    def _read(self, stderr: IO[bytes]) -> None:
        """Keep the last lines; the pipe must not fill up."""
        with stderr:
            for line in stderr:
                text = line.decode(errors="replace").strip()
                if text and not text.lower().startswith(_NOISE):
                    self._lines.append(text[:500])

    # --- begin and end

    def wait(self, check: Callable[[], None]) -> None:
        """Wait until ssh has logged in. Raises DaemonUnreachable with ssh's error, and the error of `check`.

        The user may have to type a password, so there is no time limit besides those of ssh.
        """
        while not self._control.exists():  # ssh creates it when it listens on the forwarded socket
            check()
            if self._process.poll() is not None:
                raise self.unreachable("")
            time.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """End ssh."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdin is not None
        with suppress(OSError):  # the second process has ended already
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
        with suppress(OSError):
            self._process.stdin.close()
        self._reader.join(_END_SECONDS)

    # --- errors

    def check(self) -> None:
        """Do nothing: `wait` has checked that ssh listens on the socket."""

    def unreachable(self, detail: str) -> DaemonUnreachable:
        """Find out why no containerd answers: ssh has ended, or sshd has not forwarded the connection."""
        self._try()
        deadline = time.monotonic() + _NOTICE_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None and not self._refused():
            time.sleep(_POLL_SECONDS)
        if self._process.poll() is not None:
            self._reader.join(_NOTICE_SECONDS)
            return self._ended()
        if self._refused():
            return self._failed(*self._explained(self._refused()))
        return self._failed(
            detail.replace(self.path, self._endpoint.path) or "it does not answer as containerd does",
            "if it was just restarted, try again; otherwise see its log (journalctl -u containerd)",
        )

    def silent(self, seconds: float | None = None) -> DaemonUnreachable:
        """Return the error for a connection on which nothing arrives any more."""
        how_long = f" for {seconds:g} seconds" if seconds else ""
        return self._failed(
            f"it has not answered{how_long}",
            "the connection may be broken, or containerd there stopped: run the same command again to resume",
        )

    def _ended(self) -> DaemonUnreachable:
        lines = list(self._lines)
        text = lines[-1] if lines else f"ssh ended with exit code {self._process.returncode}"
        if text.lower().startswith("could not request local forwarding") and len(lines) > 1:
            text = f"{lines[-2]}: {text}"
        for phrase, advice in _ADVICE:
            if phrase in text.lower():
                return self._failed(text, advice.format(ssh=self._by_hand()))
        return self._failed(text, f"check that `{self._by_hand()}` works, and run the same command again")

    def _refused(self) -> str:
        """Return sshd's message for a connection that it did not forward, or an empty string."""
        return next((line for line in reversed(self._lines) if "open failed" in line), "")

    def _try(self) -> None:
        """Open one more connection, about which ssh prints a message if sshd refuses it."""
        with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_NOTICE_SECONDS)
            client.connect(self.path)
            client.recv(1)

    def _explained(self, message: str) -> tuple[str, str]:
        """Return the problem, and what to do: ask the other machine, if it runs commands."""
        path = self._endpoint.path
        found = self._ask(
            f"test -e {path} && echo exists; test -w {path} && echo writable; "
            f"grep -F {path} /proc/net/unix && echo listening; echo asked"
        )
        message = message.partition(": ")[2] or message
        if "asked" not in found:
            hint = f"there may be no containerd at {path}, no permission to use it, or an ssh server that "
            return message, f"{hint}does not forward sockets (AllowStreamLocalForwarding)"
        if "exists" not in found:
            return (
                f"{path}: no such file or directory ({message})",
                "start containerd there, or add the path of its socket to the address",
            )
        if "writable" not in found:
            return (
                f"{path}: permission denied ({message})",
                f"log in as a user who may use it: ssh://root@{self._host}",
            )
        if "listening" not in found:
            return (
                f"{path}: connection refused: nothing is listening on the socket ({message})",
                "start containerd there (systemctl start containerd)",
            )
        return (
            f"the ssh server does not forward {path} ({message})",
            "its configuration has to allow it: AllowStreamLocalForwarding, and no DisableForwarding",
        )

    def _ask(self, command: str) -> Sequence[str]:
        """Return the words that a command of the other machine's shell prints; nothing if it cannot run."""
        options = {"ControlPath": str(self._control), "ControlMaster": "no", "BatchMode": "yes"}
        words = [
            self._program,
            "-T",
            *_options({**options, "RemoteCommand": "none"}),
            "--",
            self._host,
            command,
        ]
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASK_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return ()
        return done.stdout.decode(errors="replace").split()

    def _by_hand(self) -> str:
        port = ["-p", self._endpoint.port] if self._endpoint.port else []
        return " ".join(["ssh", *port, self._endpoint.login])

    def _failed(self, problem: str, hint: str) -> DaemonUnreachable:
        return DaemonUnreachable(f"cannot reach containerd at {self.name}: {problem}", hint=hint)


@contextmanager
def forwarded(endpoint: Endpoint, check: Callable[[], None]) -> Iterator[Tunnel]:
    """Forward the socket of a containerd on another machine while the context is open.

    `check` is called while ssh connects and raises an error to stop. Raises DaemonUnreachable, with ssh's
    message. No process and no file is left behind, even if this process is killed.
    """
    folder = _private_folder()
    try:
        tunnel = Tunnel(endpoint, folder)
        try:
            tunnel.wait(check)
            yield tunnel
        finally:
            tunnel.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _private_folder() -> Path:
    """Create a folder that only this user may enter, with a path that a socket and ssh can have."""
    base = tempfile.gettempdir()
    if len(base) > _LONGEST_FOLDER - len("/pyctrd-12345678") or not _PLAIN_PATH.fullmatch(base):
        base = "/tmp"  # noqa: S108 - mkdtemp's name is random, and its mode is 0700
    return Path(tempfile.mkdtemp(prefix="pyctrd-", dir=base))


def _options(options: dict[str, str]) -> Iterator[str]:
    for name, value in options.items():
        yield from ("-o", f"{name}={value}")


def _has_terminal() -> bool:
    """Whether ssh can ask for a password or about a host's key; it uses the terminal itself."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))
