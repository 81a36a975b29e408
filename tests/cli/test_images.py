"""The list of images in each format."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from pyctrd.oci.mediatypes import OCI_INDEX
from pyctrd.oci.model import Descriptor, Digest, ImageRecord
from pyctrd.oci.platforms import parse
from pyctrd.operations.images import ImageOverview
from tests.cli.stub import run, with_outcome

ALL = ("linux/amd64", "linux/arm64", "linux/arm/v7", "linux/s390x", "linux/ppc64le")


def image(complete: tuple[str, ...], incomplete: tuple[str, ...]) -> ImageOverview:
    record = ImageRecord(
        name="registry.example/app:1",
        target=Descriptor(media_type=OCI_INDEX, digest=Digest.of(b"x"), size=9),
        created_at=dt.datetime.now(dt.UTC) - dt.timedelta(days=40, hours=1),
    )
    return ImageOverview(
        image=record,
        bytes_here=5 << 20,
        complete=tuple(map(parse, complete)),
        incomplete=tuple(map(parse, incomplete)),
    )


@pytest.mark.parametrize(
    ("complete", "incomplete", "shown"),
    [
        (ALL[:1], ALL[1:], "linux/amd64 (1 of 5)"),
        ((), ALL, "none (0 of 5)"),
        (ALL[:2], (), "linux/amd64, linux/arm64"),
        (ALL[:4], ALL[4:], "linux/amd64, linux/arm64, linux/arm/v7, ... (4 of 5)"),
        ((), (), "?"),
    ],
)
def test_the_table_lists_complete_platforms(
    monkeypatch: pytest.MonkeyPatch, complete: tuple[str, ...], incomplete: tuple[str, ...], shown: str
) -> None:
    with_outcome(monkeypatch, (image(complete, incomplete),))
    header, row = run("images").stdout.splitlines()
    assert header.split() == ["NAME", "DIGEST", "SIZE", "PLATFORMS", "AGE"]
    assert [cell.strip() for cell in row.split("  ") if cell.strip()] == [
        *("registry.example/app:1", Digest.of(b"x"), "5.0 MiB", shown, "6 weeks")
    ]


def test_json_lists_complete_and_incomplete_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, (image(ALL[:1], ALL[1:]),))
    (found,) = json.loads(run("images", "--format", "json").stdout)
    assert (found["bytes_here"], found["complete"], found["incomplete"]) == (5 << 20, [*ALL[:1]], [*ALL[1:]])
