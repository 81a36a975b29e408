"""images, inspect and history of real images, compared with the real ctr and nerdctl."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from integration.bench import Bench
from integration.conftest import peer_required
from integration.rig import peers
from integration.rig.peers import GENERATIONS
from integration.rig.publish import push
from integration.shell import Shell
from pyctrd.oci.model import Digest
from tests.support import images, shapes
from tests.support.images import Graph

# For what is read from the store in the same way on every generation.
NEWEST = pytest.mark.parametrize("generation", GENERATIONS[-1:], indirect=True)

BUILD = [
    {"created": "2024-05-22T18:18:12.123456789Z", "created_by": "ADD file:37a76ec1 in /"},
    {"created": "2024-05-22T18:18:12Z", "created_by": 'CMD ["/bin/true"]', "empty_layer": True},
    {"created": "2024-05-22T18:18:13Z", "created_by": "RUN make # buildkit", "comment": "buildkit"},
]
RUN = {"Env": ["PATH=/bin", "A=b"], "Entrypoint": ["/bin/sh"], "Cmd": ["-c", "true"], "WorkingDir": "/srv"}


def built(salt: str, **labels: str) -> Graph:
    """An image with a history, for this machine and for another one."""
    children = []
    for on in ("linux/amd64", "linux/arm64"):
        layers = shapes.layers_for(on, 2, salt)
        config = images.config(layers, on, history=BUILD, config={**RUN, "Labels": labels})
        children.append(images.manifest(config, layers, on=on))
    return images.index(children)


class Nerdctl:
    """The real nerdctl in a bench's namespace."""

    def __init__(self, bench: Bench) -> None:
        with peer_required():
            self._program = peers.nerdctl("2.3.5")
        self._at: list[str | Path] = ["--address", bench.containerd.address, "--namespace", bench.namespace]
        self._at += ["--data-root", bench.folder / "nerdctl"]

    def __call__(self, *arguments: str) -> str:
        command = [self._program, *self._at, *arguments]
        return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.decode()

    def names(self, *filters: str) -> set[str]:
        flags = [word for text in filters for word in ("--filter", text)]
        return set(self("images", "--format", "{{.Name}}", *flags).split())


@pytest.fixture
def nerdctl(bench: Bench) -> Nerdctl:
    return Nerdctl(bench)


@pytest.mark.two_generations
def test_the_status_is_that_of_ctr(bench: Bench, shell: Shell) -> None:
    """`ctr images check` prints `complete (4/4)`, `incomplete (3/4)` or `unavailable (0/?)`."""
    graphs = [built(f"{bench.namespace}{number}") for number in range(5)]
    names = [bench.pull(graph) for graph in graphs]
    amd64 = json.loads(graphs[1].blobs[graphs[1].child(0).digest])
    gone = [
        amd64["layers"][1]["digest"],
        json.loads(graphs[2].blobs[graphs[2].child(0).digest])["config"]["digest"],
    ]
    with bench.daemon() as daemon:
        for digest in [*gone, graphs[3].child(0).digest, graphs[4].digest]:
            daemon.content.delete(Digest(digest))
    lines = bench.ctr("images", "check", check=False).stdout.decode().splitlines()
    checked = {line.split()[0]: line.split()[3].partition("(")[0].strip() for line in lines[1:]}
    rows = {line.split()[0]: line for line in shell("images").stdout.decode().splitlines()[1:]}
    assert rows.keys() == set(names)
    shown = {name: row.rstrip().rpartition(" ")[2] for name, row in rows.items()}
    assert shown == {
        name: status if (status, name) != ("unavailable", names[3]) else "incomplete"  # its index is here
        for name, status in checked.items()
    }
    assert list(map(shown.get, names)) == [
        *("complete", "incomplete", "incomplete", "incomplete", "unavailable")
    ]
    incomplete = shell("images", "-q", "-f", "complete=false").stdout.decode().split()
    assert incomplete == sorted(names[1:])


@NEWEST
def test_filters_are_those_of_nerdctl(bench: Bench, shell: Shell, nerdctl: Nerdctl) -> None:
    labelled = bench.pull(built(f"{bench.namespace}a", maintainer="me", tier="web"))
    plain = bench.pull(built(f"{bench.namespace}b", maintainer="you"))
    bench.ctr("images", "tag", labelled, "docker.io/library/app:1")
    bench.ctr("images", "tag", plain, f"docker.io/team/app@{built(f'{bench.namespace}b').digest}")
    bench.ctr("images", "rm", plain)
    for filters in (
        (),
        ("dangling=true",),
        ("dangling=false",),
        ("label=maintainer",),
        ("label=maintainer=me",),
        ("label=maintainer=me", "label=tier=web"),
        ("label=maintainer=you", "label=tier"),
        (f"before={labelled}",),
        (f"since={labelled}",),
        (f"since={labelled}", "reference=app:1"),
        ("reference=team/*",),  # nerdctl takes a pattern for a regular expression, too; here that is the same
        ("reference=[a-c]pp:1",),
    ):
        flags = [word for text in filters for word in ("-f", text)]
        ours = set(shell("images", "-q", "--all", *flags).stdout.decode().split())
        assert ours == nerdctl.names(*filters), filters
    # nerdctl 2.3.5 ignores `until`, except in prune (pkg/cmd/image/list.go).
    for text, count in (("until=1h", 0), ("until=2026-01-01", 0), ("until=1ms", 3)):
        assert len(shell("images", "-q", "-f", text).stdout.split()) == count
    assert shell("images", "-q", "app").stdout.decode().split() == ["docker.io/library/app:1"]
    assert shell("images", "nothing*").stdout.decode().splitlines()[1:] == []


@NEWEST
def test_filters_are_those_of_ctr(bench: Bench, shell: Shell) -> None:
    names = [bench.pull(shapes.single(salt=f"{bench.namespace}{number}")) for number in range(2)]
    bench.ctr("images", "label", names[0], "team=one")
    for text in (
        "labels.team==one",
        'name~="/1:"',
        "name!=x,labels.team",
        "target.mediatype~=index",
        "name==none",
    ):
        theirs = bench.ctr("images", "ls", "-q", text).stdout.split()
        assert shell("images", "-q", "-f", text).stdout.split() == theirs
    assert shell("images", "-q").stdout.split() == bench.ctr("images", "ls", "-q").stdout.split()
    for text in ("name=x", "nam==x"):
        assert b"invalid filter" in shell("images", "-f", text, code=2).stderr


@NEWEST
def test_history_is_that_of_nerdctl(bench: Bench, shell: Shell, nerdctl: Nerdctl) -> None:
    name = bench.pull(built(bench.namespace))
    theirs = [
        json.loads(line)
        for line in nerdctl("history", "--no-trunc", "--format", "{{json .}}", name).splitlines()
    ]
    ours = shell.json("history", name)
    assert [step["created_by"] for step in ours] == [step["CreatedBy"] for step in theirs]
    assert [step["comment"] for step in ours] == [step["Comment"] for step in theirs]
    assert [step["snapshot"] or "<missing>" for step in ours] == [step["Snapshot"] for step in theirs]
    sizes = nerdctl("history", "--no-trunc", "--human=false", "--format", "{{.Size}}", name).split()
    assert [step["bytes_unpacked"] for step in ours] == list(map(int, sizes))
    assert ours[0]["created_at"] == "2024-05-22T18:18:13Z"
    assert shell("history", "-q", name).stdout.decode().split() == [
        step["layer"]["digest"] for step in ours if step["layer"]
    ]
    foreign = shell.json("history", "--platform", "linux/arm64", name) if not bench.is_old else []
    assert {step["present"] for step in foreign} <= {False}


@NEWEST
def test_inspect_is_that_of_nerdctl(bench: Bench, shell: Shell, nerdctl: Nerdctl) -> None:
    name = bench.pull(built(bench.namespace, maintainer="me"))
    bench.ctr("images", "tag", name, "docker.io/library/other:1")
    (theirs,) = json.loads(nerdctl("image", "inspect", name))
    ours = shell.json("inspect", name)
    (manifest,) = ours["manifests"]
    config: dict[str, Any] = manifest["config"]
    assert manifest["platform"] == f"{theirs['Os']}/{theirs['Architecture']}" == "linux/amd64"
    assert theirs["Config"]["Env"] == config["config"]["Env"]
    assert theirs["Config"]["Cmd"] == config["config"]["Cmd"]
    assert theirs["Config"]["Labels"] == config["config"]["Labels"]
    assert theirs["RootFS"]["Layers"] == config["rootfs"]["diff_ids"]
    assert theirs["RepoDigests"][0].endswith(ours["target"]["digest"])
    assert ours["names"] == ["docker.io/library/other:1"]
    assert ours["sources"] == [name.rpartition(":")[0]]
    assert [one["snapshotter"] for one in manifest["unpacked"]] == ["overlayfs"]
    assert manifest["unpacked"][0]["bytes"] == sum(step["bytes_unpacked"] for step in manifest["history"]) > 0
    native, *_ = json.loads(nerdctl("image", "inspect", "--mode", "native", name))
    assert native["Index"] == ours["index"]
    assert native["Manifest"] == manifest["manifest"]
    assert native["ManifestDesc"]["digest"] == manifest["target"]["digest"]
    text = shell("inspect", name).stdout.decode()
    assert "also named: docker.io/library/other:1" in text
    assert "A=b" in text


@NEWEST
def test_the_archive_and_the_image_have_the_same_documents(bench: Bench, shell: Shell) -> None:
    name = push(shapes.single(salt=bench.namespace), bench.registry, bench.repository)
    shell("pull", "--plain-http", name)
    shell("save", "-o", "x.tar", name)
    (archived,) = shell.json("inspect", "x.tar")["images"]
    assert archived["target"] == shell.json("inspect", name)["target"]
    error = shell("inspect", "nothing:1", code=3).stderr.decode()
    assert 'image "nothing:1": not found' in error
    assert "there is no such file either" in error
