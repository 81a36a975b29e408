"""Content, ingests, leases, namespaces, snapshots, events and plugins, compared with ctr's."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.bench import Bench
from integration.rig.daemons import Containerd
from integration.rig.store import digests, snapshot_of
from integration.shell import Shell, on_a_terminal
from pyctrd import (
    Client,
    DaemonUnreachable,
    Descriptor,
    Digest,
    Event,
    FailedPrecondition,
    ImageRecord,
    IngestLocked,
    InUse,
    LeaseResource,
    NotFound,
)
from pyctrd.containerd import Daemon
from tests.support import shapes
from tests.support.images import Graph

pytestmark = pytest.mark.two_generations

DAY = dt.timedelta(days=1)


@pytest.fixture
def graph() -> Graph:
    return shapes.five_platform(2, salt=uuid.uuid4().hex)


@pytest.fixture
def client(bench: Bench) -> Iterator[Client]:
    with bench.client() as opened:
        yield opened


def table(text: bytes) -> list[list[str]]:
    """Return the rows of a table of ctr, without its head."""
    return [line.split() for line in text.decode().splitlines()[1:]]


# --- content ----------------------------------------------------------------------------------------------


def test_content_is_shown_as_ctr_shows_it(bench: Bench, client: Client, shell: Shell, graph: Graph) -> None:
    name = bench.pull(graph)
    listed = [row[0] for row in table(bench.ctr("content", "ls").stdout)]
    assert sorted(listed) == [info.digest for info in client.content.list()]
    (found,) = client.content.list(f"digest=={graph.digest}")
    assert (found.digest, found.labels) == (graph.digest, client.content.get(graph.digest).labels)
    assert client.content.find(graph.digest[7:24]) == graph.digest
    written = shell.folder / "index.json"
    shell("content", "get", graph.digest[:24], "-o", str(written))
    stored = bench.ctr("content", "get", graph.digest).stdout
    assert written.read_bytes() == shell("content", "get", graph.digest).stdout == stored
    part = shell("content", "get", "--offset", "2", "--length", "9", graph.digest).stdout
    assert part == stored[2:11]
    shown = shell("content", "read", graph.digest).stdout
    assert shown.count(b"\n") > 10
    assert json.loads(shown) == json.loads(stored)
    assert client.images.get(name).target.digest == graph.digest
    layer = next(info.digest for info in client.content.list() if not client.content.is_document(info.digest))
    code, text = on_a_terminal(shell, "content", "get", layer)
    assert (code, "cowardly refusing" in text) == (2, True)
    code, text = on_a_terminal(shell, "content", "get", graph.digest)
    assert (code, text.strip().encode()) == (0, stored)


def test_content_is_labelled_and_removed_as_by_ctr(bench: Bench, shell: Shell, graph: Graph) -> None:
    name = bench.pull(graph)
    shell("content", "label", graph.digest, "team=web", "extra=1")
    bench.ctr("content", "label", graph.digest, "extra=")
    assert snapshot_of(bench.containerd, bench.namespace)["content"][graph.digest]["labels"]["team"] == "web"
    assert "extra" not in shell.json("content", "info", graph.digest)["labels"]
    child = json.loads(graph.blobs[graph.digest])["manifests"][0]["digest"]
    before = digests(bench.containerd, bench.namespace)
    refused = shell("content", "rm", graph.digest, child, code=1).stderr.decode()
    assert f"content {graph.digest} is in use by image {name}" in refused
    refused = shell("content", "rm", child, code=1).stderr.decode()
    assert f"in use by content {graph.digest} (label containerd.io/gc.ref.content.m.0)" in refused
    assert digests(bench.containerd, bench.namespace) == before
    assert shell("content", "rm", "--force", child).stdout.decode().split() == [child]
    assert child not in bench.ctr("content", "ls", "-q").stdout.decode()


def test_fetch_leaves_what_ctr_leaves(bench: Bench, shell: Shell, graph: Graph) -> None:
    name = bench.pull(graph)
    other = f"{bench.namespace}-ctr"
    own = Shell(bench.containerd, f"{bench.namespace}-own", shell.folder)
    bench.containerd.ctr("content", "fetch", "--plain-http", name, namespace=other)
    metadata = "selected" if bench.containerd.is_1 else "all"
    own("content", "fetch", "-q", "--metadata", metadata, name)
    theirs, ours = (snapshot_of(bench.containerd, one) for one in (other, own.namespace))
    assert ours["content"] == theirs["content"]
    assert ours["images"] == theirs["images"]
    assert ours["snapshots"] == theirs["snapshots"] == {}


# --- ingests ----------------------------------------------------------------------------------------------


@pytest.mark.every_generation
def test_only_writes_that_no_client_has_open_are_aborted(bench: Bench, client: Client) -> None:
    data = 100 * b"x"
    # Without an image, a collection may take the blob as soon as it is committed.
    target = Descriptor(media_type="application/octet-stream", digest=Digest.of(data), size=len(data))
    with Daemon.connect(str(bench.containerd.address), bench.namespace) as daemon:
        daemon.images.create(ImageRecord(name="keeps-the-blob", target=target))
    writing = bench.containerd.ctr.start(
        *("content", "ingest", "--expected-size", "100", "busy"),
        namespace=bench.namespace,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        assert writing.stdin is not None
        while not client.content.ingests():
            assert writing.poll() is None
        with pytest.raises(IngestLocked, match="busy locked: it is being written right now"):
            client.content.abort(["busy"])
        result = client.content.abort(everything=True)
        assert [ingest.ref for ingest in result.active] == ["busy"]
        assert result.aborted == ()
        writing.stdin.write(data)
        writing.stdin.close()
        assert writing.wait() == 0  # what has asked whether it is open has not disturbed it
    finally:
        writing.kill()
        writing.wait()
    assert client.content.ingests() == ()
    assert [info.size for info in client.content.list()] == [100]


def test_unfinished_writes_are_listed_with_their_writer_and_aborted(
    bench: Bench, client: Client, shell: Shell
) -> None:
    with bench.daemon() as daemon, daemon.lease("pull") as leased:
        for ref, store in (("leased", leased), ("alone", daemon)):
            with store.content.open_ingest(ref, digest=None, size=100) as ingest:
                ingest.write(b"12345")
        rows = {row["ref"]: row for row in shell.json("ingests", "ls")}
        assert {ref: row["offset"] for ref, row in rows.items()} == {"leased": 5, "alone": 5}
        assert {ref: row["writer"] for ref, row in rows.items()} == {"leased": "pull", "alone": ""}
        active = [row[0] for row in table(bench.ctr("content", "active").stdout)]
        assert sorted(active) == sorted(rows)
        assert client.content.abort(older_than=DAY).aborted == ()
        assert shell("ingests", "abort", "alone").stdout == b"alone\n"
        assert [ingest.ref for ingest in client.content.abort(older_than=dt.timedelta()).aborted] == [
            "leased"
        ]
    assert table(bench.ctr("content", "active").stdout) == []


# --- leases -----------------------------------------------------------------------------------------------


def test_leases_are_those_of_ctr(bench: Bench, client: Client, shell: Shell, graph: Graph) -> None:
    shell("leases", "create", "--id", "ours", "--ttl", "2h", "--label", "team=web")
    bench.ctr("leases", "create", "--id", "theirs")
    rows = {row[0]: row[2] for row in table(bench.ctr("leases", "ls").stdout)}
    assert {lease.id for lease in client.leases.list()} == rows.keys() == {"ours", "theirs"}
    assert "team=web" in rows["ours"]
    kept = {lease.id: lease.expires_at for lease in client.leases.list()}
    assert all(when is not None for when in kept.values())
    name = bench.pull(graph)
    target = client.images.get(name).target.digest
    snapshot = client.snapshots.list()[0].name
    with bench.daemon() as daemon:
        daemon.leases.add("ours", LeaseResource(type="content", id=target))
        daemon.leases.add("ours", LeaseResource(type="snapshots/overlayfs", id=snapshot))
    found = shell.json("leases", "inspect", "ours")
    assert [blob["digest"] for blob in found["content"]] == [target]
    assert found["bytes"] == len(graph.blobs[target]) + found["snapshots"][0]["bytes"]
    bench.ctr("images", "rm", "--sync", name)
    assert target in digests(bench.containerd, bench.namespace)
    assert shell("leases", "rm", "--sync", "ours", "theirs").stdout.decode().split() == ["ours", "theirs"]
    assert target not in digests(bench.containerd, bench.namespace)
    assert table(bench.ctr("leases", "ls").stdout) == []


def test_the_lease_of_a_write_in_progress_is_not_removed(client: Client, bench: Bench) -> None:
    with bench.daemon() as daemon, daemon.lease("pull") as leased:
        (lease,) = client.leases.list()
        with leased.content.open_ingest("busy", digest=None, size=100) as ingest:
            ingest.write(b"1")
            with pytest.raises(InUse, match="is in use by pull: busy is being written right now"):
                client.leases.remove([lease.id])
        assert client.leases.list() == (lease,)
        assert client.leases.remove([lease.id], sync=True) == (lease,)
        assert client.content.ingests() == ()  # collected with its lease
        daemon.leases.create(lease.id, lease.labels)  # for the end of this test's own work


# --- namespaces -------------------------------------------------------------------------------------------


def test_namespaces_are_those_of_ctr(bench: Bench, client: Client, shell: Shell, graph: Graph) -> None:
    name = f"{bench.namespace}-made"
    shell("namespaces", "create", name, "--label", "a=1", "--label", "b=2")
    shell("namespaces", "label", name, "a-", "c=3")
    rows = {row[0]: row[1:] for row in table(bench.ctr("namespaces", "ls").stdout)}
    assert rows[name] == ["b=2,c=3"]
    assert {item.name for item in client.namespaces.list()} == rows.keys()
    bench.ctr("namespaces", "label", f"{name}-theirs", "a=1")
    assert f"{name}-theirs" in {item.name for item in client.namespaces.list()}
    shell("namespaces", "label", f"{name}-ours", "a=1", code=3)
    bench.pull(graph)
    counts = {row["name"]: row["images"] for row in shell.json("namespaces", "ls")}
    assert (counts[name], counts[bench.namespace]) == (0, 1)
    theirs = bench.ctr("namespaces", "rm", bench.namespace, check=False).stderr.decode()
    with pytest.raises(FailedPrecondition) as refused:
        client.namespaces.remove([bench.namespace])
    phrase = refused.value.message.removesuffix(": failed precondition")
    assert f'namespace "{bench.namespace}" must be empty' in phrase
    assert phrase in theirs
    assert "1 image" in str(refused.value.hint)
    shell("namespaces", "rm", name)
    assert name not in bench.ctr("namespaces", "ls", "-q").stdout.decode().split()


# --- snapshots --------------------------------------------------------------------------------------------


def test_snapshots_are_those_of_ctr(bench: Bench, client: Client, shell: Shell, graph: Graph) -> None:
    bench.pull(graph)
    below, above = sorted(client.snapshots.list(), key=lambda info: bool(info.parent))
    # It would be collected without the one above it.
    bench.ctr("snapshots", "label", below.name, "containerd.io/gc.root=kept")
    bench.ctr("snapshots", "prepare", "work", above.name)
    rows = {row[0]: row[-1].lower() for row in table(bench.ctr("snapshots", "ls").stdout)}
    assert {row["key"]: row["kind"] for row in shell.json("snapshots", "ls")} == rows
    assert shell("snapshots", "tree", "-q").stdout.decode().split() == [below.name, above.name, "work"]
    theirs = {row[0]: row[-1] for row in table(bench.ctr("snapshots", "usage", "-b").stdout)}
    assert {row["key"]: str(row["inodes"]) for row in shell.json("snapshots", "usage")} == theirs
    mounts = shell("snapshots", "mounts", "work", "--target", "/there").stdout
    assert mounts == bench.ctr("snapshots", "mounts", "/there", "work").stdout
    refused = shell("snapshots", "rm", above.name, code=1).stderr.decode()
    assert "cannot remove snapshot with child" in refused
    assert f"{above.name} is the parent of work: remove these first" in refused
    assert shell("snapshots", "rm", above.name, "work").stdout.decode().split() == ["work", above.name]
    assert [info.name for info in client.snapshots.list()] == [below.name]
    with pytest.raises(NotFound):
        client.snapshots.remove(["nothing"])


# --- events and plugins -----------------------------------------------------------------------------------


def test_events_are_those_of_ctr(bench: Bench, client: Client, graph: Graph) -> None:
    filters = f"namespace=={bench.namespace}"
    client.namespaces.create(bench.namespace)
    theirs = bench.containerd.ctr.start("events", filters, stdout=subprocess.PIPE)
    lines: list[list[str]] = []
    seen = threading.Event()

    def read() -> None:
        assert theirs.stdout is not None
        for line in theirs.stdout:
            lines.append(line.decode().split(maxsplit=6))
            seen.set()

    reading = threading.Thread(target=read)
    reading.start()
    try:
        with client.events.stream([filters]) as stream:
            while not seen.wait(0.1):  # until ctr has subscribed
                client.namespaces.label(bench.namespace, {"now": uuid.uuid4().hex})
            name = bench.pull(graph)
            client.content.remove(graph.digest, force=True)
            bench.ctr("images", "rm", "--sync", name)
            client.namespaces.label(bench.namespace, {"end": "1"})
            ours: list[Event] = []
            for event in stream:
                ours.append(event)
                if event.payload and event.payload.get("labels", {}).get("end"):
                    break
        seen.clear()
        while not any('"end"' in line[-1] for line in lines):
            assert seen.wait(30)
            seen.clear()
    finally:
        theirs.kill()
        reading.join()
        theirs.communicate()
    shown = [(line[-2], _fields(line[-1])) for line in lines]
    here = [(event.topic, _without_empty(event.payload)) for event in ours]
    assert here[-len(shown) :] == shown
    names = {f"{event.kind} {event.action}" for event in ours}
    assert {"image create", "image delete", "content delete", "snapshot commit"} <= names
    assert all(event.payload is not None for event in ours)


def _fields(text: str) -> dict[str, Any]:
    return _without_empty(json.loads(text))


def _without_empty(fields: Any) -> dict[str, Any]:
    """Leave out empty fields, which Go's JSON does not have."""
    return {key: value for key, value in dict(fields).items() if value}


def test_the_end_of_containerd_ends_the_stream_with_an_error(
    fresh_containerd: Containerd, tmp_path: Path
) -> None:
    shell = Shell(fresh_containerd, "default", tmp_path)
    with Client(str(fresh_containerd.address), "default") as client:
        process = shell.start("events", "--format", "jsonl", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        stream = client.events.stream("topic~=^/namespaces/")
        assert process.stdout is not None
        lines = iter(process.stdout)
        found = threading.Event()
        labelling = threading.Thread(target=_label_until, args=(client, found))
        labelling.start()
        event = json.loads(next(lines))
        found.set()
        labelling.join()
        assert (event["namespace"], event["kind"]) == ("there", "namespace")
        assert next(stream).name == "there"
        fresh_containerd.stop()
        with process:
            _, stderr = process.communicate(timeout=60)
        assert process.returncode == 6
        assert b"pyctrd: " in stderr
        with pytest.raises(DaemonUnreachable):
            list(stream)


def _label_until(client: Client, found: threading.Event) -> None:
    client.namespaces.create("there")
    while not found.wait(0.1):
        client.namespaces.label("there", {"now": uuid.uuid4().hex})


def test_plugins_are_those_of_ctr(bench: Bench, client: Client) -> None:
    rows = {(row[0], row[1]): row[-1] for row in table(bench.ctr("plugins", "ls").stdout)}
    assert {(item.type, item.id): item.status for item in client.plugins()} == rows
    (found,) = client.plugins("type==io.containerd.snapshotter.v1,id==overlayfs")
    assert found.status == "ok"
