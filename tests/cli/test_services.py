"""The commands for content, ingests, leases, namespaces, snapshots, events and plugins."""

from __future__ import annotations

import datetime as dt
import io
import json
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from rich.console import Console

from pyctrd.cli import commandline, lists
from pyctrd.cli.settings import Settings
from pyctrd.cli.terminal import TerminalPage
from pyctrd.errors import IngestLocked, NotFound, Remedy
from pyctrd.oci.expiry import EXPIRE_LABEL
from pyctrd.oci.model import ContentInfo, Digest, Mount, SnapshotInfo
from pyctrd.oci.resources import Event, Lease, Namespace, Plugin
from pyctrd.operations.ingests import AbortResult, Ingest
from pyctrd.operations.leases import LeaseDetails, LeasedSnapshot, LeaseOverview
from pyctrd.operations.namespaces import NamespaceOverview
from pyctrd.operations.snapshots import SnapshotLevel, SnapshotSize
from tests.cli.stub import run, with_outcome

DIGEST = Digest.of(b"x")
NOW = dt.datetime.now(dt.UTC)
LEASE = Lease(
    id="123-abcd",
    labels={"pyctrd.io/command": "pull", EXPIRE_LABEL: "2020-01-01T00:00:00Z"},
    created_at=NOW - dt.timedelta(hours=5),
)
INGEST = Ingest(
    ref=f"layer-{DIGEST}",
    offset=1 << 20,
    total=3 << 20,
    expected=DIGEST,
    started_at=NOW - dt.timedelta(hours=5),
    updated_at=NOW - dt.timedelta(minutes=5),
    leases=(LEASE,),
)
BLOB = ContentInfo(digest=DIGEST, size=7, labels={"a": "1"})
SNAPSHOT = SnapshotInfo(name=DIGEST, kind="committed", created_at=NOW - dt.timedelta(days=5))
WORK = SnapshotInfo(name=f"k8s.io/{60 * 'x'}", parent=DIGEST, kind="active")
EVENT = Event(
    time=NOW,
    namespace="default",
    topic="/images/create",
    kind="image",
    action="create",
    name="app:1",
    type_url="containerd.services.images.v1.ImageCreate",
    payload={"name": "app:1", "labels": {}},
)
PLUGIN = Plugin(type="io.containerd.snapshotter.v1", id="btrfs", error="path is not btrfs:\nskip plugin")

# Command -> what the client returns, a name that is shown whole, and the JSON of the first row.
LISTS: dict[tuple[str, ...], tuple[Any, str, dict[str, Any]]] = {
    ("content", "ls"): ((BLOB,), DIGEST.short, {"digest": DIGEST, "size": 7, "labels": {"a": "1"}}),
    ("ingests", "ls"): (
        (INGEST,),
        INGEST.ref,
        {"ref": INGEST.ref, "offset": 1 << 20, "total": 3 << 20, "writer": "pull", "leases": [LEASE.id]},
    ),
    ("leases", "ls"): (
        (LeaseOverview(lease=LEASE, content=2, ingests=1),),
        LEASE.id,
        {"id": LEASE.id, "expires_at": "2020-01-01T00:00:00Z", "purpose": "pull", "content": 2, "images": 0},
    ),
    ("namespaces", "ls"): (
        (NamespaceOverview(namespace=Namespace(name=76 * "n", labels={"a": "1"}), images=3, containers=4),),
        76 * "n",
        {"name": 76 * "n", "labels": {"a": "1"}, "images": 3, "containers": 4},
    ),
    ("snapshots", "ls"): (
        (WORK, SNAPSHOT),
        WORK.name,
        {"key": WORK.name, "parent": DIGEST, "kind": "active"},
    ),
    ("snapshots", "usage"): (
        (SnapshotSize(snapshot=SNAPSHOT, bytes=8192, inodes=3),),
        DIGEST.short,
        {"key": DIGEST, "kind": "committed", "bytes": 8192, "inodes": 3},
    ),
    ("snapshots", "tree"): (
        tuple(SnapshotLevel(snapshot=item, depth=depth) for depth, item in enumerate((SNAPSHOT, WORK))),
        f"\\_ {WORK.name} (active)",
        {"key": DIGEST, "depth": 0},
    ),
    ("plugins",): (
        (PLUGIN,),
        PLUGIN.type,
        {"type": PLUGIN.type, "id": "btrfs", "status": "skip", "platforms": [], "error": PLUGIN.error},
    ),
}


@pytest.mark.parametrize("arguments", LISTS, ids=" ".join)
def test_lists_are_printed_as_table_and_json(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    outcome, name, document = LISTS[arguments]
    with_outcome(monkeypatch, outcome)
    documents = json.loads(run(*arguments, "--format", "json").stdout)
    assert document.items() <= documents[0].items()
    lines = run(*arguments, "--format", "jsonl").stdout.splitlines()
    assert list(map(json.loads, lines)) == documents
    assert len(run(*arguments, "--format", "wide").stdout.splitlines()) == 1 + len(outcome)
    assert len(run(*arguments, "-q").stdout.splitlines()) == len(outcome)
    for width in (80, 160):
        stream = io.StringIO()
        page = TerminalPage(Console(file=stream, width=width, force_terminal=True, color_system=None))
        monkeypatch.setattr(lists, "open_page", lambda page=page: page)
        run(*arguments)
        assert name in stream.getvalue()
        assert max(map(len, stream.getvalue().splitlines())) <= width


def test_a_lease_shows_when_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    lasting = Lease(id="b", labels={EXPIRE_LABEL: "2999-01-01T00:00:00Z"})
    found = (LeaseOverview(lease=LEASE), LeaseOverview(lease=lasting), LeaseOverview(lease=Lease(id="c")))
    with_outcome(monkeypatch, found)
    rows = [line.split("  ") for line in run("leases", "ls").stdout.splitlines()[1:]]
    shown = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert shown[0] == ["123-abcd", "5 h", "expired", "pull", "nothing"]
    assert shown[1][1].startswith("in 97")
    assert shown[2] == ["c", "never", "nothing"]


def test_a_lease_is_inspected(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = LeasedSnapshot(snapshotter="overlayfs", key=DIGEST, bytes=4096, inodes=2)
    with_outcome(
        monkeypatch, LeaseDetails(lease=LEASE, content=(BLOB,), snapshots=(snapshot,), ingests=(INGEST,))
    )
    text = run("leases", "inspect", LEASE.id).stdout
    assert "holds: 1.0 MiB" in text
    assert all(word in text for word in (DIGEST, "overlayfs", "4.0 KiB", INGEST.ref, "expires: 2020"))
    document = json.loads(run("leases", "inspect", LEASE.id, "--format", "json").stdout)
    assert document["bytes"] == 7 + 4096 + (1 << 20)
    assert document["snapshots"] == [{"snapshotter": "overlayfs", "key": DIGEST, "bytes": 4096, "inodes": 2}]


def test_mounts_are_commands_as_ctr_prints_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, (Mount(type="bind", source="/a", target="sub", options=("rbind", "ro")),))
    done = run("snapshots", "mounts", "key", "--target", "/there")
    assert done.stdout == "mount -t bind /a /there/sub -o rbind,ro\n"
    assert json.loads(run("snapshots", "mounts", "key", "--format", "json").stdout) == [
        {"type": "bind", "source": "/a", "target": "sub", "options": ["rbind", "ro"]}
    ]


def test_a_deep_tree_keeps_its_names_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = tuple(
        SnapshotLevel(snapshot=SnapshotInfo(name=f"layer-{depth}", kind="committed"), depth=depth)
        for depth in range(127)
    )
    with_outcome(monkeypatch, levels)
    lines = run("snapshots", "tree").stdout.splitlines()[1:]
    assert max(map(len, lines)) < 80
    assert lines[1] == "\\_ layer-1"
    assert "\\_ (126) layer-126" in lines[-1]


def test_events_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = Event(
        time=None,
        namespace="",
        topic="/new/thing",
        kind="new",
        action="thing",
        name="",
        type_url="t.New",
        payload=None,
    )
    opened = with_outcome(monkeypatch, mock.MagicMock())
    stream = opened.return_value.events.stream
    stream.return_value.__enter__.return_value = iter([EVENT, unknown])
    first, second = run("events", "-f", "a==b", "--format", "wide").stdout.splitlines()
    assert first.split(" ", 1)[1] == "default image create app:1 /images/create"
    assert second == "- new thing (t.New) /new/thing"
    assert stream.call_args.args == (("a==b",),)
    stream.return_value.__enter__.return_value = iter([EVENT])
    document = json.loads(run("events", "--format", "json").stdout)
    assert (document["kind"], document["payload"]) == ("image", {"name": "app:1", "labels": {}})


def test_aborted_writes_are_named_and_those_in_progress_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = with_outcome(monkeypatch, AbortResult(aborted=(INGEST,), active=(INGEST,)))
    done = run("ingests", "abort", "--older-than", "2h")
    assert done.stdout == f"{INGEST.ref}\n"
    assert done.stderr == "pyctrd: left alone: 1 write in progress\n"
    assert opened.return_value.content.abort.call_args.kwargs["older_than"] == dt.timedelta(hours=2)
    document = json.loads(run("ingests", "abort", "--all", "--format", "json").stdout)
    assert [item["ref"] for item in document["active"]] == [INGEST.ref]


@pytest.mark.parametrize(
    "arguments",
    [
        ("ingests", "abort"),
        ("ingests", "abort", "a", "--all"),
        ("ingests", "abort", "--older-than", "soon"),
        ("leases", "create", "--ttl", "0s"),
        ("leases", "create", "--ttl", "1h", "--no-expiry"),
        ("leases", "create", "--label", "x"),
        ("content", "rm"),
        ("content", "label", "abc", "x"),
        ("content", "label", "abc", "=x"),
        ("content", "label", "abc", "a=1", "a=2"),
        ("content", "get", "--offset", "-1", "abc"),
        ("namespaces", "label", "a"),
        ("snapshots", "rm"),
    ],
    ids=" ".join,
)
def test_usage_errors_exit_with_2(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    opened = with_outcome(monkeypatch, None)
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert not opened.called


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (IngestLocked("locked", code="UNAVAILABLE", hint="or pass `force` to make its client fail"), 1),
        (NotFound("gone", kind="lease", name="x", hint="list", remedy=Remedy(method="leases.list")), 3),
    ],
)
def test_errors_have_their_exit_code_and_hint(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    with_outcome(monkeypatch, error)
    done = run("leases", "rm", "x")
    assert done.exit_code == code
    assert done.stderr.endswith(
        {1: "hint: or pass --force to make its client fail\n", 3: "hint: list: pyctrd leases ls\n"}[code]
    )


def test_a_remedy_names_its_namespace() -> None:
    command: Callable[[Remedy], str] = lambda remedy: commandline.of(remedy, Settings(namespace="mine"))  # noqa: E731
    assert command(Remedy(method="snapshots.list", namespace="theirs")) == "pyctrd -n theirs snapshots ls"
    assert (
        command(Remedy(method="content.save", images=("sha256:ab",)))
        == "pyctrd -n mine content get sha256:ab"
    )
