"""What an image config says besides what distribution needs: how the image was made, and how it is run.

Images are made by many tools, and none of this is needed to run pulls: a value of another type counts as
absent, so that it never makes an image unreadable.

Source: OCI image-spec config.md.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from pyctrd.oci.gotime import parse_time
from pyctrd.oci.model import EMPTY, ImageConfig, freeze, parse_json

# Go's zero time, which means unknown.
_ZERO: Final = dt.datetime(1, 1, 1, tzinfo=dt.UTC)


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry in a config's history: one step of the build; `empty_layer` if it made no layer."""

    created_at: dt.datetime | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageDetails(msgspec.Struct, frozen=True, kw_only=True):
    """When an image was made, by whom, and how its containers are run by default."""

    created_at: dt.datetime | None = None
    author: str = ""
    user: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    labels: Mapping[str, str] = EMPTY
    history: tuple[HistoryEntry, ...] = ()

    def __post_init__(self) -> None:
        freeze(self, "labels")

    @classmethod
    def of(cls, config: ImageConfig) -> ImageDetails:
        """Return the details in a config; what is absent or of another type is empty."""
        document = _mapping(parse_json(config.raw)) if config.raw else {}
        run = _mapping(document.get("config"))
        history = document.get("history")
        return cls(
            created_at=_time(document.get("created")),
            author=_text(document.get("author")),
            user=_text(run.get("User")),
            env=_texts(run.get("Env")),
            entrypoint=_texts(run.get("Entrypoint")),
            cmd=_texts(run.get("Cmd")),
            working_dir=_text(run.get("WorkingDir")),
            exposed_ports=tuple(_mapping(run.get("ExposedPorts"))),
            volumes=tuple(_mapping(run.get("Volumes"))),
            stop_signal=_text(run.get("StopSignal")),
            labels={key: _text(value) for key, value in _mapping(run.get("Labels")).items()},
            history=tuple(map(_entry, history if isinstance(history, list) else ())),
        )


def _entry(value: Any) -> HistoryEntry:
    found = _mapping(value)
    return HistoryEntry(
        created_at=_time(found.get("created")),
        created_by=_text(found.get("created_by")),
        author=_text(found.get("author")),
        comment=_text(found.get("comment")),
        empty_layer=found.get("empty_layer") is True,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(_text, value)) if isinstance(value, list) else ()


def _time(value: Any) -> dt.datetime | None:
    found = parse_time(value) if isinstance(value, str) else None
    return None if found == _ZERO else found
