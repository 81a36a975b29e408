"""The log of calls to containerd: one record each, and no cost without it."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc
import pytest

from pyctrd.containerd import Daemon, telemetry
from pyctrd.errors import NotFound
from pyctrd.oci.model import Digest
from tests.containerd.fake import FakeDaemon, fault

NAME = "pyctrd.containerd"


def digest_of(letter: str) -> Digest:
    return Digest(f"sha256:{64 * letter}")


def test_a_call_is_one_record(
    client: Daemon, fake: FakeDaemon, sockets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake.blobs[digest_of("a")] = b"data"
    with caplog.at_level(logging.DEBUG, "pyctrd"):
        client.content.info(digest_of("a"))
    (record,) = caplog.records
    found = vars(record)
    assert (record.name, record.levelname) == (NAME, "DEBUG")
    assert found["method"] == "containerd.services.content.v1.Content/Info"
    assert found["address"] == str(sockets / "containerd.sock")
    assert (found["namespace"], found["subject"], found["code"]) == ("testing", digest_of("a"), "OK")
    assert found["seconds"] > 0
    assert record.getMessage().startswith(f"Content.Info {digest_of('a')}: OK, ")


def test_a_call_that_fails_has_its_code(
    client: Daemon, fake: FakeDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    fake.faults["Info"] = fault(grpc.StatusCode.NOT_FOUND, "not found")
    with caplog.at_level(logging.DEBUG, "pyctrd"), pytest.raises(NotFound):
        client.content.info(digest_of("a"))
    assert [vars(record)["code"] for record in caplog.records] == ["NOT_FOUND"]


def test_streams_are_logged_at_their_end(
    client: Daemon, fake: FakeDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    fake.pieces[digest_of("b")] = [b"x"] * 20
    with caplog.at_level(logging.DEBUG, "pyctrd"):
        with client.content.read(digest_of("b")) as chunks:
            next(chunks)
            assert caplog.records == []
            assert len(list(chunks)) == 19
        assert [vars(record)["subject"] for record in caplog.records] == [digest_of("b")]
        caplog.clear()
        with client.content.open_ingest("ref", digest=digest_of("c"), size=4) as ingest:
            ingest.write(b"data")
            ingest.commit(labels={})
        (record,) = caplog.records
    assert vars(record)["method"].endswith("Content/Write")
    assert (vars(record)["subject"], vars(record)["code"]) == (digest_of("c"), "OK")


def test_a_cancelled_stream_is_logged(
    client: Daemon, fake: FakeDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    fake.pieces[digest_of("b")] = [b"x" * (1 << 20)] * 20
    with caplog.at_level(logging.DEBUG, "pyctrd"):
        with client.content.read(digest_of("b")) as chunks:
            next(chunks)
        client.close()  # waits until the calls have ended
    assert [vars(record)["code"] for record in caplog.records] == ["CANCELLED"]


def test_without_the_log_a_call_costs_one_look_at_the_level(
    client: Daemon, fake: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    class Counting(logging.Logger):
        def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
            looks.append(level)
            return False

    def never(*_args: object) -> None:
        raise AssertionError

    monkeypatch.setattr(telemetry, "_log", Counting(NAME))
    monkeypatch.setattr(telemetry, "_Watched", never)
    monkeypatch.setattr(telemetry, "_subject", never)
    fake.pieces[digest_of("b")] = [b"x" * 1000] * 50
    with client.content.read(digest_of("b")) as chunks:
        assert len(b"".join(chunks)) == 50_000
    assert len(looks) == 1
