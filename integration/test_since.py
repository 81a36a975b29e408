"""Archives without what an older archive has: stock ctr completes them where that was loaded."""

from __future__ import annotations

import gzip
import json
import shlex
import subprocess

import pytest

from integration.pages import commands, run
from integration.rig.peers import GENERATIONS
from integration.rig.store import collect_garbage, digests
from integration.test_delta import Gap, blob, gap, layers, members, release, unpacked
from integration.test_load import reader
from tests.support.images import Graph

__all__ = ["gap", "reader"]

# All generations write the same bytes: test_save.py.
pytestmark = pytest.mark.parametrize("generation", GENERATIONS[-1:], indirect=True)
# What does not depend on the containerd that loads.
on_newest = pytest.mark.parametrize("reader", GENERATIONS[-1:], indirect=True)


def names_in(gap: Gap) -> set[str]:
    return set(gap.reader.ctr("images", "ls", "-q", namespace=gap.namespace).stdout.decode().split())


def discard(gap: Gap, graph: Graph) -> None:
    """Remove the blobs of layers that are unpacked, as the CRI does."""
    for digest in layers(graph):
        gap.reader.ctr("content", "rm", digest, namespace=gap.namespace)
    collect_garbage(gap.reader, gap.namespace)
    assert not digests(gap.reader, gap.namespace) & set(layers(graph))


@pytest.mark.parametrize("discarded", [False, True], ids=["blobs", "snapshots only"])
def test_ctr_completes_an_archive_where_the_older_one_was_loaded(gap: Gap, discarded: bool) -> None:
    old, new = release(gap.namespace, 1), release(gap.namespace, 2)
    names = [gap.bench.pull(graph) for graph in (old, new)]
    gap.saving("save", "--offline", "-o", "old.tar", names[0])
    gap.load("old.tar")
    if discarded:
        discard(gap, old)
    save = ("save", "--offline", "--since", "old.tar")
    planned = gap.saving.json(*save, "--dry-run", names[1])
    done = gap.saving.json(*save, "-o", "new.tar", names[1])
    presumed = [{"digest": item["digest"], "size": item["size"]} for item in new.document()["layers"][:2]]
    assert planned["presumed"] == done["presumed"] == sorted(presumed, key=lambda item: str(item["digest"]))
    assert planned["archive_bytes"] == done["bytes_written"]
    found = members(gap.bench.folder / "new.tar")
    assert {blob(digest) for digest in layers(new)} & set(found) == {blob(layers(new)[2])}
    assert len(json.loads(found["pyctrd.json"])["presumed"]) == 2
    gap.load("new.tar")
    assert names_in(gap) == set(names)
    unpacked(gap, new)
    if not discarded:
        assert gap.complete() == set(names)


def test_what_an_older_delta_presumes_counts(gap: Gap) -> None:
    graphs = [release(gap.namespace, version) for version in (1, 2, 3)]
    names = [gap.bench.pull(graph) for graph in graphs]
    gap.saving("save", "--offline", "-o", "1.tar", names[0])
    gap.saving("save", "--offline", "--since", "1.tar", "-o", "2.tar", names[1])
    done = gap.saving.json("save", "--offline", "--since", "2.tar", "-o", "3.tar", names[2])
    assert {item["digest"] for item in done["presumed"]} == set(layers(graphs[2])[:2])
    for file in ("1.tar", "2.tar", "3.tar"):
        gap.load(file)
    assert gap.complete() == set(names)


@on_newest
@pytest.mark.parametrize("form", ["gzip", "pipe", "dir", "docker"])
def test_every_form_that_load_reads(gap: Gap, form: str) -> None:
    """Docker's older format has uncompressed layers: they are left out where they are unpacked."""
    old, new = release(gap.namespace, 1), release(gap.namespace, 2)
    names = [gap.bench.pull(graph) for graph in (old, new)]
    shape = ["--format", form] if form in ("dir", "docker") else []
    gap.saving("save", "--offline", *shape, "-o", "old.tar", names[0])
    path = gap.bench.folder / "old.tar"
    if form == "gzip":
        path.with_suffix(".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
        path = path.with_suffix(".gz")
    gap.loading("load", "-i", path.name)
    save = ("save", "--offline", "-o", "new.tar", "--since")
    if form == "pipe":
        process = gap.saving.start(*save, "-", names[1], stdin=subprocess.PIPE, stderr=-1)
        process.communicate(path.read_bytes())
        assert process.returncode == 0
    else:
        gap.saving(*save, path.name, names[1])
    stated = json.loads(members(gap.bench.folder / "new.tar")["pyctrd.json"])["presumed"]
    assert {item["digest"] for item in stated} == set(layers(new)[:2])
    gap.load("new.tar")
    assert names_in(gap) == set(names)
    unpacked(gap, new)


def test_several_images_platforms_and_older_archives_with_an_inventory(gap: Gap) -> None:
    both = ("linux/amd64", "linux/arm64")
    old = [release(f"{gap.namespace}{number}", 1, both) for number in range(3)]
    new = [release(f"{gap.namespace}{number}", 2, both) for number in range(3)]
    names = [gap.bench.pull_all(graph) for graph in (*old, *new)]
    flags = ["--no-unpack", "--all-platforms"]
    for number in range(3):
        gap.saving("save", "--offline", "--all-platforms", "-o", f"{number}.tar", names[number])
        gap.load(f"{number}.tar", *flags)
        if number == 0:
            have = gap.inventory()
    save = ("save", "--offline", "--all-platforms", "--have", have, "--since", "1.tar", "--since", "2.tar")
    done = gap.saving.json(*save, "-o", "new.tar", *names[3:])
    assert len(done["presumed"]) == 12
    gap.load("new.tar", *flags)
    collect_garbage(gap.reader, gap.namespace)
    assert {digest for graph in new for digest in graph.blobs} <= digests(gap.reader, gap.namespace)


@on_newest
def test_a_damaged_older_archive_and_what_is_none(gap: Gap) -> None:
    graph = release(gap.namespace, 1)
    name = gap.bench.pull(graph)
    gap.saving("save", "--offline", "-o", "old.tar", name)
    raw = (gap.bench.folder / "old.tar").read_bytes()
    (gap.bench.folder / "cut.tar").write_bytes(raw[: raw.index(graph.blobs[layers(graph)[0]]) + 10])
    (gap.bench.folder / "text.tar").write_text("no archive")
    for file, words in (
        ("cut.tar", "cut.tar: unexpected EOF"),
        ("text.tar", "text.tar: archive/tar: invalid tar header"),
        ("absent.tar", "cannot read absent.tar: No such file or directory"),
    ):
        told = gap.saving("save", "--offline", "--since", file, "-o", "new.tar", name, code=1).stderr.decode()
        assert words in told
    gap.saving("save", "--format", "docker", "--since", "old.tar", "-o", "new.tar", name, code=2)
    told = gap.saving("save", "--since", "-", "--have", "-", "-o", "new.tar", name, code=2).stderr.decode()
    assert "only one of --have, --since and --from can be `-`" in told
    assert not (gap.bench.folder / "new.tar").exists()


@on_newest
def test_the_commands_of_the_page(gap: Gap) -> None:
    """Those of docs/airgap.md, in their order, after the first release was loaded."""
    old, new = release(gap.namespace, 1), release(gap.namespace, 2)
    names = [gap.bench.pull(graph) for graph in (old, new)]
    real = {f"registry.example.com/team/app:1.{version}": name for version, name in enumerate(names, 4)}
    found = commands("airgap.md", "Less to carry", real)
    assert len(found) == 6
    gap.saving("save", "--offline", "-o", "app.tar", names[0])
    gap.load("app.tar")
    sizes = []
    for command in found:
        if "--from" in command:
            gap.bench.ctr("content", "rm", layers(old)[0])
        if command.startswith("ctr "):
            gap.load(command.split()[-1])
        elif " save " in command:
            run(gap.saving, command)
            sizes.append((gap.bench.folder / shlex.split(command)[-2]).stat().st_size)
        else:
            run(gap.loading, command)
    assert sizes[0] == sizes[1] < sizes[2]
    assert gap.complete() == set(names)
    assert layers(old)[0] in digests(gap.bench.containerd, gap.namespace)
