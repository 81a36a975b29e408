"""The place of a cell: a namespace of its own, an image in a registry, a proxy that logs requests."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from integration.matrix.images import ELSEWHERE, IMAGES
from integration.rig import peers
from integration.rig.daemons import Containerd, LoggingProxy, Registry, Request
from integration.rig.publish import push, write_layout
from tests.support.images import INDEX_TYPES, MANIFEST_TYPES, Graph, digest_of, to_json

TAG = "1"
VALIDATION = "\nvalidation:\n  manifests:\n    urls:\n      allow:\n        - ^http\n"
"""Configuration with which docker-registry accepts manifests with URLs."""


@dataclass
class Site:
    """Where cells are run; a cell that changes something has a site of its own.

    The proxy is the site's own, so its log has only this site's requests, and closing it simulates a machine
    without network. `image` names one of IMAGES; it is in `repository` already, or pushed if that is "".
    """

    daemon: Containerd
    registry: Registry
    proxy: LoggingProxy
    folder: Path
    image: str
    repository: str = ""
    namespace: str = field(default_factory=lambda: f"cell-{uuid.uuid4().hex[:12]}")

    def __post_init__(self) -> None:
        self.proxy.serve(int(self.registry.direct_host.rpartition(":")[2]))
        self.graph = IMAGES[self.image](f"http://{self.host}")
        for digest in self.graph.blobs:
            self.proxy.add_route(f"{ELSEWHERE}{digest}", self._serve(digest))
        if not self.repository:
            self.repository = f"matrix/{self.namespace}"
            push(self.graph, self.registry, self.repository, TAG)

    def _serve(self, digest: str) -> Any:
        body = self.graph.blobs[digest]
        return lambda _query, _headers, _body: (200, {"Content-Type": "application/octet-stream"}, body)

    @property
    def host(self) -> str:
        """The registry as this cell's image names it."""
        return f"127.0.0.1:{self.proxy.port}"

    @property
    def name(self) -> str:
        """The image's name in containerd."""
        return f"{self.host}/{self.repository}:{TAG}"

    def ctr(self, generation: str, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
        """Run ctr of a generation against this daemon, in this namespace."""
        return self.run([peers.containerd(generation).ctr, *self.where, *arguments])

    def nerdctl(self, version: str, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
        """Run nerdctl of a release against this daemon, in this namespace."""
        own: list[str | Path] = ["--data-root", self.folder / "nerdctl", "--insecure-registry"]
        return self.run([peers.nerdctl(version), *self.where, *own, *arguments])

    def run(self, command: list[str | Path]) -> subprocess.CompletedProcess[bytes]:
        """Run a program to its end."""
        env = {**self._environment, "DOCKER_CONFIG": str(self.folder / "no-docker-config")}
        return subprocess.run(command, capture_output=True, env=env, timeout=100, check=False)

    @cached_property
    def _environment(self) -> Mapping[str, str]:
        return peers.tool_environment(self.daemon.peer.bin_dir)

    @property
    def where(self) -> list[str | Path]:
        """The flags of ctr and nerdctl for the daemon and the namespace."""
        return ["--address", self.daemon.address, "--namespace", self.namespace]

    def layout_archive(self) -> Path:
        """A tar of the whole image as an OCI layout, under this cell's name."""
        named = self.graph.described_as(annotations={"io.containerd.image.name": self.name})
        layout = write_layout(named, self.folder / "layout")
        archive = self.folder / "layout.tar"
        with tarfile.open(archive, "w") as tar:
            for entry in sorted(layout.iterdir()):
                tar.add(entry, entry.name)
        return archive

    # --- changes of network and tag before a tool runs; repeating them has no effect

    def cut_network(self) -> None:
        """Refuse connections to the registry from now on."""
        self.proxy.close()

    def remove_tag(self) -> None:
        """Remove the tag; the manifests stay in the registry, as in any registry."""
        place = self.registry.root / "data/docker/registry/v2/repositories" / self.repository
        shutil.rmtree(place / "_manifests/tags" / TAG, ignore_errors=True)

    def move_tag(self) -> None:
        """Push another image of the same shape to the tag: every document and layer of it differs."""
        push(self.moved, self.registry, self.repository, TAG)

    @cached_property
    def moved(self) -> Graph:
        """The image that the tag is moved to."""
        return _remade(self.graph)

    # --- results

    def requests(self) -> list[Request]:
        """The requests since the last `forget_requests`."""
        return self.proxy.requests()

    def forget_requests(self) -> None:
        """Clear the log before the tool runs."""
        self.proxy.clear_requests()

    def have(self) -> frozenset[str]:
        """The digests that this namespace has now."""
        listed = self.daemon.ctr("content", "ls", "-q", namespace=self.namespace)
        return frozenset(listed.stdout.decode().split())

    def target(self) -> str:
        """The digest that the image's record points at now."""
        listed = self.daemon.ctr("images", "ls", f"name=={self.name}", namespace=self.namespace)
        _, row = listed.stdout.decode().splitlines()
        return row.split()[2]


def apply_circumstance(circumstance: str, site: Site) -> None:
    """Change network and tag between the pull and the save."""
    if circumstance == "no network":
        site.cut_network()
    elif circumstance == "tag gone":
        site.remove_tag()
    elif circumstance == "tag moved":
        site.move_tag()


def _remade(graph: Graph) -> Graph:
    """The same image with other configs and layers; the layers are not valid archives any more.

    That does not matter, since saving does not read layers.
    """
    blobs: dict[str, bytes] = {}
    root = _remade_below(graph, graph.root, blobs)
    return Graph(root, blobs)


def _remade_below(graph: Graph, descriptor: dict[str, Any], blobs: dict[str, bytes]) -> dict[str, Any]:
    data = graph.blobs[descriptor["digest"]]
    if descriptor["mediaType"] in (*MANIFEST_TYPES, *INDEX_TYPES):
        document = json.loads(data)
        for key in ("manifests", "layers"):
            if key in document:
                document[key] = [_remade_below(graph, item, blobs) for item in document[key]]
        if "config" in document:
            document["config"] = _remade_below(graph, document["config"], blobs)
        data = to_json(document)
    elif "config" in descriptor["mediaType"] or "container.image" in descriptor["mediaType"]:
        data = to_json({**json.loads(data), "created": "1970-01-02T00:00:00Z"})
    else:
        data = b"moved " + data
    made = {**descriptor, "digest": digest_of(data), "size": len(data)}
    blobs[made["digest"]] = data
    return made
