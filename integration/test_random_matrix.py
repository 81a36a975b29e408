"""Random images, missing content and names: predictions of diagnose compared with the real tools.

`scripts/mismatch-report --random N --seed S` searches for errors; those found are repeated here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from integration.conftest import chosen, peer_required
from integration.matrix.hand_made import ARM64, GAPS, NAMES, named, with_gaps
from integration.matrix.random_run import RandomMatrix, run, told
from integration.matrix.seeds import FOUND, Found
from integration.rig.peers import NEWEST

FORECASTS = 20


@pytest.fixture(scope="module")
def matrix_on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], RandomMatrix]]:
    """Return the matrix of a containerd, started on first use."""
    started: dict[str, RandomMatrix] = {}
    with ExitStack() as stack:

        def matrix(generation: str) -> RandomMatrix:
            if generation not in started:
                folder = tmp_path_factory.mktemp(f"random-{generation}")
                with peer_required():
                    started[generation] = stack.enter_context(RandomMatrix(generation, folder))
            return started[generation]

        yield matrix


@pytest.mark.parametrize("found", [one for one in FOUND if one.on in chosen()], ids=str)
def test_forecasts_that_were_wrong_once(matrix_on: Callable[[str], RandomMatrix], found: Found) -> None:
    matrix = matrix_on(found.on)
    with peer_required():
        results = list(matrix.results(matrix.case(found.seed)))
    assert not told(results)


on_the_newest = pytest.mark.skipif(NEWEST not in chosen(), reason="PYCTRD_GENERATIONS leaves the newest out")


@on_the_newest
@pytest.mark.parametrize("ask", [(), (ARM64,), ("all",)], ids=["host", "arm64", "all"])
@pytest.mark.parametrize("what", GAPS)
def test_common_cases_of_missing_content(
    matrix_on: Callable[[str], RandomMatrix], what: str, ask: tuple[str, ...]
) -> None:
    matrix = matrix_on(NEWEST)
    with peer_required():
        results = list(matrix.results(with_gaps(what, ask, matrix.port)))
    assert not told(results)


@on_the_newest
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "with a gap"])
@pytest.mark.parametrize("how", NAMES)
def test_common_names(matrix_on: Callable[[str], RandomMatrix], how: str, whole: bool) -> None:
    matrix = matrix_on(NEWEST)
    with peer_required():
        results = list(matrix.results(named(how, whole, matrix.port)))
    assert not told(results)


def test_random_images_are_predicted(generation: str, tmp_path: Path) -> None:
    with peer_required():
        results = run(FORECASTS, "ci", [generation], tmp_path)
    assert len(results) >= FORECASTS
    assert not told(results)
