"""The predicted result of a collection, compared with what containerd's collector really removes."""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter
from pathlib import Path

import grpc
import pytest

from integration import figures
from integration.conftest import run_required
from integration.graphs import PATIENT, Builder
from integration.rig.daemons import Containerd
from pyctrd.containerd import Daemon
from pyctrd.steps.gc_nodes import Node
from pyctrd.steps.removal import Removal, RemoveResult, read_graph
from tests.support.references import References

# So many graphs are built in one containerd, each in its own namespace, before the collection.
_BATCH = 25


class Case:
    """A graph, what is removed from it, and the prediction."""

    def __init__(self, daemon: Daemon, channel: grpc.Channel, made: References) -> None:
        Builder(daemon, channel).build(made.state)
        self._daemon = daemon
        self.removed = made.to_remove()
        self.before = read_graph(daemon, dt.datetime.now(dt.UTC))
        self._removal = Removal(daemon, self.before)
        self._predicted = self._removal.going(self.removed)

    def remove(self, *, sync: bool) -> RemoveResult:
        """Delete what is to be removed; with `sync`, the result is what is gone by then."""
        return self._removal.carry_out(self.removed, sync=sync)

    def check(self) -> frozenset[Node]:
        """Compare what is gone with the prediction, and what stays with the chains of references."""
        after = frozenset(read_graph(self._daemon, dt.datetime.now(dt.UTC)))
        gone = frozenset(self.before) - after
        left = self.before.without(self.removed)
        assert after <= frozenset(self.before)
        assert {node: left.chains(node) for node in self._predicted - gone} == {}, "it stayed"
        assert {node: left.chains(node) for node in gone - self._predicted} == {}, "it is gone"
        assert {node for node in left if not left.chains(node)} == gone - self.removed
        return gone

    def measured(self, nodes: frozenset[Node]) -> RemoveResult:
        """Return objects as a result."""
        return self._removal.measure(nodes)


@pytest.mark.timeout(1800)
@pytest.mark.every_generation
def test_the_prediction_is_what_the_collector_removes(
    generation: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Random graphs: no difference, and whatever stays has a chain of references."""
    count = figures.runs(_BATCH)
    rng = random.Random(f"{figures.seed()} {generation}")
    totals = Counter[str]()
    while totals["graphs"] < count:
        folder = tmp_path_factory.mktemp("patient")
        totals += _batch(generation, folder, rng, min(_BATCH, count - totals["graphs"]))
    assert totals["collected"] > totals["graphs"]
    figures.record(
        "decisions of the collector",
        generation,
        **{name: totals[name] for name in ("graphs", "objects", "deleted", "collected")},
        lost=0,
        left_over=0,
    )


def _batch(generation: str, folder: Path, rng: random.Random, count: int) -> Counter[str]:
    totals = Counter[str]()
    with (
        run_required(lambda: Containerd(generation, folder, config=PATIENT)) as containerd,
        grpc.insecure_channel(f"unix:{containerd.address}") as channel,
        Daemon.connect(str(containerd.address)) as daemon,
    ):
        now = dt.datetime.now(dt.UTC)
        cases = []
        for number in range(count):
            namespace = f"graph-{number}"
            made = References(rng, namespace, now, image_leases=not containerd.is_1)
            cases.append(Case(daemon.in_namespace(namespace), channel, made))
        result = cases[0].remove(sync=True)
        assert result == cases[0].measured(cases[0].check())
        for case in cases[1:]:
            case.remove(sync=False)
        daemon.collect_garbage()
        for case in cases:
            gone = case.check()
            totals += Counter(
                graphs=1,
                objects=len(tuple(case.before)),
                deleted=len(case.removed),
                collected=len(gone - case.removed),
            )
    return totals
