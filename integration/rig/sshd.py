"""A real sshd on 127.0.0.1, and the ssh with which it is reached."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from integration.rig import peers
from integration.rig.debs import closure, run, through_loader
from integration.rig.process import Process, ending, free_port, remove_folder, tcp_answers

START_SECONDS = 20.0
OTHER_USER = "deploy"
"""A user without any rights who may log in."""
_OTHER_UID = 4321
# sshd needs a user of its own for privilege separation, and an empty folder that belongs to root.
_USERS = f"""\
sshd:x:4320:65534::/run/sshd:/usr/sbin/nologin
{OTHER_USER}:*:{_OTHER_UID}:65534::/:/bin/sh
"""
_SERVER = """\
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
StrictModes no
UsePAM no
PidFile none
LogLevel VERBOSE
{extra}
"""
_CLIENT = """\
Host *
  IdentityFile {folder}/user
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known
  GlobalKnownHostsFile none
"""
# In a mount namespace of its own, so that the machine has neither its users nor its folder.
_START = """\
mount --make-rprivate / && mount --bind "$1/passwd" /etc/passwd && mount -t tmpfs none /run &&
mkdir -m 755 /run/sshd && exec "$2" -D -e -f "$1/sshd_config"
"""


class Sshd:
    """A running sshd that lets root in, and OTHER_USER; a context manager.

    `config` is appended to its configuration. `bin_dir` has an `ssh` that knows the key of this host and the
    user's key; tests put it in front of PATH, since OpenSSH does not look for its configuration in $HOME.
    """

    def __init__(self, config: str = "") -> None:
        self._extra = config
        self._process: Process | None = None
        self.folder = Path()
        self.port = 0

    def __enter__(self) -> Sshd:
        self.folder = Path(tempfile.mkdtemp(prefix="ps-", dir="/tmp"))
        self.folder.chmod(0o755)  # OTHER_USER reads his key
        try:
            self._prepare()
            self.start()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        return self

    def _prepare(self) -> None:
        root = closure("bookworm", "openssh-server")
        for name in ("host", "user"):
            key = self.folder / name
            run([through_loader(root, "usr/bin/ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", key])
        (self.folder / "authorized").write_text((self.folder / "user.pub").read_text())
        (self.folder / "passwd").write_text(Path("/etc/passwd").read_text() + _USERS)
        self.port = free_port()
        settings = _SERVER.format(port=self.port, folder=self.folder, extra=self._extra)
        (self.folder / "sshd_config").write_text(settings)
        (self.folder / "ssh_config").write_text(_CLIENT.format(folder=self.folder))
        self.know_host(self.port)
        self.bin_dir.mkdir()
        program = self.bin_dir / "ssh"
        ssh = through_loader(root, "usr/bin/ssh")
        program.write_text(f"#!/bin/sh\nexec '{ssh}' -F '{self.folder}/ssh_config' \"$@\"\n")
        program.chmod(0o755)

    def know_host(self, port: int) -> None:
        """Add the host's key for another port, that of a proxy in front of this server."""
        key = (self.folder / "host.pub").read_text()
        with (self.folder / "known").open("a") as known:
            known.write(f"[127.0.0.1]:{port} {key}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        remove_folder(self.folder)

    @property
    def bin_dir(self) -> Path:
        """The folder with `ssh`."""
        return self.folder / "bin"

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server on the same port as before."""
        start = [
            "unshare",
            "--mount",
            "/bin/sh",
            "-c",
            _START,
            "sshd",
            str(self.folder),
            str(peers.tool("sshd")),
        ]
        process = Process(start, self.folder / "log")
        with ending(process):
            process.wait_until(lambda: tcp_answers(self.port), START_SECONDS)
        self._process = process

    def stop(self) -> None:
        """End the server with all its connections."""
        if self._process:
            self._process.stop()

    def kill_sessions(self) -> None:
        """Kill what serves the connections, and keep the server: so a connection is lost."""
        assert self._process
        for pid in _children(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def clients(self) -> Sequence[int]:
        """Return the ids of the processes of ssh, and of their helpers, that use this server's files."""
        return [pid for pid in _processes(str(self.folder).encode()) if b"sshd_config" not in _words(pid)]

    def kill_clients(self) -> None:
        """Kill ssh, as a user or the OOM killer may; not its helpers, which have to notice."""
        for pid in [pid for pid in self.clients() if b"pyctrd-ssh" not in _words(pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _processes(word: bytes) -> Sequence[int]:
    found = [int(place.name) for place in Path("/proc").glob("[0-9]*")]
    return [pid for pid in found if word in _words(pid)]


def _children(parent: int) -> Sequence[int]:
    """Return the ids of all descendants of a process."""
    places = Path(f"/proc/{parent}/task").glob("*/children")
    found = [int(pid) for place in places for pid in place.read_text().split()]
    return [*found, *(pid for child in found for pid in _children(child))]


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
