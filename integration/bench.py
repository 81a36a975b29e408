"""A fixture for tests of archives: a namespace that ctr fills and exports, and that pyctrd saves."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from integration.rig.daemons import Containerd, Registry
from integration.rig.publish import push
from pyctrd.client import Client
from pyctrd.containerd import Daemon
from pyctrd.oci.model import ImageRecord
from pyctrd.oci.platforms import select
from pyctrd.operations.save import SaveOptions, SaveResult, plan, save
from pyctrd.ports import Fetcher
from pyctrd.registry import RegistryOptions
from tests.support.images import Graph


def no_fetchers(_image: ImageRecord) -> Sequence[Fetcher]:
    raise AssertionError("nothing is missing, so no registry may be used")


class Bench:
    """A namespace of a real containerd, filled and exported by its own ctr, and saved by pyctrd."""

    def __init__(
        self, containerd: Containerd, registry: Registry, folder: Path, *, namespace: str, repository: str
    ) -> None:
        self.containerd = containerd
        self.registry = registry
        self.folder = folder
        self.namespace = namespace
        self.repository = repository
        self.is_1_6 = containerd.generation == "1.6"
        self.is_old = containerd.is_1
        self._numbers = count()

    def ctr(
        self, *arguments: str | Path, check: bool = True, namespace: str = ""
    ) -> subprocess.CompletedProcess[bytes]:
        return self.containerd.ctr(*arguments, namespace=namespace or self.namespace, check=check)

    def pull(self, graph: Graph, *flags: str, check: bool = True) -> str:
        """Publish a graph, pull it with every platform's metadata, and return the image's name."""
        name = push(graph, self.registry, f"{self.repository}/{next(self._numbers)}")
        metadata = ["--all-metadata"] if self.is_old else []
        self.ctr("images", "pull", "--plain-http", *metadata, *flags, name, check=check)
        return name

    def pull_all(self, graph: Graph) -> str:
        """Pull every platform's content; 1.6 then fails to unpack attestations, but keeps the content."""
        name = push(graph, self.registry, f"{self.repository}/{next(self._numbers)}")
        self.ctr("content", "fetch", "--plain-http", "--all-platforms", name)
        return name

    def export(self, *names: str, platforms: Sequence[str] = ()) -> bytes:
        """Export with ctr, without the transfer service, which may truncate the archive."""
        archive = self.folder / f"ctr-{next(self._numbers)}.tar"
        local = [] if self.is_old else ["--local"]
        self.ctr("images", "export", *local, *_flags(platforms), archive, *names)
        return archive.read_bytes()

    def save(self, *names: str, platforms: Sequence[str] = (), **options: Any) -> bytes:
        """Save with pyctrd, offline."""
        output = io.BytesIO()
        self.save_to(output, *names, platforms=platforms, **options)
        return output.getvalue()

    def save_to(self, output: Any, *names: str, platforms: Sequence[str] = (), **options: Any) -> SaveResult:
        chosen = SaveOptions(platforms=select(platforms), **{"ensure": "none", **options})
        with self.daemon() as daemon:
            records = [daemon.images.get(name) for name in names]
            planned = plan(daemon, records, chosen, fetchers=no_fetchers)
            result = save(daemon, records, chosen, output, fetchers=no_fetchers)
        assert planned.bytes_written == result.bytes_written
        assert planned.fetched == result.fetched == ()
        return result

    def load(self, archive: bytes, *flags: str) -> None:
        """Import with ctr into an empty namespace, which must then be complete."""
        path = self.folder / "load.tar"
        path.write_bytes(archive)
        other = f"{self.namespace}-load{next(self._numbers)}"
        self.ctr("images", "import", *flags, path, namespace=other)
        lines = self.ctr("images", "check", namespace=other).stdout.decode().splitlines()[1:]
        assert lines
        assert all(" complete " in line for line in lines), lines

    def client(self) -> Client:
        return Client(
            address=str(self.containerd.address),
            namespace=self.namespace,
            registry=RegistryOptions(plain_http=True),
        )

    def daemon(self, namespace: str = "") -> Daemon:
        return Daemon.connect(str(self.containerd.address), namespace or self.namespace)


def _flags(values: Sequence[str]) -> list[str]:
    if list(values) == ["all"]:
        return ["--all-platforms"]
    return [word for value in values for word in ("--platform", value)]
