"""Spans for OpenTelemetry: names, attributes, parents across threads; nothing unless they are switched on."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from pyctrd import AsyncClient, Client, Registry
from pyctrd.errors import InvalidInput, NotFound, PyctrdError, RegistryError
from pyctrd.registry.http.transport import Request, Transport
from pyctrd.registry.range_workers import RangeWorkers
from pyctrd.tracing import Tracing
from tests.containerd.fake import FakeDaemon, fault, serve
from tests.registry.samples import HEADERS, MANIFEST, TAG
from tests.registry.server import Answer, ScriptedServer

NAME = f"sha256:{64 * 'a'}"


class Traces:
    """A tracer provider whose spans can be looked at."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def spans(self) -> Sequence[ReadableSpan]:
        """Return the spans that have ended, in the order of their starts."""
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def one(self, name: str) -> ReadableSpan:
        (found,) = (span for span in self.spans() if span.name == name)
        return found

    def children(self, parent: ReadableSpan) -> list[str]:
        """Return the names of the spans directly below another one."""
        own = parent.context.span_id if parent.context else 0
        return [span.name for span in self.spans() if span.parent and span.parent.span_id == own]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.fixture
def traces() -> Traces:
    return Traces()


@pytest.fixture
def fake() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
def address(fake: FakeDaemon) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pyctrd-", dir="/tmp") as folder:
        path = Path(folder) / "c.sock"
        server = serve(path, fake)
        yield path
        server.stop(None).wait()


# --- calls to containerd ----------------------------------------------------------------------------------


def test_an_operation_has_its_calls_as_children(traces: Traces, address: Path, fake: FakeDaemon) -> None:
    with Client(address, "testing", tracer_provider=traces.provider) as client:
        client.images.list()
    operation, call = traces.one("images.list"), traces.one("containerd.services.images.v1.Images/List")
    assert attributes(operation) == {"containerd.namespace": "testing"}
    assert operation.parent is None
    assert call.name in traces.children(operation)
    assert call.kind is SpanKind.CLIENT
    assert attributes(call) == {
        "rpc.system": "grpc",
        "rpc.service": "containerd.services.images.v1.Images",
        "rpc.method": "List",
        "rpc.grpc.status_code": 0,
        "server.address": str(address),
        "network.transport": "unix",
        "containerd.namespace": "testing",
    }
    assert call.instrumentation_scope is not None
    assert call.instrumentation_scope.name == "pyctrd"


def test_containerd_gets_the_context_of_the_call(traces: Traces, address: Path, fake: FakeDaemon) -> None:
    with Client(address, tracer_provider=traces.provider) as client:
        fake.headers.clear()
        client.images.list()
    call = traces.one("containerd.services.images.v1.Images/List")
    assert call.context is not None
    (sent,) = [headers["traceparent"] for headers in fake.headers if "traceparent" in headers][-1:]
    assert sent.startswith(f"00-{call.context.trace_id:032x}-{call.context.span_id:016x}-")


def test_errors_have_their_code(traces: Traces, address: Path, fake: FakeDaemon) -> None:
    fake.faults["Info"] = fault(grpc.StatusCode.NOT_FOUND, "not found")
    with Client(address, tracer_provider=traces.provider) as client, pytest.raises(NotFound):
        client.content.get(NAME)
    call = traces.one("containerd.services.content.v1.Content/Info")
    assert (attributes(call)["rpc.grpc.status_code"], attributes(call)["error.type"]) == (5, "NOT_FOUND")
    assert attributes(call)["containerd.subject"] == NAME
    operation = traces.one("content.get")
    assert attributes(operation)["error.type"] == "NotFound"
    for span in (call, operation):
        assert span.status.status_code is StatusCode.ERROR
        assert span.events == ()


def test_a_call_that_cannot_begin_ends_its_span(traces: Traces) -> None:
    from pyctrd.containerd.telemetry import CallReports

    def broken(_headers: object) -> None:
        raise ValueError

    reports = CallReports("/run/c.sock", "default", Tracing(traces.provider))
    with pytest.raises(ValueError):
        reports.begun("/a.B/C", "", broken)
    assert attributes(traces.one("a.B/C"))["error.type"] == "ValueError"


async def test_the_parent_is_the_current_span_of_the_task(traces: Traces, address: Path) -> None:
    tracer = traces.provider.get_tracer("test")
    async with AsyncClient(address, tracer_provider=traces.provider) as client:

        async def work(name: str) -> None:
            with tracer.start_as_current_span(name):
                await client.images.list()

        await asyncio.gather(work("one"), work("two"))
    for name in ("one", "two"):
        assert traces.children(traces.one(name)) == ["images.list"]


# --- requests to registries -------------------------------------------------------------------------------


def test_a_request_has_a_span_until_the_end_of_its_body(
    traces: Traces, caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedServer() as server, Registry(tracer_provider=traces.provider) as registry:
        server.once("HEAD", TAG, Answer(503), Answer(200, MANIFEST, HEADERS))
        server.once("GET", "/v2/team/app/tags/list", Answer(200, b'{"tags": ["v1"]}'))
        registry.resolve(f"{server.host}/team/app:v1")
        registry.tags(f"{server.host}/team/app")
        host, _, port = server.host.partition(":")
    assert caplog.records == []  # the SDK warns of what comes after the end of a span
    failed, resolved, listed = (span for span in traces.spans() if span.kind is SpanKind.CLIENT)
    assert attributes(resolved) == {
        "http.request.method": "HEAD",
        "url.full": f"http://{host}:{port}{TAG}",
        "server.address": host,
        "server.port": int(port),
        "http.response.status_code": 200,
        "http.response.body.size": 0,
    }
    assert attributes(failed)["error.type"] == "503"
    assert failed.status.status_code is StatusCode.ERROR
    assert (listed.name, attributes(listed)["http.response.body.size"]) == ("GET", 16)
    assert traces.children(traces.one("registry.resolve")) == ["HEAD", "HEAD"]
    assert traces.children(traces.one("registry.tags")) == ["GET"]
    assert attributes(traces.one("registry.resolve"))["container.image.name"].endswith("/team/app:v1")


def test_a_body_that_breaks_is_an_error_of_the_span(traces: Traces) -> None:
    with ScriptedServer() as server, Registry(tracer_provider=traces.provider) as registry:
        broken = Answer(200, b'{"tags": ["v1"]}', cut_after=4)
        server.always("GET", "/v2/team/app/tags/list", broken)
        with pytest.raises(RegistryError):
            registry.tags(f"{server.host}/team/app")
    requests = [span for span in traces.spans() if span.name == "GET"]
    assert requests
    assert {span.status.status_code for span in requests} == {StatusCode.ERROR}


def test_a_request_without_a_response(traces: Traces) -> None:
    with ScriptedServer() as server, Registry(tracer_provider=traces.provider) as registry:
        server.once("HEAD", TAG, Answer(hang_up=True), Answer(200, MANIFEST, HEADERS))
        registry.resolve(f"{server.host}/team/app:v1")
    failed, _ = (span for span in traces.spans() if span.name == "HEAD")
    assert attributes(failed)["error.type"] == "ProtocolError"


def test_a_request_that_cannot_be_sent_ends_its_span(traces: Traces) -> None:
    transport = Transport(tracing=Tracing(traces.provider))
    with transport, pytest.raises(RegistryError, match="cannot be sent in a header"):
        transport.send(Request("GET", "http://127.0.0.1:1/v2/", headers={"Accept": "a\nb"}))
    assert attributes(traces.one("GET"))["error.type"] == "RegistryError"


def test_spans_have_no_secrets(traces: Traces, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer() as server, Registry(tracer_provider=traces.provider) as registry:
        server.once("HEAD", TAG, Answer(307, b"", {"Location": f"{server.url}/there?signature=hush-hush"}))
        server.once("HEAD", "/there", Answer(400, b"", {}))
        server.always("GET", TAG, Answer(400, b'{"errors": [{"message": "signature=hush-hush"}]}'))
        with pytest.raises(PyctrdError):
            registry.resolve(f"{server.host}/team/app:v1")
    text = "".join(span.to_json() for span in traces.spans())
    assert f"{server.url}/there" in text
    assert "hush-hush" not in text


# --- switching on and off ---------------------------------------------------------------------------------


def test_opentelemetry_is_not_imported_unless_it_is_used(address: Path) -> None:
    code = (
        "import sys; from pyctrd import Client; client = Client(sys.argv[1]); client.images.list(); "
        "client.close(); print({'opentelemetry', 'pyctrd.tracing'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(address)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "set()\n"


def test_without_a_provider_methods_are_not_wrapped(address: Path) -> None:
    with Client(address) as client:
        assert "list" not in vars(client.images)
        assert "doctor" not in vars(client)


def test_what_ends_operations_is_no_operation(address: Path, traces: Traces) -> None:
    with Client(address, tracer_provider=traces.provider) as client:
        assert "list" in vars(client.images)
        assert {"close", "cancel"} & set(vars(client)) == set()


def test_something_that_is_no_provider() -> None:
    with pytest.raises(InvalidInput, match="is not a TracerProvider"):
        Client("/run/c.sock", tracer_provider="global")  # type: ignore[arg-type]


def test_opentelemetry_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, traces: Traces) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(InvalidInput, match="needs opentelemetry") as caught:
        Client("/run/c.sock", tracer_provider=traces.provider)
    assert caught.value.hint == "install pyctrd[otel]"


# --- threads ----------------------------------------------------------------------------------------------


def test_workers_have_the_context_of_who_started_them() -> None:
    current: ContextVar[str] = ContextVar("current", default="none")
    seen: list[str] = []
    done = threading.Event()

    def fetch(_start: int, _end: int) -> bytes:
        seen.append(current.get())
        done.set()
        return b""

    def begin() -> None:
        current.set("the caller")
        workers = RangeWorkers(fetch, 0, 1)
        workers.resize(1)
        done.wait(30)
        workers.close()

    copy_context().run(begin)
    assert seen == ["the caller"]


# --- docs/howto/trace.md ----------------------------------------------------------------------------------


def test_the_program_of_the_page(address: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "howto" / "trace.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "CONTAINERD_ADDRESS": str(address)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert '"name": "images.list"' in done.stdout
    assert '"name": "containerd.services.images.v1.Images/List"' in done.stdout


def test_the_attributes_are_those_of_the_page(traces: Traces, address: Path, fake: FakeDaemon) -> None:
    page = (Path(__file__).parent.parent / "docs" / "howto" / "trace.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .* \| (internal|client) \| (.*) \|$", page, re.MULTILINE)
    named = {name for _, cell in rows for name in re.findall(r"`([a-z_.]+)`", cell)}
    fake.faults["Info"] = fault(grpc.StatusCode.NOT_FOUND, "not found")
    with ScriptedServer() as server, Registry(tracer_provider=traces.provider) as registry:
        server.once("HEAD", TAG, Answer(200, MANIFEST, HEADERS))
        registry.resolve(f"{server.host}/team/app:v1")
    with Client(address, tracer_provider=traces.provider) as client, pytest.raises(NotFound):
        client.content.get(NAME)
    assert {name for span in traces.spans() for name in attributes(span)} == named
