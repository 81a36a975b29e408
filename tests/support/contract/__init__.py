"""The contract of ports.Store, with containerd's behaviour.

The classes run on the in-memory store (tests/test_contract.py) and on real daemons of every generation
(integration/test_contract.py); both have a fixture `store`: an empty namespace. All content is
random, since a daemon's namespaces share content.
"""

from tests.support.contract.content import ContentContract
from tests.support.contract.images import ImageContract
from tests.support.contract.leases import LeaseContract
from tests.support.contract.snapshots import SnapshotContract

__all__ = ["ContentContract", "ImageContract", "LeaseContract", "SnapshotContract"]
