"""What pull, ensure and save print about a resumed download."""

from __future__ import annotations

import json

import pytest

from pyctrd import RegistryOptions
from pyctrd.errors import NotFound
from pyctrd.oci.mediatypes import OCI_LAYER_GZIP
from pyctrd.oci.model import Descriptor, Digest, ImageRecord
from pyctrd.operations.ensure import EnsureResult
from pyctrd.operations.pull import PullResult
from pyctrd.operations.save import SaveResult
from tests.cli.stub import run, with_outcome

MIB = 1 << 20
LAYERS = tuple(
    Descriptor(media_type=OCI_LAYER_GZIP, digest=Digest.of(bytes([number])), size=8 * MIB)
    for number in range(2)
)
RESUMED = {LAYERS[0]: 3 * MIB, LAYERS[1]: 8 * MIB}
IMAGE = ImageRecord(name="example.com/a:1", target=LAYERS[0])
PULLED = PullResult(
    image=IMAGE,
    fetched=LAYERS[:1],
    bytes_fetched=5 * MIB,
    unpacked=(),
    resumed=RESUMED,
)
ENSURED = EnsureResult(image=IMAGE, fetched=LAYERS[:1], bytes_fetched=5 * MIB, resumed=RESUMED)
SAVED = SaveResult(
    images=("example.com/a:1",),
    platforms=(),
    fetched=LAYERS[:1],
    bytes_fetched=5 * MIB,
    blobs=(),
    bytes_written=1,
    bytes_resumed=11 * MIB,
)


@pytest.mark.parametrize(("command", "outcome"), [("pull", PULLED), ("ensure", ENSURED)])
def test_json_has_resumed_bytes_of_each_blob_and_in_total(
    monkeypatch: pytest.MonkeyPatch, command: str, outcome: object
) -> None:
    with_outcome(monkeypatch, outcome)
    document = json.loads(run(command, "example.com/a:1", "--format", "json").stdout)
    assert document["bytes_resumed"] == 11 * MIB
    assert [(one["digest"], one["size"], one["bytes"]) for one in document["resumed"]] == [
        (str(layer.digest), layer.size, count) for layer, count in RESUMED.items()
    ]
    assert document["bytes"] == 5 * MIB


def test_text_reports_resumed_bytes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, PULLED)
    assert "resumed: 2 blobs, 11.0 MiB from an interrupted download" in run("pull", "example.com/a:1").stdout
    with_outcome(monkeypatch, ENSURED)
    told = run("ensure", "example.com/a:1").stdout
    assert told.startswith("fetched 1 blob, 5.0 MiB, resumed 2 blobs, 11.0 MiB")
    with_outcome(monkeypatch, SAVED)
    assert "5.0 MiB fetched, 11.0 MiB resumed" in run("save", "example.com/a:1", "-o", "x.tar").stderr


def test_an_artifact_is_reported_without_a_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, SAVED)
    assert "saved example.com/a:1 to x.tar: " in run("save", "example.com/a:1", "-o", "x.tar").stderr
    plan = SaveResult(
        images=("example.com/a:1",),
        platforms=(),
        fetched=(),
        bytes_fetched=0,
        blobs=(),
        bytes_written=1,
        dry_run=True,
    )
    with_outcome(monkeypatch, plan)
    assert "platforms" not in run("save", "example.com/a:1", "--dry-run").stdout


def test_ensure_reports_a_download_that_only_lacked_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(
        monkeypatch, EnsureResult(image=IMAGE, fetched=(), bytes_fetched=0, resumed={LAYERS[1]: 8 * MIB})
    )
    told = run("ensure", "example.com/a:1").stdout
    assert "nothing is missing" not in told
    assert LAYERS[1].digest in told


def test_text_does_not_mention_resuming_if_nothing_was_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, EnsureResult(image=IMAGE, fetched=LAYERS, bytes_fetched=16 * MIB))
    assert "resumed" not in run("ensure", "example.com/a:1").stdout


@pytest.mark.parametrize(("text", "value"), [("off", "off"), ("1", 1), ("8", 8)])
def test_parallel_ranges_are_passed_to_the_client(
    monkeypatch: pytest.MonkeyPatch, text: str, value: object
) -> None:
    client = with_outcome(monkeypatch, NotFound("x", kind="image", name="x"))
    run("pull", "--parallel-ranges", text, "example.com/a:1")
    options: RegistryOptions = client.call_args.kwargs["registry"]
    assert options.parallel_ranges == value


@pytest.mark.parametrize("text", ["0", "9", "-1", "many", "", "\u0663"])
def test_an_invalid_number_of_ranges_is_a_usage_error(text: str) -> None:
    result = run("pull", "--parallel-ranges", text, "example.com/a:1")
    assert result.exit_code == 2
    assert "is not auto, off, or a number from 1 to 8" in result.stderr
