"""verify and inspect of archives that real programs wrote, undamaged and damaged."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pyctrd
from integration.archives import ARCHIVES, Archive
from integration.bench import Bench
from integration.pages import commands, run
from integration.rig.daemons import Containerd
from integration.rig.measure import measured
from integration.rig.peers import GENERATIONS
from integration.rig.store import collect_garbage
from integration.shell import REPOSITORY_ROOT, Shell
from integration.test_delta import layers, release
from integration.test_load_hostile import zeros
from integration.test_load_parity import made
from pyctrd.errors import ArchiveError
from pyctrd.oci.mediatypes import is_layer
from tests.support import shapes
from tests.support.hostile import HOSTILE, files
from tests.support.tars import member, tar_of

__all__ = ["made"]

# A start takes 50 MiB; up to 64 MiB of documents are kept.
MOST_MEBIBYTES = 250
NEWEST = pytest.mark.parametrize("generation", GENERATIONS[-1:], indirect=True)

# One archive of each program and format; all of them are in test_load_parity.py.
OTHERS = {
    *("layout-nested", "layout-mixed", "layout-artifact", "layout-compressions", "ctr-2.4-five", "ctr-mixed"),
    *("skopeo-docker", "skopeo-docker-uncompressed", "skopeo-oci-all", "crane-tarball", "crane-oci-index"),
    *("oras-one-platform", "umoci", "docker", "docker-several", "docker-containerd-store", "v1-layers"),
}


def layer_file(path: Path) -> str:
    """Return the name of a layer's file in an archive."""
    info = pyctrd.inspect_archive(path)
    if info.layout == "docker":
        with tarfile.open(path) as tar:
            found = tar.extractfile("manifest.json")
            assert found is not None
            return str(json.loads(found.read())[0]["Layers"][0])
    others = (blob for blob in info.blobs if not blob.media_type.endswith("json"))
    digest = next(
        (blob for blob in info.blobs if is_layer(blob.media_type)), next(others, info.blobs[0])
    ).digest
    return f"blobs/sha256/{digest.encoded}"


def damaged(path: Path, name: str) -> bytes:
    """Return an archive with one other byte in a file."""
    with tarfile.open(path) as tar:
        item = next(item for item in tar if item.name.removeprefix("./") == name)
    data = bytearray(path.read_bytes())
    data[item.offset_data + item.size // 2] ^= 0x55
    return bytes(data)


def without(path: Path, name: str) -> bytes:
    """Return an archive without one of its files, and without what links to it."""
    output = io.BytesIO()
    with tarfile.open(path) as tar, tarfile.open(fileobj=output, mode="w") as other:
        for item in tar:
            if item.name.removeprefix("./") != name:
                other.addfile(item, tar.extractfile(item) if item.isreg() else None)
    return output.getvalue()


@pytest.mark.parametrize("archive", [one for one in ARCHIVES if one.name in OTHERS], ids=lambda one: one.name)
def test_archives_of_other_programs(archive: Archive, made: Callable[[Archive], Path]) -> None:
    path = made(archive)
    result = pyctrd.verify_archive(path)
    assert result.findings == ()
    assert all(image.complete for image in result.images)
    info = pyctrd.inspect_archive(path)
    assert info.images == result.images
    assert info.layout == ("docker" if archive.name in DOCKERS else "oci")
    name = layer_file(path)
    (found,) = pyctrd.verify_archive(io.BytesIO(damaged(path, name))).findings
    assert found.fault == "corrupt"
    missing = pyctrd.verify_archive(io.BytesIO(without(path, name))).findings
    assert {item.fault for item in missing} == {"missing"}
    if info.layout == "oci":
        assert found.digest == missing[0].digest == f"sha256:{name.rpartition('/')[2]}"
    with pytest.raises(ArchiveError, match="unexpected EOF"):
        pyctrd.verify_archive(io.BytesIO(path.read_bytes()[: info_end(path)]))


DOCKERS = {"skopeo-docker", "skopeo-docker-uncompressed", "crane-tarball", "v1-layers"}


def info_end(path: Path) -> int:
    """Return a position in the middle of the last file of an archive."""
    with tarfile.open(path) as tar:
        last = [item for item in tar if item.isreg() and item.size > 1][-1]
    return last.offset_data + last.size // 2


# --- our own ----------------------------------------------------------------------------------------------

FORMS = {
    "image.tar": ((), "oci", False, "none"),
    "image.tar.gz": ((), "oci", False, "gzip"),
    "image.tar.zst": ((), "oci", False, "zstd"),
    "folder": (("--format", "dir"), "oci", True, "none"),
    "docker.tar": (("--format", "docker"), "docker", False, "none"),
    "pruned.tar": (("--index", "prune"), "oci", False, "none"),
}


@NEWEST
@pytest.mark.parametrize("file", FORMS)
def test_archives_of_save(bench: Bench, shell: Shell, file: str) -> None:
    flags, kind, folder, compression = FORMS[file]
    name = bench.pull(shapes.five_platform(docker=False, salt=bench.namespace))
    shell("save", "--offline", *flags, "-o", file, name)
    found = shell.json("verify", f"./{file}")
    assert (found["findings"], found["platforms"], found["presumed"]) == ([], ["linux/amd64"], [])
    (image,) = found["images"]
    assert (image["name"], image["complete"], image["archive"]) == (name, True, f"./{file}")
    absent = [item["platform"] for item in image["manifests"] if item["state"] == "absent"]
    assert len(absent) == (0 if kind == "docker" or file == "pruned.tar" else 4)
    info = shell.json("inspect", file)
    assert (info["layout"], info["folder"], info["compression"]) == (kind, folder, compression)
    assert [{"archive": f"./{file}", **one} for one in info["images"]] == found["images"]
    told = shell("verify", file).stdout.decode()
    assert "hashed: no problems found" in told
    shell("verify", file, "--platform", "linux/arm64", code=4)
    if not folder:
        check_damage(shell, shell.folder / file, file)


def check_damage(shell: Shell, path: Path, file: str) -> None:
    """Damage a file in several ways; a compressed one can only be read up to the damage."""
    data = path.read_bytes()
    with path.open("rb") as stdin:
        assert shell("verify", "-", "--progress", "none", stdin=stdin).stderr == b""
    path.write_bytes(data[: len(data) // 2])
    told = shell("verify", file, code=1).stderr.decode()
    assert told.count("pyctrd: ") == 1
    path.write_bytes(data)
    if file.endswith(".tar"):
        path.write_bytes(damaged(path, layer_file(path)))
        (found,) = shell.json("verify", file, code=4)["findings"]
        assert (found["fault"], found["archive"]) == ("corrupt", file)
    else:
        changed = bytearray(data)
        changed[len(data) // 2] ^= 0x55
        path.write_bytes(changed)
        with shell.start("verify", file, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            output, errors = process.communicate()
        assert process.returncode in (1, 4), errors
        assert output or errors


@NEWEST
@pytest.mark.parametrize("discarded", [False, True], ids=["blobs", "snapshots only"])
def test_a_delta_archive_and_the_inventory_of_its_target(
    bench: Bench, shell: Shell, isolated_containerd: Containerd, discarded: bool
) -> None:
    old, new = release(bench.namespace, 1), release(bench.namespace, 2)
    names = [bench.pull(graph) for graph in (old, new)]
    far = isolated_containerd
    target, empty = (Shell(far, f"{bench.namespace}-{name}", shell.folder) for name in ("target", "empty"))
    shell("save", "--offline", "-o", "old.tar", names[0])
    far.ctr("images", "import", shell.folder / "old.tar", namespace=target.namespace)
    if discarded:
        for digest in layers(old):
            far.ctr("content", "rm", digest, namespace=target.namespace)
        collect_garbage(far, target.namespace)
    for one, file in ((target, "target.json"), (empty, "empty.json")):
        (shell.folder / file).write_bytes(one("inventory", "--format", "json").stdout)
    shell("save", "--offline", "--have", "target.json", "-o", "new.tar", names[1])
    presumed = sorted(layers(new)[:2])
    found = shell.json("verify", "new.tar")
    assert sorted(item["digest"] for item in found["presumed"]) == presumed
    assert (found["findings"], found["platforms"], found["images"][0]["complete"]) == ([], [], False)
    assert sorted(item["digest"] for item in shell.json("inspect", "new.tar")["presumed"]) == presumed
    found = shell.json("verify", "new.tar", "--have", "target.json")
    assert (found["findings"], found["platforms"]) == ([], ["linux/amd64"])
    found = shell.json("verify", "new.tar", "--have", "empty.json", code=4)
    assert sorted(item["digest"] for item in found["findings"]) == presumed
    # What verify says is what load does.
    target("load", "-i", "new.tar")
    empty("load", "-i", "new.tar", code=4)


@NEWEST
def test_the_commands_of_the_documentation(bench: Bench, shell: Shell) -> None:
    names = [bench.pull(release(bench.namespace, version)) for version in (1, 2)]
    target = Shell(bench.containerd, f"{bench.namespace}-target", shell.folder)
    for file in ("app.tar", "app.tar.zst"):
        shell("save", "--offline", "-o", file, names[0])
    bench.ctr("images", "import", shell.folder / "app.tar", namespace=target.namespace)
    real = {"registry.example.com/team/app:1.5": names[1], "k8s.io": target.namespace}
    found = commands("airgap.md", "Check an archive", real)
    assert len(found) == 6
    for command in found:
        run(shell, command)
    assert shell.json("verify", "update.tar")["presumed"]


# --- hostile ----------------------------------------------------------------------------------------------


def check_memory(path: Path, code: int, *, pipe: bool) -> str:
    words = [sys.executable, "-m", "pyctrd", "verify", "--progress", "none"]
    command = ["sh", "-c", f"cat {path} | {' '.join(words)} -"] if pipe else [*words, str(path)]
    done = measured(command, env=environment(), folder=path.parent, timeout=100)
    assert done.code == code, done.stderr
    assert "internal error" not in done.stderr
    assert done.stderr.count("pyctrd: ") == (code == 1)
    assert done.mebibytes < MOST_MEBIBYTES, done.mebibytes
    return done.stdout + done.stderr


def environment() -> Any:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY_ROOT)}


@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
@pytest.mark.parametrize(
    ("name", "code"),
    [
        *((name, 1) for name in ("many-members", "huge-pax-header", "zstd-window", "index-is-huge")),
        *((name, 1) for name in ("index-is-deep", "deep-indexes")),
        *((name, 4) for name in ("huge-manifest", "wide-index", "wrong-layer", "docker-wrong-layer")),
    ],
)
def test_hostile_archives_take_little_memory(tmp_path: Path, name: str, code: int, pipe: bool) -> None:
    (tmp_path / "archive").write_bytes(HOSTILE[name].data())
    check_memory(tmp_path / "archive", code, pipe=pipe)


def test_a_decompression_bomb_takes_little_memory(tmp_path: Path) -> None:
    head = member(f"blobs/sha256/{'a' * 64}", size=2 << 30)
    (tmp_path / "bomb").write_bytes(b"".join(zeros(head, 2 << 10, tar_of(files()))))
    assert "it may be a decompression bomb" in check_memory(tmp_path / "bomb", 1, pipe=False)


def test_a_bomb_of_json_takes_little_memory(tmp_path: Path) -> None:
    documents = b"".join(
        member(f"{number}.json", b"{" + bytes([97 + number % 26]) * (3 << 20)) for number in range(60)
    )
    data = gzip.compress(documents + tar_of({"manifest.json": b"[]"}), compresslevel=1)
    (tmp_path / "documents").write_bytes(data)
    assert "there is no image in the archive" in check_memory(tmp_path / "documents", 1, pipe=True)
