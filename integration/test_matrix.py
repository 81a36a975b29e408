"""The matrix with the real tools: diagnose must have foretold each result before the tool ran."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration.conftest import _chosen, peer_required
from integration.matrix.cells import Cell, cells
from integration.matrix.runner import Workshop

CELLS = [cell for cell in cells() if cell.row.daemon in _chosen()]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    with peer_required(), Workshop(tmp_path_factory.mktemp("matrix")) as made:
        yield made


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_tool_does_as_foretold(workshop: Workshop, cell: Cell) -> None:
    with peer_required():
        result = workshop.result(cell)
    assert result.wrong == (), result.outcome.words[-2000:]
