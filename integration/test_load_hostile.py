"""Hostile and damaged archives on the command line: exit code, message, memory, and the store as before."""

from __future__ import annotations

import gzip
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.rig.containerd import Containerd
from integration.rig.measure import measured
from integration.rig.peers import GENERATIONS
from integration.rig.store import collect_garbage, snapshot_of
from integration.shell import Shell
from tests.support.hostile import HOSTILE, files
from tests.support.tars import member, tar_of

# A start takes 60 MiB; a blob may be in flight, and up to 16 MiB of small files of a pipe are kept.
MOST_MEBIBYTES = 200
NEWEST = pytest.mark.parametrize("generation", GENERATIONS[-1:], indirect=True)


@pytest.fixture
def shell(containerd: Containerd, namespace: str, tmp_path: Path) -> Shell:
    return Shell(containerd, namespace, tmp_path)


def check_refused(shell: Shell, path: Path, message: str, code: int, *, pipe: bool) -> None:
    """Load the archive, as a file or from a pipe: one error, bounded memory, and nothing is left."""
    words = [sys.executable, "-m", "pyctrd", "load", "--progress", "none"]
    command = ["sh", "-c", f"cat {path} | {' '.join(words)}"] if pipe else [*words, "-i", str(path)]
    done = measured(command, env=shell.env, folder=shell.folder, timeout=100)
    assert done.code == code, done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert done.stdout == ""
    assert done.stderr.count("pyctrd: ") == 1
    assert "internal error" not in done.stderr
    assert done.mebibytes < MOST_MEBIBYTES, done.mebibytes
    collect_garbage(shell.containerd, shell.namespace)
    left = snapshot_of(shell.containerd, shell.namespace)
    assert {kind: found for kind, found in left.items() if found} == {}


@NEWEST
@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused(shell: Shell, name: str) -> None:
    case = HOSTILE[name]
    path = shell.folder / "archive"
    path.write_bytes(case.data())
    check_refused(shell, path, case.message, case.code, pipe=False)
    check_refused(shell, path, case.message, case.code, pipe=True)


def zeros(head: bytes, mebibytes: int, tail: bytes) -> Iterator[bytes]:
    """A gzip stream with many zeros, made without all of them in memory."""
    compressor = zlib.compressobj(wbits=31)
    yield compressor.compress(head)
    for _ in range(mebibytes):
        yield compressor.compress(bytes(1 << 20))
    yield compressor.compress(tail) + compressor.flush()


@NEWEST
def test_a_decompression_bomb_is_refused(shell: Shell) -> None:
    """A layer of 3 GiB of zeros in 3 MiB: at most 1.5 GiB are written before the end."""
    path = shell.folder / "bomb"
    head = member(f"blobs/sha256/{'a' * 64}", size=3 << 30)
    path.write_bytes(b"".join(zeros(head, 3 << 10, tar_of(files()))))
    check_refused(shell, path, "it may be a decompression bomb", 1, pipe=False)


@NEWEST
def test_a_bomb_of_json_is_refused(shell: Shell) -> None:
    """Small documents are kept in memory, but not without end."""
    documents = b"".join(
        member(f"{number}.json", b"{" + bytes([97 + number % 26]) * (3 << 20)) for number in range(60)
    )
    path = shell.folder / "documents"
    path.write_bytes(gzip.compress(documents + tar_of({"manifest.json": b"[]"}), compresslevel=1))
    check_refused(shell, path, "there is no image in the archive", 1, pipe=True)
