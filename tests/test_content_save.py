"""client.content.save: a blob written to a file, which is complete or absent, or to a stream."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyctrd import ArchiveError, Client, DigestMismatch, InvalidInput
from pyctrd.oci.model import Digest
from tests.containerd.fake import FakeDaemon, serve

DATA = bytes(range(256)) * 10_000
DIGEST = Digest.of(DATA)


@pytest.fixture
def fake() -> FakeDaemon:
    daemon = FakeDaemon()
    daemon.blobs[DIGEST] = DATA
    return daemon


@pytest.fixture
def client(fake: FakeDaemon) -> Iterator[Client]:
    with tempfile.TemporaryDirectory(prefix="pyctrd-", dir="/tmp") as folder:
        server = serve(Path(folder) / "c.sock", fake)
        with Client(Path(folder) / "c.sock") as opened:
            yield opened
        server.stop(None).wait()


def test_a_blob_is_written_to_a_file_or_a_stream(client: Client, tmp_path: Path) -> None:
    stream = io.BytesIO()
    assert client.content.save(DIGEST, tmp_path / "blob") == len(DATA)
    assert client.content.save(DIGEST[:20], stream) == len(DATA)
    assert (tmp_path / "blob").read_bytes() == stream.getvalue() == DATA
    assert client.content.save(DIGEST, tmp_path / "part", offset=5, length=7) == 7
    assert (tmp_path / "part").read_bytes() == DATA[5:12]


def test_a_damaged_blob_leaves_no_file_and_keeps_an_existing_one(
    client: Client, fake: FakeDaemon, tmp_path: Path
) -> None:
    fake.blobs[DIGEST] = DATA[:-1] + b"?"
    (tmp_path / "old").write_bytes(b"old")
    for name in ("new", "old"):
        with pytest.raises(DigestMismatch):
            client.content.save(DIGEST, tmp_path / name)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"old": b"old"}


def test_an_output_that_cannot_be_written_is_an_error(client: Client, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError):
        client.content.save(DIGEST, tmp_path / "none" / "blob")
    with pytest.raises(InvalidInput, match="is a directory"):
        client.content.save(DIGEST, tmp_path)
    with pytest.raises(InvalidInput, match="must be a path or a binary stream"):
        client.content.save(DIGEST, 7)  # type: ignore[arg-type]
    with pytest.raises(ArchiveError, match="cannot write the blob: No space left"):
        client.content.save(DIGEST, "/dev/full")
    with pytest.raises(InvalidInput, match="has only"):
        client.content.save(DIGEST, tmp_path / "blob", offset=len(DATA) + 1)
    assert list(tmp_path.iterdir()) == []
