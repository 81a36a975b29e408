"""What save and load print about referrers, as text and as JSON."""

from __future__ import annotations

import json

import pytest

from pyctrd.oci import mediatypes
from pyctrd.oci.model import Descriptor, Digest
from pyctrd.oci.referrers import Referrer
from pyctrd.operations.load import LoadResult
from pyctrd.operations.save import SaveResult, Skipped
from tests.cli.stub import run, with_outcome

IMAGE = Digest.of(b"image")
KIND = "application/spdx+json"
TARGET = Descriptor(media_type=mediatypes.OCI_MANIFEST, digest=Digest.of(b"sbom"), size=4, artifact_type=KIND)
REFERRER = Referrer(subject=IMAGE, target=TARGET)
SAVED = SaveResult(
    images=("alpine:1",),
    platforms=(),
    fetched=(),
    bytes_fetched=0,
    blobs=(),
    bytes_written=1024,
    referrers=(REFERRER,),
    skipped=(Skipped(image="alpine:1", referrer=Digest.of(b"lost"), missing=(TARGET,)),),
)
LOADED = LoadResult(images=(), bytes_written=5, bytes_present=0, unpacked=(), referrers=(REFERRER,))
IN_JSON = [
    {
        "mediaType": mediatypes.OCI_MANIFEST,
        "digest": TARGET.digest,
        "size": 4,
        "artifactType": KIND,
        "subject": IMAGE,
    }
]


def test_the_summary_of_a_save(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = with_outcome(monkeypatch, SAVED)
    result = run("save", "--referrers", "-o", "a.tar", "alpine:1")
    assert "1.0 KiB written, with 1 referrer, nothing fetched, 1 referrer left out" in result.stderr
    assert opened.return_value.images.save.call_args.kwargs["referrers"] is True
    run("save", "-o", "a.tar", "alpine:1")
    assert opened.return_value.images.save.call_args.kwargs["referrers"] is False


def test_the_json_of_a_save(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, SAVED)
    for words in (["-o", "a.tar"], ["--dry-run"]):
        found = json.loads(run("save", "--referrers", *words, "--format", "json", "alpine:1").stdout)
        assert found["referrers"] == IN_JSON
        assert [item["referrer"] for item in found["skipped"]] == [Digest.of(b"lost")]


def test_a_dry_run_lists_what_the_referrers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, SAVED)
    lines = run("save", "--referrers", "--dry-run", "alpine:1").stdout.splitlines()
    assert [line.split() for line in lines if "referrers" in line] == [["referrers:", KIND]]


def test_load_names_the_referrers(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, LOADED)
    assert json.loads(run("load", "-i", "a.tar", "--format", "json").stdout)["referrers"] == IN_JSON
    lines = run("load", "-i", "a.tar").stdout.splitlines()
    assert [line.split() for line in lines if "referrers" in line] == [["referrers:", KIND]]
