"""Diagnoses as HTML."""

from __future__ import annotations

from typing import Final
from xml.etree import ElementTree

import msgspec

from pyctrd.errors import ContentError
from pyctrd.operations.diagnose import Diagnosis, DiagnosisSummary
from tests.operations.diagnose.test_rows import look
from tests.operations.diagnose.world import World

HOSTILE: Final = "registry.example/<script>alert('1')</script>&\"x"
TAGS: Final = frozenset({"div", "p", "code", "b", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"})


def parsed(html: str) -> ElementTree.Element:
    """Parse what has to be well-formed, and has no tags but ours."""
    tree = ElementTree.fromstring(f"<div>{html}</div>")
    assert {element.tag for element in tree.iter()} <= TAGS
    return tree


def cells(tree: ElementTree.Element) -> list[str]:
    return ["".join(cell.itertext()) for cell in tree.iter("td")]


def found() -> Diagnosis:
    """An image whose target platform lacks a layer, and whose other platform has no manifest."""
    world = World()
    host, foreign = world.manifest("linux/amd64", ["a", "b"]), world.manifest("linux/arm64", ["c"])
    target = world.index(host, foreign)
    world.remove(world.below(host)[1][0], foreign)
    return look(world, target)


def test_an_image_has_a_row_for_each_platform() -> None:
    diagnosis = found()
    tree = parsed(diagnosis._repr_html_())
    size = diagnosis.missing[0].size
    rest = diagnosis.platforms[1].missing_bytes
    assert cells(tree) == [
        *("linux/amd64", "incomplete", f"{size} B", "selected"),
        *("linux/arm64", "incomplete", f"at least {rest} B", ""),
    ]
    assert "".join(tree.find("p").itertext()).endswith(f"incomplete, lacks {size} B")  # type: ignore[union-attr]
    assert [item.text for item in tree.iter("li")] == [cause.text for cause in diagnosis.causes]


def test_a_complete_image() -> None:
    world = World()
    tree = parsed(look(world, world.index(world.manifest("linux/amd64", ["a"])))._repr_html_())
    assert cells(tree) == ["linux/amd64", "complete", "-", "selected"]
    assert not list(tree.iter("ul"))


def test_names_and_texts_are_escaped() -> None:
    diagnosis = found()
    cause = msgspec.structs.replace(diagnosis.causes[0], text=HOSTILE)
    hostile = msgspec.structs.replace(diagnosis, image=HOSTILE, causes=(cause,))
    tree = parsed(hostile._repr_html_())
    assert [element.text for element in (*tree.iter("code"), *tree.iter("li"))] == [HOSTILE, HOSTILE]


def test_one_of_many_is_a_row() -> None:
    diagnosis = found()
    summary = DiagnosisSummary(
        image=HOSTILE,
        namespace="default",
        target=diagnosis.target,
        complete=False,
        missing_bytes=2048,
        cause=diagnosis.causes[0],
    )
    assert cells(parsed(summary._repr_html_())) == [
        HOSTILE,
        "incomplete",
        "2.0 KiB",
        diagnosis.causes[0].text,
    ]
    broken = msgspec.structs.replace(summary, error=ContentError("not a manifest"), missing_known=False)
    assert cells(parsed(broken._repr_html_()))[2:] == ["at least 2.0 KiB", "not a manifest"]
    complete = msgspec.structs.replace(summary, complete=True, cause=None)
    assert cells(parsed(complete._repr_html_()))[1:] == ["complete", "-", ""]
