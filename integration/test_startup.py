"""The modules that commands load on a real containerd: nothing that they do not need."""

from __future__ import annotations

import pytest

from integration.rig import publish
from integration.rig.daemons import Containerd, Registry
from tests.support import shapes
from tests.support.startup import costly, loaded, named

pytestmark = pytest.mark.two_generations


def test_commands_load_only_what_they_need(
    containerd: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    name = publish.push(shapes.five_platform(), registry, repository)
    scope = ("-a", str(containerd.address), "-n", namespace)

    pulling = loaded(*scope, "pull", "-q", name)
    assert {"pyctrd.registry.resolve", "pyctrd.containerd.leases", "urllib3"} <= pulling
    assert not {"html", "rich", "tenacity", "tomllib", "pyctrd.aio", "pyctrd.services"} & pulling
    assert not named(pulling, "pyctrd.archive", "pyctrd.registry.upload", "pyctrd.registry.listing")

    listing = loaded(*scope, "images")
    assert costly(listing) == []
    services = {module for module in named(listing, "pyctrd.protos.services.") if module.endswith("_pb2")}
    assert {module.rpartition(".")[2] for module in services} <= {
        "containers_pb2",
        "content_pb2",
        "images_pb2",
        "version_pb2",
    }

    diagnosing = loaded(*scope, "diagnose", name)
    # Its forecast of a save takes the plan of one, and `shutil` finds the other tools.
    assert costly(diagnosing, but="pyctrd.archive shutil") == []
    assert not named(diagnosing, "pyctrd.archive.docker_archive", "pyctrd.archive.partial")
