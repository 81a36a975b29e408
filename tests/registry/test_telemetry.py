"""The log of requests to a registry: one record each, also without a response."""

from __future__ import annotations

import logging

import pytest

from pyctrd.errors import RegistryError
from tests.registry.conftest import RemoteMaker
from tests.registry.samples import HEADERS, MANIFEST, TAG
from tests.registry.server import Answer, ScriptedServer


def test_a_request_is_one_record(
    server: ScriptedServer, remote: RemoteMaker, caplog: pytest.LogCaptureFixture
) -> None:
    server.once("HEAD", TAG, Answer(200, MANIFEST, HEADERS))
    with caplog.at_level(logging.DEBUG, "pyctrd"):
        remote().resolve()
    (record,) = caplog.records
    found = vars(record)
    assert (record.name, record.levelname) == ("pyctrd.registry", "DEBUG")
    assert (found["method"], found["status"], found["host"]) == ("HEAD", 200, server.host)
    assert found["url"] == f"http://{server.host}{TAG}"
    assert found["seconds"] > 0
    assert record.getMessage().startswith(f"HEAD {found['url']}: 200, ")


def test_a_retry_and_a_request_without_a_response(
    server: ScriptedServer, remote: RemoteMaker, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    server.once("HEAD", TAG, Answer(503), Answer(hang_up=True), Answer(200, MANIFEST, HEADERS))
    with caplog.at_level(logging.DEBUG, "pyctrd"):
        remote().resolve()
    found = [vars(record) for record in caplog.records]
    requests = [item for item in found if "url" in item]
    assert [item.get("status") for item in requests] == [503, None, 200]
    assert requests[1]["error"] == "ProtocolError"
    retries = [item for item in found if "pause" in item]
    assert [(item["levelname"], item["status"]) for item in retries] == [("INFO", 503), ("INFO", None)]
    assert [item["pause"] for item in retries] == pauses


def test_the_fields_have_no_secrets(
    server: ScriptedServer, remote: RemoteMaker, caplog: pytest.LogCaptureFixture
) -> None:
    server.once("HEAD", TAG, Answer(307, b"", {"Location": f"{server.url}/there?signature=hush-hush"}))
    server.once("HEAD", "/there", Answer(404))
    with caplog.at_level(logging.DEBUG, "pyctrd"), pytest.raises(RegistryError):
        remote(username="bob", password="the-password").resolve()
    text = "".join(repr(vars(record)) for record in caplog.records)
    assert f"{server.url}/there" in text
    assert "hush-hush" not in text
    assert "the-password" not in text


def test_without_the_log_nothing_is_formatted(
    server: ScriptedServer, remote: RemoteMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_url: str) -> str:
        raise AssertionError

    monkeypatch.setattr("pyctrd.registry.http.telemetry.without_secrets", never)
    server.once("HEAD", TAG, Answer(200, MANIFEST, HEADERS))
    assert remote().resolve().size == len(MANIFEST)
