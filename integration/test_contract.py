"""Real daemons of every generation behave like the in-memory store of the unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration.rig.containerd import Containerd
from pyctrd.containerd import Daemon
from tests.support import contract

pytestmark = pytest.mark.every_generation


@pytest.fixture
def store(containerd: Containerd, namespace: str) -> Iterator[Daemon]:
    with Daemon.connect(str(containerd.address), namespace, environ={}) as daemon:
        yield daemon


@pytest.fixture(autouse=True)
def _what_1_6_does_not_do(request: pytest.FixtureRequest, generation: str) -> None:
    if generation == "1.6" and "leased_by_preparing" in request.node.name:
        why = "Prepare leases what it finds only from 1.7 on; steps/unpack looks after it at the end"
        request.applymarker(pytest.mark.xfail(reason=why))


class TestContent(contract.ContentContract):
    pass


class TestImages(contract.ImageContract):
    pass


class TestSnapshots(contract.SnapshotContract):
    pass


class TestLeases(contract.LeaseContract):
    pass
