"""The public surface: immutable values, errors that pickle, arguments that are checked."""

from __future__ import annotations

import concurrent.futures
import inspect
import os
import pickle
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

import pyctrd
from pyctrd import (
    Cancelled,
    Client,
    ClientClosed,
    ContentInfo,
    DaemonUnreachable,
    Descriptor,
    Digest,
    ImageNotFound,
    ImageRecord,
    IngestLocked,
    InvalidInput,
    NotFound,
    Platform,
    PullResult,
    PyctrdError,
    Registry,
    RegistryError,
    RegistryNotFound,
    RegistryOptions,
    Remedy,
)
from tests.containerd.fake import FakeDaemon, serve
from tests.registry.server import Answer, ScriptedServer

DIGEST = Digest(f"sha256:{64 * '0'}")
DESCRIPTOR = Descriptor(
    media_type="application/vnd.oci.image.manifest.v1+json",
    digest=DIGEST,
    size=7,
    annotations={"a": "b"},
    platform=Platform(os="linux", architecture="arm64"),
)


@pytest.fixture
def client() -> Iterator[Client]:
    with tempfile.TemporaryDirectory(prefix="pyctrd-", dir="/tmp") as folder:
        path = Path(folder) / "c.sock"
        server: grpc.Server = serve(path, FakeDaemon())
        with Client(path) as opened:
            yield opened
        server.stop(None).wait()


# --- errors -----------------------------------------------------------------------------------------------


def tree(kind: type[PyctrdError] = PyctrdError) -> Iterator[type[PyctrdError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__.startswith("pyctrd"):
            yield from tree(child)


def made(kind: type[PyctrdError]) -> PyctrdError:
    """Create an error with a value for every argument."""
    values: dict[str, Any] = {
        "missing": [DESCRIPTOR],
        "candidates": ["a", "b"],
        "images": ["a", "b"],
        "remedy": Remedy(method="ensure", images=("a",)),
        "status": 404,
    }
    wanted = [
        item.name
        for item in inspect.signature(kind).parameters.values()
        if item.name not in ("self", "message")
    ]
    return kind("what went wrong", **{name: values.get(name, name) for name in wanted})


@pytest.mark.parametrize("kind", sorted(set(tree()), key=str))
def test_every_error_pickles(kind: type[PyctrdError]) -> None:
    error = made(kind)
    error.add_note("a note")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert vars(again) == vars(error)
    assert (str(again), again.__notes__, again.exit_code) == (str(error), ["a note"], error.exit_code)
    assert again.side in ("daemon", "registry", "local")


def test_every_error_is_public() -> None:
    """Error classes of other modules are subclasses for their own use."""
    found = {kind.__name__ for kind in tree() if kind.__module__ in ("pyctrd.errors", "pyctrd.oci.errors")}
    assert found <= set(pyctrd.__all__)


def fail() -> None:
    raise ImageNotFound("image: not found", kind="image", name="alpine", hint="pull it")


def test_an_error_arrives_from_a_process_pool() -> None:
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    with (
        concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool,
        pytest.raises(NotFound, match="image: not found") as caught,
    ):
        pool.submit(fail).result()
    assert (caught.value.name, caught.value.hint) == ("alpine", "pull it")


def test_not_found_in_a_store_and_in_a_registry_are_different_classes() -> None:
    assert issubclass(RegistryNotFound, NotFound)
    assert issubclass(RegistryNotFound, RegistryError)
    assert not issubclass(ImageNotFound, RegistryError)
    assert [kind.side for kind in (RegistryNotFound, ImageNotFound)] == ["registry", "local"]
    assert RegistryNotFound.exit_code == 3


# --- values -----------------------------------------------------------------------------------------------

VALUES = (
    DIGEST,
    DESCRIPTOR,
    DESCRIPTOR.platform,
    ImageRecord(name="a", target=DESCRIPTOR, labels={"a": "b"}),
    ContentInfo(digest=DIGEST, size=1, labels={"a": "b"}),
    PullResult(
        image=ImageRecord(name="a", target=DESCRIPTOR),
        fetched=(DESCRIPTOR,),
        bytes_fetched=1,
        unpacked=(Platform(os="linux"),),
        resumed={DESCRIPTOR: 1},
    ),
    Remedy(method="pull"),
    RegistryOptions(username="me", password="secret"),
)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_are_hashable_and_pickle(value: object) -> None:
    again = pickle.loads(pickle.dumps(value))
    assert again == value
    assert hash(again) == hash(value)
    assert type(value).__name__ in repr(value) or isinstance(value, str)
    assert "secret" not in repr(value)


def test_every_public_struct_is_deeply_immutable() -> None:
    found = 0
    for name in pyctrd.__all__:
        kind = getattr(pyctrd, name)
        if inspect.isclass(kind) and issubclass(kind, msgspec.Struct):
            found += 1
            assert kind.__struct_config__.frozen, name
            for field in msgspec.structs.fields(kind):
                assert not str(field.type).startswith(("list", "dict", "set", "typing.List")), (
                    name,
                    field.name,
                )
    assert found > 10


@pytest.mark.parametrize("change", ["__setitem__", "update", "pop", "clear", "setdefault", "__ior__"])
def test_labels_and_annotations_cannot_be_changed(change: str) -> None:
    for mapping in (DESCRIPTOR.annotations, VALUES[3].labels, VALUES[5].resumed):
        before = dict(mapping)
        with pytest.raises(TypeError, match="immutable"):
            getattr(mapping, change)({"x": "y"})
        assert dict(mapping) == before


# --- arguments --------------------------------------------------------------------------------------------

Call = Callable[[Client], object]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda c: c.images.save("alpine", "x", ensure="bogus"),
            "ensure='bogus': must be one of 'target', 'all'",
        ),
        (
            lambda c: c.images.save("alpine", "x", index="bogus"),
            "index='bogus': must be one of 'keep', 'prune'",
        ),
        (
            lambda c: c.images.save("alpine", "x", format="tar"),
            "format='tar': must be one of 'oci', 'docker', 'dir'",
        ),
        (
            lambda c: c.images.save("alpine", "x", compress="xz"),
            "compress='xz': must be one of 'none', 'gzip', 'zstd'",
        ),
        (
            lambda c: c.images.save("alpine", "x", attestations=True),
            "attestations=True: must be one of 'keep', 'drop'",
        ),
        (lambda c: c.images.save("alpine", "x", have=7), "have=7: must be an Inventory, a path or a"),
        (
            lambda c: c.images.save("alpine", "x", on_missing=None),
            "on_missing=None: must be one of 'fail', 'warn', 'skip'",
        ),
        (lambda c: c.images.save("alpine", "-", format="dir"), "`format=dir` needs the path of a folder"),
        (
            lambda c: c.images.save("alpine", "x", format="dir", compress="gzip"),
            "a folder cannot be compressed",
        ),
        (
            lambda c: c.images.save("alpine", "x", format="docker", index="prune"),
            "`index=prune` cannot be used with `format=docker`",
        ),
        (lambda c: c.images.push("alpine", index="keep"), "index='keep': must be one of 'prune', 'flatten'"),
        (
            lambda c: c.images.pull("alpine", metadata="some"),
            "metadata='some': must be one of 'all', 'selected'",
        ),
        (
            lambda c: c.images.pull("alpine", concurrency=0),
            "concurrency=0: must be an integer of at",
        ),
        (lambda c: c.images.ensure("alpine", concurrency="3"), "concurrency='3': must be an integer"),
        (lambda c: c.images.ensure("alpine", concurrency=True), "concurrency=True: must be an integer"),
        (lambda c: c.images.push("alpine", chunk_bytes=-1), "chunk_bytes=-1: must be an integer"),
        (lambda c: c.images.pull(7), "ref=7: must be a string, not int"),
        (lambda c: c.images.sync("alpine"), "one of to= and source= has to be the address"),
        (lambda c: c.images.sync("alpine", "ssh://a", source="ssh://b"), "one of to= and source= has to be"),
        (lambda c: c.images.sync("alpine", 7), "to=7: must be a string, not int"),
        (lambda c: c.images.sync("alpine", "edge1"), "invalid address 'edge1': neither an ssh:// address"),
        (lambda c: c.images.sync("alpine", f"unix://{c.address}"), "is this containerd and its namespace"),
        (lambda c: c.images.get(b"alpine"), "ref=b'alpine': must be a string"),
        (lambda c: c.images.save(["alpine", 7], "x"), "refs=7: must be a string"),
        (lambda c: c.images.save(7, "x"), "refs=7: must be a string or an iterable"),
        (lambda c: c.images.save("alpine", 7), "output=7: must be a path or a binary stream"),
        (lambda c: c.images.save("alpine"), "output=None: must be a path or a binary stream"),
        (lambda c: c.images.pull("alpine", platforms=7), "platforms=7: must be a string, a Platform"),
        (lambda c: c.images.pull("alpine", labels=7), "labels=7: must map strings to strings"),
        (lambda c: c.images.pull("alpine", labels={"a": 7}), "labels=7: must be a string"),
        (lambda c: c.images.pull("alpine", cancel=True), "cancel=True: must be a threading.Event"),
        (lambda _: pyctrd.verify_archive(7), "source=7: must be a path or a binary stream"),  # type: ignore[arg-type]
        (lambda _: pyctrd.verify_archive("x", have=7), "have=7: must be an Inventory, a path or a binary"),  # type: ignore[arg-type]
        (lambda _: pyctrd.verify_archive("x", platforms="local"), "`local` cannot be used here"),
        (lambda _: pyctrd.inspect_archive("x", cancel=True), "cancel=True: must be a threading.Event"),  # type: ignore[arg-type]
        (lambda c: c.images.remove([]), "refs: name at least one image"),
        (lambda c: c.images.remove(7), "refs=7: must be a string or an iterable"),
        (lambda c: c.images.why(7), "name=7: must be a string"),
        (lambda c: c.content.get("nonsense"), "invalid checksum digest format"),
        (lambda c: Client(7), "address=7: must be a path"),  # type: ignore[arg-type]
        (lambda c: Client("tcp://host"), "unsupported address"),
        (lambda c: Client(namespace=7), "namespace=7: must be a string"),  # type: ignore[arg-type]
        (lambda c: Registry().resolve(7), "ref=7: must be a string"),  # type: ignore[arg-type]
        (lambda c: RegistryOptions(hosts_dir=7), "hosts_dir=7: must be a path"),  # type: ignore[arg-type]
    ],
)
def test_an_invalid_argument_is_named_with_the_valid_values(client: Client, call: Call, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        call(client)
    assert message in caught.value.message


def test_a_string_is_one_reference(client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = list[str]()

    def find(_images: object, refs: str | list[str]) -> None:
        asked.extend([refs] if isinstance(refs, str) else refs)
        raise IngestLocked(f"{refs}: locked")

    monkeypatch.setattr("pyctrd.operations.lookup.find", find)
    monkeypatch.setattr("pyctrd.operations.lookup.find_by_name", find)
    with pytest.raises(IngestLocked):
        client.images.save("alpine", tmp_path / "x.tar")
    with pytest.raises(IngestLocked):
        client.images.verify("alpine")
    assert asked == ["alpine", "alpine"]
    assert list(tmp_path.iterdir()) == []


# --- the client -------------------------------------------------------------------------------------------


def test_creating_a_client_does_no_io() -> None:
    client = Client("/nonexistent/c.sock")
    assert repr(client) == "Client('/nonexistent/c.sock', 'default')"
    with pytest.raises(DaemonUnreachable, match=r"/nonexistent/c\.sock: no such file"):
        client.version()
    client.close()
    client.close()
    with pytest.raises(ClientClosed):
        client.version()


def in_a_fork(call: Callable[[], object], close: Callable[[], None]) -> str:
    """Make a call in a forked child, then close what it was made with; return the message of ClientClosed."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            call()
        except ClientClosed as error:
            close()
            os.write(writer, error.message.encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        return pipe.read()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_gets_an_error(client: Client) -> None:
    assert client.version().version
    assert "does not work after a fork" in in_a_fork(client.version, client.close)
    assert client.version().version


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_leaves_the_connections_to_registries_alone() -> None:
    with ScriptedServer() as server, Registry(RegistryOptions(plain_http=True)) as registry:
        server.always("GET", "/v2/team/app/tags/list", Answer(body=b'{"name": "team/app", "tags": ["1"]}'))
        repository = f"{server.host}/team/app"
        assert registry.tags(repository).tags == ("1",)
        for call in (
            lambda: registry.tags(repository),
            lambda: registry.copy(f"{repository}:1", f"{repository}:2", cancel=threading.Event()),
        ):
            assert "does not work after a fork" in in_a_fork(call, registry.close)
        assert registry.tags(repository).tags == ("1",)
        assert len(server.seen) == 2, "the child sent nothing"


def test_a_call_ends_at_once_if_cancel_is_already_set(client: Client) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        client.images.pull("registry.invalid/app", cancel=cancel)
    assert client.images.list() == ()


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Client, threading.Event]]:
    """A client of a containerd that does not answer, and an event for when it is asked."""
    asked, over, fake = threading.Event(), threading.Event(), FakeDaemon()

    def hang(_request: object, _context: object) -> None:
        asked.set()
        over.wait()

    fake.faults["Version"] = hang
    monkeypatch.setattr("pyctrd.containerd.version.CONNECT_SECONDS", 120)
    with tempfile.TemporaryDirectory(prefix="pyctrd-", dir="/tmp") as folder:
        path = Path(folder) / "c.sock"
        server: grpc.Server = serve(path, fake)
        with Client(path) as client:
            yield client, asked
        over.set()
        server.stop(None).wait()


@pytest.mark.parametrize("how", ["the call's event", "cancel", "close"])
def test_a_connection_attempt_can_be_ended(hanging: tuple[Client, threading.Event], how: str) -> None:
    client, asked = hanging
    cancel = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        verified = pool.submit(client.images.verify, cancel=cancel)
        assert asked.wait(60)
        {"the call's event": cancel.set, "cancel": client.cancel, "close": client.close}[how]()
        with pytest.raises(ClientClosed if how == "close" else Cancelled):
            verified.result(60)


class SetWhenSeen(threading.Event):
    """An event that is set after it was checked once."""

    def is_set(self) -> bool:
        found = super().is_set()
        self.set()
        return found


def test_a_call_that_waits_for_the_connection_attempt_of_another_can_be_cancelled(
    hanging: tuple[Client, threading.Event],
) -> None:
    client, asked = hanging
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.version)
        assert asked.wait(60)
        second = pool.submit(client.images.verify, cancel=SetWhenSeen())
        with pytest.raises(Cancelled):
            second.result(60)
        assert not first.done()
        client.close()
        with pytest.raises(ClientClosed):
            first.result(60)


def test_closing_does_not_wait_for_a_connection_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def connect(*_args: object, **_named: object) -> None:
        begun.set()
        go_on.wait(10)
        raise DaemonUnreachable("too late")

    monkeypatch.setattr("pyctrd.connection.Daemon.connect", connect)
    client = Client("/nonexistent/c.sock")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        version = pool.submit(client.version)
        assert begun.wait(10)
        client.close()
        go_on.set()
        with pytest.raises(DaemonUnreachable):
            version.result()
    with pytest.raises(ClientClosed):
        client.version()
