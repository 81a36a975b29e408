"""Spans of a pull and a save on a real containerd: one tree, across the threads of the operation."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.rig.daemons import Containerd, Registry
from integration.rig.peers import NEWEST
from integration.rig.publish import push
from pyctrd import Client
from tests.support import shapes
from tests.test_tracing import Traces, attributes

pytestmark = pytest.mark.parametrize("generation", [NEWEST], indirect=True)


def test_operations_are_trees(
    fresh_containerd: Containerd, registry: Registry, repository: str, tmp_path: Path
) -> None:
    name = push(shapes.five_platform(salt=repository), registry, repository)
    traces = Traces()
    with Client(str(fresh_containerd.address), tracer_provider=traces.provider) as client:
        client.version()
        pulled = client.images.pull(name)
        client.images.save(name, tmp_path / "image.tar")
        client.images.remove(name)
    assert [span.name for span in traces.spans() if span.parent is None] == [
        *("client.version", "images.pull", "images.save", "images.remove")
    ]
    pull, save = traces.one("images.pull"), traces.one("images.save")
    assert attributes(pull)["container.image.name"] == name
    requests = [span for span in traces.spans() if span.name in ("GET", "HEAD")]
    # What the registry has seen of this repository.
    assert len(requests) == len([line for line in registry.requests() if repository in line.path])
    assert traces.children(pull).count("GET") + traces.children(pull).count("HEAD") == len(requests)
    sizes = sum(attributes(span)["http.response.body.size"] for span in requests)
    assert sizes == pulled.bytes_fetched
    assert "containerd.services.content.v1.Content/Write" in traces.children(pull)
    assert "containerd.services.diff.v1.Diff/Apply" in traces.children(pull)
    assert "containerd.services.content.v1.Content/Read" in traces.children(save)
