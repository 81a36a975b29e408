"""The matrix with the real tools: diagnose must have predicted each result before the tool ran."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration.conftest import chosen, peer_required
from integration.matrix.cells import ROWS, Row, cells_of
from integration.matrix.runner import Workshop


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    with peer_required(), Workshop(tmp_path_factory.mktemp("matrix")) as made:
        yield made


@pytest.mark.parametrize("row", [row for row in ROWS if row.daemon in chosen()], ids=str)
def test_every_tool_ends_as_predicted(workshop: Workshop, row: Row) -> None:
    with peer_required():
        results = workshop.results(row)
    assert [result.cell for result in results] == cells_of(row)
    assert {result.cell.tool.name: result.wrong for result in results if result.wrong} == {}


def test_the_matrix_is_large_enough() -> None:
    assert len({cell for row in ROWS for cell in cells_of(row)}) >= 120
