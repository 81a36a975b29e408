"""What `why` prints."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from pyctrd.oci.model import Digest
from pyctrd.operations.why import WhyResult
from pyctrd.steps.removal import Reference
from tests.cli.stub import run, with_outcome

BLOB = Digest.of(b"blob")
SHORT = BLOB.short
OBJECT = Reference(kind="content", name=BLOB)
SOON = dt.datetime.now(dt.UTC) + dt.timedelta(hours=23, minutes=30)
CHAINS = (
    (
        Reference(kind="lease", name="1-ab", expires_at=SOON, purpose="pull"),
        Reference(kind="content", name=BLOB, via="lease"),
    ),
    (
        Reference(kind="image", name="docker.io/library/app:1"),
        Reference(kind="content", name=Digest.of(b"index"), via="target"),
        Reference(kind="content", name=BLOB, via="containerd.io/gc.ref.content.m.0"),
    ),
    (
        Reference(kind="snapshot", name="s", snapshotter="native", via="containerd.io/gc.root"),
        Reference(kind="content", name="sha256:0", via="containerd.io/gc.ref.content", here=False),
        Reference(kind="content", name=BLOB, via="containerd.io/gc.bref.content"),
    ),
)


def test_chains_are_printed_as_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, WhyResult(objects=(OBJECT,), chains=CHAINS))
    assert run("why", "x").stdout.splitlines() == [
        f"blob {SHORT} is kept by 3 chains of references:",
        "",
        "  lease 1-ab (pull, expires in 23 h)",
        f"    holds: blob {SHORT}",
        "",
        "  image docker.io/library/app:1",
        f"    its target: blob {Digest.of(b'index').short}",
        f"      gc.ref.content.m.0: blob {SHORT}",
        "",
        "  native snapshot s (label gc.root)",
        "    gc.ref.content: blob sha256:0 (not here)",
        f"      gc.bref.content: blob {SHORT}",
    ]


def test_an_image_has_its_record_what_else_keeps_its_content_and_who_uses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = Reference(kind="image", name="app:1", expires_at=SOON)
    result = WhyResult(objects=(image,), chains=((image,), CHAINS[0]), containers=("c1",), pinned=("app:1",))
    with_outcome(monkeypatch, result)
    assert run("why", "x").stdout.splitlines() == [
        "image app:1 stays until it is removed, or expires in 23 h",
        *("its content is also kept by 1 chain of references:", ""),
        *("  lease 1-ab (pull, expires in 23 h)", f"    holds: blob {SHORT}", ""),
        *("container c1 uses it", "app:1 is pinned for Kubernetes"),
    ]


def test_of_an_image_that_only_its_record_keeps_that_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Reference(kind="image", name="app:1")
    with_outcome(monkeypatch, WhyResult(objects=(image,), chains=((image,),), containers=("c1",)))
    assert run("why", "x").stdout.splitlines() == [
        "image app:1 stays until it is removed",
        "container c1 uses it",
    ]


def test_a_few_of_many_chains_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, WhyResult(objects=(OBJECT,), chains=15 * CHAINS[:1]))
    assert run("why", "x").stdout.splitlines()[-2:] == ["", "... and 5 more: see --format json"]


def test_without_a_chain_it_says_so_and_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, WhyResult(objects=(OBJECT,)))
    found = run("why", "x")
    assert (found.exit_code, found.stdout) == (
        0,
        f"nothing keeps blob {SHORT}: the next garbage collection removes it\n",
    )


def test_json(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, WhyResult(objects=(OBJECT,), chains=CHAINS))
    found = json.loads(run("why", "x", "--format", "json").stdout)
    assert found["objects"] == [{"kind": "content", "name": BLOB}]
    assert found["chains"][0] == [
        {
            "kind": "lease",
            "name": "1-ab",
            "via": "",
            "expires_at": SOON.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "purpose": "pull",
        },
        {"kind": "content", "name": BLOB, "via": "lease"},
    ]
    assert found["chains"][2][0] == {
        "kind": "snapshot",
        "name": "s",
        "snapshotter": "native",
        "via": "containerd.io/gc.root",
    }
    assert (found["containers"], found["pinned"]) == ([], [])
