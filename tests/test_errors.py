"""Error messages have a maximum length, whatever a registry or an image contains."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from pyctrd.errors import MAX_TEXT, InvalidReference, PyctrdError
from pyctrd.oci import platforms
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Digest, ImageRecord, Platform
from pyctrd.operations import save
from pyctrd.operations.save import SaveOptions
from pyctrd.ports import Fetcher
from tests.support import shapes
from tests.support.images import Graph, index
from tests.support.memory import MemoryStore
from tests.support.selections import selected

NAME = "registry.example/team/app:1"
LONG = "x" * 1_000_000


def test_short_texts_are_unchanged() -> None:
    error = PyctrdError("m" * MAX_TEXT, hint="h" * MAX_TEXT)
    assert (error.message, error.hint) == ("m" * MAX_TEXT, "h" * MAX_TEXT)


def test_long_texts_keep_both_ends() -> None:
    error = PyctrdError(f"begin {LONG} end", hint=f"begin {LONG} end")
    for text in (error.message, error.hint or "", str(error)):
        assert len(text) <= MAX_TEXT
        assert text.startswith("begin ")
        assert text.endswith(" end")
        assert "characters left out" in text


def listed(platform: dict[str, str]) -> Graph:
    return index([shapes.single().described_as(platform=platform)])


IMAGES: dict[str, Callable[[], Graph]] = {
    "platform": lambda: listed({"os": "linux", "architecture": LONG}),
    "many platforms": lambda: shapes.many_manifests(2000),
    "media type": lambda: shapes.single().described_as(mediaType=LONG),
}


@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize("selection", ["linux/s390x", "all"])
def test_errors_about_images_with_long_names_are_short(shape: str, selection: str) -> None:
    graph = IMAGES[shape]()
    store = MemoryStore()
    store.put({digest: data for digest, data in graph.blobs.items() if b'"schemaVersion"' in data})
    record = store.tag(NAME, graph.root)

    def no_fetchers(_image: ImageRecord) -> list[Fetcher]:
        return []

    options = SaveOptions(platforms=selected(selection), ensure="none")
    with pytest.raises(PyctrdError) as caught:
        save.save(store, [record], options, io.BytesIO(), fetchers=no_fetchers)
    assert len(caught.value.message) <= MAX_TEXT
    assert len(caught.value.hint or "") <= MAX_TEXT
    if shape == "many platforms" and selection == "all":
        assert isinstance(caught.value, IncompleteContent)
        assert "more platforms" in caught.value.message
        assert caught.value.remedy
        assert caught.value.remedy.all_platforms
    if shape == "many platforms" and selection == "linux/s390x":
        assert (
            caught.value.hint
            == "it has "
            + ", ".join(["linux/amd64", *(f"linux/x{number}" for number in range(7))])
            + " and 1993 more"
        )


def test_an_invalid_digest_is_shortened() -> None:
    with pytest.raises(InvalidReference) as caught:
        Digest(LONG)
    assert len(str(caught.value)) <= MAX_TEXT


def test_platforms_are_found_in_other_spellings() -> None:
    wanted = selected("linux/amd64,linux/arm64").platforms
    assert platforms.uncovered(wanted, [Platform(os="linux", architecture="arm64", variant="v8")]) == [
        wanted[0]
    ]
    assert platforms.uncovered(wanted, wanted) == []
