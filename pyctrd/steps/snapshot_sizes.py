"""SnapshotSizes: the disk space of snapshots, each asked for once."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterable, Mapping
from contextvars import copy_context
from typing import Final

from pyctrd.errors import NotFound
from pyctrd.oci.resources import SnapshotUsage
from pyctrd.ports import Store
from pyctrd.steps.gc_nodes import Node
from pyctrd.waiting import until_done

# containerd measures an active snapshot by walking its folder, so several at a time are faster.
_CONCURRENT: Final = 4
_BATCH: Final = 256


class SnapshotSizes:
    """Asks containerd for the disk space of snapshots, several at a time, and remembers them.

    There is no list of sizes in the API of containerd: each snapshot takes a call.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sizes: dict[Node, SnapshotUsage | None] = {}

    def of(self, nodes: Iterable[Node]) -> Mapping[Node, int]:
        """Return the bytes of snapshots, without their parents; 0 for one that was removed meanwhile.

        Raises DaemonError.
        """
        return {node: usage.bytes if usage else 0 for node, usage in self.usage_of(nodes).items()}

    def usage_of(self, nodes: Iterable[Node]) -> Mapping[Node, SnapshotUsage | None]:
        """Return the disk space of snapshots, without their parents; None for one that was removed meanwhile.

        Raises DaemonError.
        """
        wanted = list(dict.fromkeys(nodes))
        new = [node for node in wanted if node not in self._sizes]
        if len(new) == 1:
            self._sizes[new[0]] = self._ask(new[0])
        elif new:
            self._ask_all(new)
        return {node: self._sizes[node] for node in wanted}

    def _ask_all(self, nodes: list[Node]) -> None:
        with concurrent.futures.ThreadPoolExecutor(_CONCURRENT, thread_name_prefix="pyctrd-usage") as pool:
            for start in range(0, len(nodes), _BATCH):
                self._store.check_open()
                some = nodes[start : start + _BATCH]
                batch = {node: pool.submit(copy_context().run, self._ask, node) for node in some}
                try:
                    until_done(batch.values())
                finally:
                    for future in batch.values():
                        future.cancel()
                self._sizes.update((node, future.result()) for node, future in batch.items())

    def _ask(self, node: Node) -> SnapshotUsage | None:
        try:
            return self._store.snapshots.usage(node.snapshotter, node.name)
        except NotFound:
            return None
