"""The list of images in each format."""

from __future__ import annotations

import datetime as dt
import json

import msgspec
import pytest

from pyctrd.oci.mediatypes import OCI_INDEX
from pyctrd.oci.model import Descriptor, Digest, ImageRecord
from pyctrd.oci.platforms import parse
from pyctrd.operations.images.model import ImageOverview, ImagePlatform
from tests.cli.stub import run, with_outcome

ALL = ("linux/amd64", "linux/arm64", "linux/arm/v7", "linux/s390x", "linux/ppc64le")


def image(complete: tuple[str, ...], incomplete: tuple[str, ...]) -> ImageOverview:
    record = ImageRecord(
        name="registry.example/app:1",
        target=Descriptor(media_type=OCI_INDEX, digest=Digest.of(b"x"), size=9),
        created_at=dt.datetime.now(dt.UTC) - dt.timedelta(days=40, hours=1),
    )
    states = [(name, True) for name in complete] + [(name, False) for name in incomplete]
    return ImageOverview(
        namespace="default",
        image=record,
        status="complete",
        bytes_own=2 << 20,
        bytes_shared=3 << 20,
        platforms=tuple(ImagePlatform(platform=parse(name), complete=state) for name, state in states),
    )


@pytest.mark.parametrize(
    ("complete", "incomplete", "shown", "status"),
    [
        (ALL[:1], ALL[1:], "linux/amd64 (1 of 5)", "complete"),
        ((), ALL, "none (0 of 5)", "incomplete"),
        (ALL[:2], (), "linux/amd64, linux/arm64", "complete"),
        (ALL[:4], ALL[4:], "linux/amd64, linux/arm64, linux/arm/v7, ... (4 of 5)", "complete"),
        ((), (), "-", "complete"),
        ((), (), "?", "unavailable"),
    ],
)
def test_the_table_lists_complete_platforms(
    monkeypatch: pytest.MonkeyPatch,
    complete: tuple[str, ...],
    incomplete: tuple[str, ...],
    shown: str,
    status: str,
) -> None:
    with_outcome(monkeypatch, (msgspec.structs.replace(image(complete, incomplete), status=status),))
    header, row = run("images").stdout.splitlines()
    assert header.split() == ["NAME", "PLATFORMS", "SIZE", "OWN", "AGE", "STATUS"]
    assert [cell.strip() for cell in row.split("  ") if cell.strip()] == [
        *("registry.example/app:1", shown, "5.0 MiB", "2.0 MiB", "6 weeks", status)
    ]


def test_json_is_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, (image(ALL[:1], ALL[1:]),))
    (found,) = json.loads(run("images", "--format", "json").stdout)
    assert found["platforms"] == [{"platform": name, "complete": name == ALL[0]} for name in ALL]
    assert (found["bytes"], found["bytes_own"], found["bytes_shared"]) == (5 << 20, 2 << 20, 3 << 20)
    assert (found["pinned"], found["in_use"], found["namespace"]) == (False, False, "default")
    assert json.loads(run("images", "--format", "jsonl").stdout) == found


def test_the_records_of_cri_are_folded_in_the_table_only(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = msgspec.structs.replace(image(ALL, ()), pinned=True, containers=("c1",))
    record = msgspec.structs.replace(shown.image, name="sha256:0123")
    folded = msgspec.structs.replace(shown, image=record, alias_of=shown.image.name)
    with_outcome(monkeypatch, (shown, folded))
    _, row = run("images").stdout.splitlines()
    assert row.endswith("complete, in use, pinned")
    assert len(run("images", "--all").stdout.splitlines()) == 3
    assert len(json.loads(run("images", "--format", "json").stdout)) == 2
    assert run("images", "-q", "*").stdout.split() == [shown.image.name]
    wide = run("images", "--format", "wide").stdout.splitlines()
    assert wide[0].split() == [
        *("NAMESPACE", "NAME", "DIGEST", "PLATFORMS", "SIZE", "OWN", "AGE", "STATUS"),
        *("TYPE", "CREATED", "UPDATED", "LABELS"),
    ]
    assert run("images", "-A").stdout.split()[0] == "NAMESPACE"


def test_an_alias_is_shown_if_its_name_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = image(ALL, ())
    record = msgspec.structs.replace(shown.image, name="sha256:0123")
    with_outcome(monkeypatch, (msgspec.structs.replace(shown, image=record, alias_of="app:1"),))
    assert run("images", "-f", "name==sha256:0123").stdout.splitlines()[1].startswith("sha256:0123 ")


def test_names_alone_need_no_content(monkeypatch: pytest.MonkeyPatch) -> None:
    tag = msgspec.structs.replace(image(ALL, ()).image, labels={"io.cri-containerd.image": "managed"})
    names = [tag, msgspec.structs.replace(tag, name="sha256:0123")]
    client = with_outcome(monkeypatch, tuple(names)).return_value
    assert run("images", "-q").stdout.split() == [tag.name]
    assert run("images", "-q", "--all").stdout.split() == [item.name for item in names]
    assert not client.images.overview.called


def test_patterns_and_filters_reach_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    client = with_outcome(monkeypatch, (image(ALL, ()),)).return_value
    run("images", "alpine*", "-f", "dangling=true", "-A")
    client.images.overview.assert_called_once_with(
        ("dangling=true", "reference=alpine*"), all_namespaces=True
    )
