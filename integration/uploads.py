"""Helpers for tests of push and copy: what a registry has stored, and what was sent to it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from integration.conftest import run_required
from integration.rig import peers
from integration.rig.proxy import Request
from integration.rig.registry import Registry

MIB = 1 << 20

# For tests of what a registry does, any one generation of containerd will do.
newest = pytest.mark.parametrize("generation", [peers.NEWEST], indirect=True)


@contextmanager
def running(registry: Registry) -> Iterator[Registry]:
    """Run a registry for one test; skip the test if it is unavailable."""
    with run_required(lambda: registry):
        yield registry


class Stored(NamedTuple):
    """A repository as docker-registry keeps it on disk: digests of its blobs and manifests, and its tags."""

    blobs: frozenset[str]
    manifests: frozenset[str]
    tags: dict[str, str]


def stored(registry: Registry, repository: str) -> Stored:
    """Read a repository from the registry's own folder."""
    folder = registry.root / "data/docker/registry/v2/repositories" / repository
    links = {
        kind: frozenset(f"sha256:{path.parent.name}" for path in (folder / place).glob("sha256/*/link"))
        for kind, place in (("blobs", "_layers"), ("manifests", "_manifests/revisions"))
    }
    tags = {
        path.parent.parent.name: path.read_text().strip()
        for path in (folder / "_manifests/tags").glob("*/current/link")
    }
    return Stored(links["blobs"], links["manifests"], tags)


def open_uploads(registry: Registry, repository: str) -> list[str]:
    """List the uploads that were neither finished nor cancelled.

    For a cancelled upload, docker-registry 2.8 removes the data, but leaves the directory.
    """
    folder = registry.root / "data/docker/registry/v2/repositories" / repository / "_uploads"
    return sorted(path.parent.name for path in folder.glob("*/data"))


def sent(registry: Registry) -> list[Request]:
    """List the requests that write."""
    return [one for one in registry.requests() if one.method not in ("GET", "HEAD")]


def methods(requests: Sequence[Request]) -> set[str]:
    return {one.method for one in requests}


def run(name: str, *arguments: str | Path, env: dict[str, str] | None = None) -> bytes:
    """Run a tool of the rig; return its stdout, or raise AssertionError with its output."""
    command = [peers.tool(name), *arguments]
    done = subprocess.run(
        command, capture_output=True, check=False, timeout=120, env={**os.environ, **(env or {})}
    )
    assert done.returncode == 0, f"{name} {arguments}: {done.stderr.decode(errors='replace')}"
    return done.stdout


def layout_blobs(folder: Path) -> dict[str, bytes]:
    """Read all blobs of an OCI image layout."""
    return {f"sha256:{path.name}": path.read_bytes() for path in (folder / "blobs/sha256").iterdir()}
