"""A fake daemon on a unix socket, and a client of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyctrd.containerd import Daemon
from tests.containerd.fake import FakeDaemon, serve


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A directory with a short path, since that of a unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="pyctrd-") as folder:
        yield Path(folder)


@pytest.fixture
def fake(sockets: Path) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon()
    server = serve(sockets / "containerd.sock", daemon)
    try:
        yield daemon
    finally:
        server.stop(grace=None).wait()


@pytest.fixture
def client(fake: FakeDaemon, sockets: Path) -> Iterator[Daemon]:
    with Daemon.connect(str(sockets / "containerd.sock"), "testing", environ={}) as daemon:
        fake.calls.clear()
        fake.headers.clear()
        yield daemon
