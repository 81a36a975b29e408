"""What inspect and history print about an image."""

from __future__ import annotations

import datetime as dt
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from pyctrd.cli import imageinfo
from pyctrd.cli.commands.history import listing
from pyctrd.cli.terminal import TerminalPage
from pyctrd.errors import ImageNotFound, InvalidReference, Remedy
from pyctrd.oci.model import ImageRecord
from pyctrd.oci.platforms import Selection, parse
from pyctrd.oci.resources import Container
from pyctrd.operations.history import HistoryStep, history
from pyctrd.operations.inspect import ImageInfo, inspect
from tests.cli.stub import run, with_outcome
from tests.support import images, shapes
from tests.support.memory import MemoryStore

NAME = "registry.example/a-team/an-application-with-a-long-name/backend:1.2.3"
LONG = "RUN /bin/sh -c apk add\t--no-cache \\\n  python3 py3-pip build-base # buildkit"
NOW = dt.datetime(2024, 5, 25, tzinfo=dt.UTC)
HOST = Selection(host=parse("linux/amd64"))


def made() -> tuple[MemoryStore, ImageRecord]:
    layers = shapes.layers_for("linux/amd64", 2)
    config = images.config(
        layers,
        created="2024-05-22T18:18:13Z",
        author="me",
        config={
            "Entrypoint": ["/bin/sh", "-c"],
            "Cmd": ["echo hi"],
            "Env": ["A=1", "B=2"],
            "Labels": {"x": "y"},
        },
        history=[
            {"created": "2024-05-22T18:18:12Z", "created_by": "ADD file:1 in /"},
            {"created": "2024-05-22T18:18:12Z", "created_by": "ENV A=1", "empty_layer": True},
            {"created": "2024-05-22T18:18:13Z", "created_by": LONG, "comment": "buildkit.dockerfile.v0"},
        ],
    )
    one = images.manifest(config, layers, on="linux/amd64")
    graph = images.index(
        [one, shapes.single("linux/arm64").described_as(platform=images.platform("linux/arm64"))]
    )
    store = MemoryStore()
    other = json.loads(graph.blobs[graph.child(1).digest])["layers"][0]["digest"]
    store.put(graph.blobs, without=[other])
    store.tag("docker.io/library/other:1", graph.root)
    store.state.containers["c1"] = Container(id="c1", image=NAME)
    return store, store.tag(NAME, graph.root)


def info() -> ImageInfo:
    store, image = made()
    return inspect(store, image, HOST)


def steps() -> Sequence[HistoryStep]:
    store, image = made()
    return history(store, image, HOST)


def test_inspect_shows_the_record_the_documents_and_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    found = info()
    client = with_outcome(monkeypatch, found)
    result = run("inspect", NAME, "--platform", "linux/amd64")
    assert client.return_value.images.inspect.call_args.args == (NAME, ("linux/amd64",))
    assert result.exit_code == 0
    shown = result.stdout
    for line in (
        f"index {found.image.target.digest}, ",
        "also named: docker.io/library/other:1\n",
        "containers: c1\n",
        f"manifest: {found.manifests[0].descriptor.digest}\n",
        "built: 2024-05-22T18:18:13Z (",
        "entrypoint: /bin/sh -c\n",
        "command: 'echo hi'\n",
        "environment: A=1\n  B=2\n",
        "image labels: x=y\n",
        "RUN /bin/sh -c apk add --no-cache \\ python3 py3-pip build-base # buildkit",
    ):
        assert line in shown
    rows = [line.split() for line in shown.splitlines() if line.startswith("linux/a") and "  " in line]
    assert [row[:2] for row in rows] == [["linux/amd64", "complete"], ["linux/arm64", "missing:"]]


def test_inspect_as_json_has_the_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    found = info()
    with_outcome(monkeypatch, found)
    shown = json.loads(run("inspect", NAME, "--format", "json").stdout)
    assert (shown["name"], shown["names"], shown["containers"]) == (
        NAME,
        ["docker.io/library/other:1"],
        ["c1"],
    )
    assert (shown["complete"], shown["in_use"], shown["pinned"], shown["leases"]) == (True, True, False, [])
    assert found.index is not None
    assert shown["index"] == json.loads(found.index.raw)
    (manifest,) = shown["manifests"]
    assert manifest["config"]["config"]["Env"] == ["A=1", "B=2"]
    assert manifest["manifest"]["layers"][0]["digest"] == manifest["history"][-1]["layer"]["digest"]
    assert [step["created_by"] for step in manifest["history"]] == [LONG, "ENV A=1", "ADD file:1 in /"]
    assert [(row["platform"], row["selected"], row["complete"]) for row in shown["platforms"]] == [
        ("linux/amd64", True, True),
        ("linux/arm64", False, False),
    ]


@pytest.mark.parametrize(
    ("error", "code", "hint"),
    [
        (
            ImageNotFound(
                'image "x": not found',
                kind="image",
                name="x",
                hint="pull it",
                remedy=Remedy(method="pull", images=("x",)),
            ),
            3,
            "hint: there is no such file either; pull it: pyctrd pull x",
        ),
        (InvalidReference("invalid reference format"), 2, "hint: there is no such file either"),
    ],
)
def test_neither_an_image_nor_an_archive(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, hint: str
) -> None:
    with_outcome(monkeypatch, error)
    result = run("inspect", "x")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.splitlines()[-1] == hint


def test_a_file_is_an_archive_whatever_images_there_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    client = with_outcome(monkeypatch, info())
    monkeypatch.chdir(tmp_path)
    Path("alpine").write_bytes(b"not a tar" * 100)
    assert run("inspect", "alpine").exit_code == 1
    assert not client.called
    Path("folder").mkdir()  # not an OCI layout
    assert run("inspect", "folder").exit_code == 0
    assert client.called


def test_history_has_the_latest_step_first(monkeypatch: pytest.MonkeyPatch) -> None:
    found = steps()
    client = with_outcome(monkeypatch, found)
    header, *rows = run("history", NAME, "--platform", "amd64").stdout.splitlines()
    assert client.return_value.images.history.call_args.args == (NAME, "amd64")
    assert header.split("  ")[0] == "CREATED"
    assert [" ".join(row.split()).split(" years ")[1].split(" ")[0] for row in rows] == ["RUN", "ENV", "ADD"]
    assert LONG.split()[-1] in rows[0]
    quiet = run("history", NAME, "-q").stdout.split()
    assert quiet == [step.layer.digest for step in found if step.layer]
    (wide, *_) = run("history", NAME, "--format", "wide").stdout.splitlines()
    assert wide.split()[0] == "LAYER"
    assert wide.endswith("SNAPSHOT")
    shown = json.loads(run("history", NAME, "--format", "json").stdout)
    assert [step["created_by"] for step in shown] == [step.created_by for step in found]
    assert shown[1]["layer"] is None
    lines = run("history", NAME, "--format", "jsonl").stdout.splitlines()
    assert list(map(json.loads, lines)) == shown


@pytest.mark.parametrize("width", [80, 160])
def test_they_fit_a_terminal(width: int) -> None:
    output = io.StringIO()
    page = TerminalPage(Console(file=output, width=width, force_terminal=True, color_system=None))
    found = info()
    imageinfo.render(found, page, NOW)
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    digests = [str(found.manifests[0].descriptor.digest), found.platforms[0].digest[:19]]
    assert any(line.rstrip().endswith(digests[0]) for line in lines)
    assert any("…" in line for line in lines)


def test_long_commands_in_full() -> None:
    (short, *_), (whole, *_) = (
        [listing(NOW, whole=whole).row(step) for step in steps()] for whole in (False, True)
    )
    assert (len(short[2].brief), short[2].brief[-1], whole[2].brief) == (45, "…", "")
    assert short[2].text == whole[2].text == " ".join(LONG.split())
