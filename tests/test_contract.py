"""The in-memory store fulfils the contract; integration/test_contract.py tests daemons."""

from __future__ import annotations

import pytest

from tests.support import contract
from tests.support.memory import MemoryStore


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


class TestContent(contract.ContentContract):
    pass


class TestImages(contract.ImageContract):
    pass


class TestSnapshots(contract.SnapshotContract):
    pass


class TestLeases(contract.LeaseContract):
    pass
