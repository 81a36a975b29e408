"""What a config says about the build and about containers; values of other types are ignored."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.errors import ContentError
from pyctrd.oci.details import HistoryEntry, ImageDetails
from pyctrd.oci.model import ImageConfig


def details(document: Any) -> ImageDetails:
    return ImageDetails.of(ImageConfig.parse(json.dumps(document).encode()))


def test_all_that_a_config_says() -> None:
    found = details(
        {
            "created": "2024-05-22T18:18:13.123456789Z",
            "author": "me",
            "config": {
                "User": "1000:1000",
                "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
                "Env": ["PATH=/bin"],
                "Entrypoint": ["/bin/sh", "-c"],
                "Cmd": ["echo hi"],
                "Volumes": {"/data": {}},
                "WorkingDir": "/srv",
                "Labels": {"a": "b"},
                "StopSignal": "SIGQUIT",
            },
            "history": [
                {
                    "created": "2024-05-22T20:18:12+02:00",
                    "created_by": "ADD",
                    "author": "you",
                    "comment": "c",
                },
                {"created_by": "CMD", "empty_layer": True},
            ],
        }
    )
    assert found == ImageDetails(
        created_at=dt.datetime(2024, 5, 22, 18, 18, 13, 123456, dt.UTC),
        author="me",
        user="1000:1000",
        env=("PATH=/bin",),
        entrypoint=("/bin/sh", "-c"),
        cmd=("echo hi",),
        working_dir="/srv",
        exposed_ports=("80/tcp", "53/udp"),
        volumes=("/data",),
        stop_signal="SIGQUIT",
        labels={"a": "b"},
        history=(
            HistoryEntry(
                created_at=dt.datetime(2024, 5, 22, 18, 18, 12, tzinfo=dt.UTC),
                created_by="ADD",
                author="you",
                comment="c",
            ),
            HistoryEntry(created_by="CMD", empty_layer=True),
        ),
    )


@pytest.mark.parametrize(
    "created", ["0001-01-01T00:00:00Z", "yesterday", "2024-05-22T18:18:13", "2024-99-22T18:18:13Z", 7, None]
)
def test_an_unknown_time(created: object) -> None:
    assert details({"created": created}).created_at is None


@pytest.mark.parametrize("bad", [7, "text", [7], {"a": [7]}, True, 1.5, [[]]])
def test_values_of_another_type_are_ignored(bad: object) -> None:
    names = ("created", "author", "config", "history")
    for name in names:
        details({name: bad})
    inner = (
        "User",
        "Env",
        "Entrypoint",
        "Cmd",
        "WorkingDir",
        "ExposedPorts",
        "Volumes",
        "Labels",
        "StopSignal",
    )
    details({"config": dict.fromkeys(inner, bad)})
    steps = dict.fromkeys(("created", "created_by", "author", "comment", "empty_layer"), bad)
    assert len(details({"history": [steps, bad]}).history) == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["created", "author", "config", "history"])


@given(st.dictionaries(KEYS, JSON, max_size=4))
def test_no_config_that_can_be_parsed_is_refused(document: dict[str, Any]) -> None:
    try:
        config = ImageConfig.parse(json.dumps(document).encode())
    except ContentError:
        return
    hash(ImageDetails.of(config))
