"""A scripted server per test, and a client that does not wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyctrd.oci import reference
from pyctrd.registry import RegistryClient, RegistryOptions
from pyctrd.registry.repository import Repository
from pyctrd.registry.upload import RegistryUploader
from tests.registry.server import Answer, ScriptedServer
from tests.registry.uploads import SESSION, START, ChunkedRegistry, UploaderMaker


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the machine's own logins, proxies and host configuration."""
    monkeypatch.setattr("pyctrd.registry.config.certs_d.SYSTEM_ROOTS", ())
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker-config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "no-runtime"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
    for name in ("DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def checked() -> Iterator[ScriptedServer]:
    """Run a server; the test must use its whole script, and may delete nothing but uploads."""
    with ScriptedServer() as running:
        yield running
    assert running.unused() == {}
    deleted = [one.path for one in running.seen if one.method == "DELETE"]
    assert not [path for path in deleted if "/manifests/" in path or "/blobs/sha256:" in path]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """The registry."""
    with checked() as running:
        yield running


@pytest.fixture
def other() -> Iterator[ScriptedServer]:
    """A second host: a redirect's target, a mirror, a token server."""
    with checked() as running:
        yield running


@pytest.fixture
def pauses() -> list[float]:
    """The seconds that the client wanted to wait."""
    return []


RemoteMaker = Callable[..., Repository]


@pytest.fixture
def remote(server: ScriptedServer, pauses: list[float]) -> Iterator[RemoteMaker]:
    """Make the repository `host/team/app:v1`; keywords are RegistryOptions, `text` another reference."""
    clients: list[RegistryClient] = []

    def make(text: str = "", **options: Any) -> Repository:
        client = RegistryClient(RegistryOptions(**options), sleep=pauses.append)
        clients.append(client)
        return client.remote(reference.parse(text or f"{server.host}/team/app:v1"))

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def registry(server: ScriptedServer) -> ChunkedRegistry:
    found = ChunkedRegistry()
    server.always("POST", START, found.start)
    server.always("PATCH", SESSION, found.patch)
    server.always("GET", SESSION, found.where)
    server.always("PUT", SESSION, found.finish)
    server.always("DELETE", SESSION, Answer(204))
    return found


@pytest.fixture
def uploader(server: ScriptedServer, pauses: list[float]) -> Iterator[UploaderMaker]:
    """Make the uploader of `host/team/app:v1`; keywords are RegistryOptions."""
    clients: list[RegistryClient] = []

    def make(text: str = "", *, chunk_bytes: int = 400_000, **options: Any) -> RegistryUploader:
        client = RegistryClient(RegistryOptions(**options), sleep=pauses.append)
        clients.append(client)
        wanted = reference.parse(text or f"{server.host}/team/app:v1")
        return client.uploader(wanted, chunk_bytes=chunk_bytes)

    yield make
    for client in clients:
        client.close()
