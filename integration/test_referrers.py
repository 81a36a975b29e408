"""Signatures and SBOMs cross an air gap with their image, and stay: `save --referrers` and `load`.

oras attaches them, as cosign does; docker-registry lists them under a tag, olareg by the referrers API.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from integration import pages
from integration.bench import Bench
from integration.conftest import peer_required, run_required
from integration.rig import peers
from integration.rig.daemons import Containerd, Dockerd
from integration.rig.process import Process, free_port, tcp_answers
from integration.rig.publish import push
from integration.rig.store import collect_garbage, digests, prune_references, snapshot_of
from integration.shell import Shell, archived
from integration.test_discovery import SBOM, SIGNATURE, attach
from integration.test_load import engine, reader
from integration.uploads import run
from tests.support import shapes
from tests.support.images import OCI_CONFIG, Graph
from tests.support.loading import archive_of

__all__ = ["engine", "reader"]

SUBJECT, TAG = "io.containerd.manifest.subject", "latest"
newest = pytest.mark.parametrize("generation", [peers.NEWEST], indirect=True)


class Signed:
    """An image in a registry and in a containerd, with an SBOM, its signature, and one of the manifest."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.graph: Graph = shapes.five_platform(docker=False, salt=bench.namespace)
        self.name = bench.pull(self.graph)
        repository = self.name.rpartition(":")[0]
        self.sbom = attach(bench.folder, self.name, SBOM, "sbom")
        self.signature = attach(bench.folder, f"{repository}@{self.sbom}", SIGNATURE, "of the sbom")
        # As cosign writes it: with an image config, and a blob that is no layer.
        self.old = shapes.signature(subject=self.graph.child(0))
        other = push(self.old, bench.registry, f"{bench.repository}/signatures")
        # oras maintains the list under the tag, as cosign does.
        run("oras", "copy", "--from-plain-http", "--to-plain-http", other, f"{repository}:cosign")
        self.subjects = {
            self.sbom: self.graph.digest,
            self.signature: self.sbom,
            self.old.digest: self.graph.child(0).digest,
        }


class Olareg:
    """A real registry with the referrers API, which docker-registry 2.8 does not have."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        command = [str(peers.olareg()), "serve", "--addr", "127.0.0.1", "--port", str(self.port)]
        self._process = Process([*command, "--store-type", "mem"], folder / "olareg.log")

    def __enter__(self) -> Self:
        self._process.wait_until(lambda: tcp_answers(self.port), 20)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.stop()


@pytest.fixture
def olareg(tmp_path: Path) -> Iterator[str]:
    with run_required(lambda: Olareg(tmp_path)) as registry:
        yield f"127.0.0.1:{registry.port}"


@pytest.fixture
def signed(bench: Bench) -> Signed:
    return Signed(bench)


def entries(archive: Path) -> dict[str, str]:
    """Return the subject of each entry of index.json without a name."""
    raw = subprocess.run(["tar", "-xOf", archive, "index.json"], capture_output=True, check=True).stdout
    listed = json.loads(raw)["manifests"]
    return {item["digest"]: item["annotations"][SUBJECT] for item in listed if SUBJECT in item["annotations"]}


def by_digest(contents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(contents, key=lambda item: str(item["digest"]))


@pytest.mark.every_generation
def test_referrers_are_fetched_saved_loaded_and_kept(
    signed: Signed, fresh_containerd: Containerd, shell: Shell, tmp_path: Path
) -> None:
    planned = shell.json("save", "--referrers", "--dry-run", signed.name)
    assert not shell.have() & signed.subjects.keys()
    done = shell.json("save", "--referrers", "-o", "signed.tar", signed.name)
    assert {item["digest"]: item["subject"] for item in done["referrers"]} == signed.subjects
    assert planned["referrers"] == done["referrers"]
    assert planned["archive_bytes"] == done["bytes_written"] == (tmp_path / "signed.tar").stat().st_size
    assert entries(tmp_path / "signed.tar") == signed.subjects
    assert archived(tmp_path / "signed.tar") >= signed.subjects.keys()

    # What was fetched stays here, so the next time no registry is needed.
    collect_garbage(shell.containerd, shell.namespace)
    assert shell.have() >= signed.subjects.keys()
    signed.bench.registry.clear_requests()
    again = shell.json("save", "--referrers", "--offline", "-o", "again.tar", signed.name)
    assert again["referrers"] == done["referrers"]
    assert signed.bench.registry.requests() == []
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "signed.tar").read_bytes()

    # On the other side, they survive collections, and what removes other references.
    far = Shell(fresh_containerd, shell.namespace, tmp_path)
    loaded = far.json("load", "-i", "signed.tar")
    assert by_digest(loaded["referrers"]) == by_digest(done["referrers"])
    collect_garbage(fresh_containerd, far.namespace)
    state = snapshot_of(fresh_containerd, far.namespace)
    assert state["content"].keys() >= archived(tmp_path / "signed.tar")
    assert list(state["images"]) == [signed.name]
    prune_references(fresh_containerd, far.namespace)
    collect_garbage(fresh_containerd, far.namespace)
    assert digests(fresh_containerd, far.namespace) >= signed.subjects.keys()
    restored = far.json("load", "-i", "signed.tar")  # the layers of the image, which prune has removed
    assert restored["images"][0]["complete"]
    third = far.json("save", "--referrers", "--offline", "-o", "third.tar", signed.name)
    assert {item["digest"]: item["subject"] for item in third["referrers"]} == signed.subjects
    assert archived(tmp_path / "third.tar") == archived(tmp_path / "signed.tar")

    # With the image, they go.
    fresh_containerd.ctr("images", "rm", "--sync", signed.name, namespace=far.namespace)
    collect_garbage(fresh_containerd, far.namespace)
    assert digests(fresh_containerd, far.namespace) == set()


@newest
def test_the_commands_of_the_page(signed: Signed, fresh_containerd: Containerd, shell: Shell) -> None:
    """Those of docs/airgap.md; the first one is run where the registry is."""
    far = Shell(fresh_containerd, shell.namespace, shell.folder)
    real = {"registry.example.com/team/app:v2": signed.name}
    first, *others = pages.commands("airgap.md", "Signatures and SBOMs", real)
    assert len(others) == 2
    pages.run(shell, first)
    for command in others:
        pages.run(far, command)
    assert entries(shell.folder / "on.tar") == signed.subjects


@newest
@pytest.mark.parametrize("local", [False, True], ids=["default", "--local"])
def test_ctr_of_every_generation_loads_the_image_and_drops_referrers(
    signed: Signed, reader: Containerd, shell: Shell, tmp_path: Path, local: bool
) -> None:
    if local and reader.is_1:
        pytest.skip("has no transfer service in ctr images import")
    shell("save", "--referrers", "--index", "prune", "-o", "signed.tar", signed.name)
    shell("save", "--index", "prune", "-o", "plain.tar", signed.name)
    namespace = f"{shell.namespace}-{local}"
    flags = ["--local"] if local else []
    reader.ctr("images", "import", *flags, tmp_path / "signed.tar", namespace=namespace)
    lines = reader.ctr("images", "check", namespace=namespace).stdout.decode().splitlines()[1:]
    assert [line.split()[0] for line in lines] == [signed.name]
    assert " complete " in lines[0]
    assert "unpacked" in lines[0] or "true" in lines[0], lines
    collect_garbage(reader, namespace)
    left = digests(reader, namespace)
    assert left == archived(tmp_path / "plain.tar")
    assert left.isdisjoint(signed.subjects)


@newest
def test_other_programs_read_an_archive_with_referrers(
    signed: Signed, engine: Dockerd, shell: Shell, tmp_path: Path
) -> None:
    shell("save", "--referrers", "--index", "prune", "-o", "signed.tar", signed.name)
    shell("save", "--referrers", "--format", "dir", "-o", "layout", signed.name)
    with peer_required():
        skopeo = peers.tool("skopeo")
    for source in (f"oci-archive:signed.tar:{TAG}", f"docker-archive:signed.tar:{signed.name}"):
        done = subprocess.run([skopeo, "inspect", source], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    done = engine.docker("load", stdin=(tmp_path / "signed.tar").read_bytes())
    # In containerd's store, Docker takes what has an image config for an image without a name.
    more = [f"Loaded image ID: {signed.old.digest}"] if engine.containerd_store else []
    assert sorted(done.stdout.decode().splitlines()) == sorted([f"Loaded image: {signed.name}", *more])
    found = json.loads(
        run("oras", "discover", "--oci-layout", "--format", "json", f"{tmp_path}/layout:{TAG}")
    )
    assert found["digest"] == signed.graph.digest
    assert [item["digest"] for item in found["referrers"]] == [signed.sbom]
    assert [item["digest"] for item in found["referrers"][0]["referrers"]] == [signed.signature]


@newest
def test_oras_pushes_an_archive_with_its_referrers(
    signed: Signed, olareg: str, shell: Shell, tmp_path: Path
) -> None:
    shell("save", "--referrers", "--all-platforms", "-o", "all.tar", signed.name)
    name = f"{olareg}/far:v1"
    run("oras", "copy", "-r", "--from-oci-layout", "--to-plain-http", f"{tmp_path}/all.tar:{TAG}", name)
    found = shell.json("registry", "referrers", name)
    assert (found["source"], [item["digest"] for item in found["referrers"]]) == ("api", [signed.sbom])
    again = shell.json("registry", "referrers", f"{olareg}/far@{signed.sbom}")
    assert [item["digest"] for item in again["referrers"]] == [signed.signature]


@newest
def test_layouts_of_oras_are_loaded_with_their_referrers(
    signed: Signed, fresh_containerd: Containerd, namespace: str, tmp_path: Path
) -> None:
    command = ["oras", "copy", "-r", "--from-plain-http", "--to-oci-layout", signed.name]
    run(*command, f"{tmp_path}/layout:v1")
    far = Shell(fresh_containerd, namespace, tmp_path)
    loaded = far.json("load", "-i", "layout", "--name", signed.name)
    assert [image["name"] for image in loaded["images"]] == [signed.name]
    subjects = {item["digest"]: item["subject"] for item in loaded["referrers"]}
    assert subjects == signed.subjects
    collect_garbage(fresh_containerd, namespace)
    assert far.have() >= subjects.keys()


@newest
def test_a_registry_with_the_referrers_api(signed: Signed, olareg: str, shell: Shell, tmp_path: Path) -> None:
    name = f"{olareg}/app:v1"
    plain = ("--from-plain-http", "--to-plain-http")
    run("oras", "copy", "-r", *plain, signed.name, name)
    assert json.loads(run("oras", "discover", "--plain-http", "--format", "json", name))["referrers"]
    shell("pull", name)
    listed = shell.json("registry", "referrers", name)
    assert listed["source"] == "api"
    done = shell.json("save", "--referrers", "-o", "signed.tar", name)
    subjects = {item["digest"]: item["subject"] for item in done["referrers"]}
    assert subjects == signed.subjects
    assert {item["artifactType"] for item in done["referrers"]} == {SBOM, SIGNATURE, OCI_CONFIG}
    assert entries(tmp_path / "signed.tar") == subjects


@newest
def test_a_registry_that_is_gone(signed: Signed, shell: Shell) -> None:
    name = f"127.0.0.1:{free_port()}/app:v1"
    shell.containerd.ctr("images", "tag", signed.name, name, namespace=shell.namespace)
    before = shell.have()
    # The label of the content still names the registry that has them.
    done = shell("save", "--referrers", "--retry-budget", "0", "-o", "a.tar", name)
    assert "with 3 referrers" in done.stderr.decode()
    other = shapes.single(salt=shell.namespace)
    (shell.folder / "other.tar").write_bytes(archive_of(other, name))
    shell("load", "-i", "other.tar")
    failed = shell("save", "--referrers", "--retry-budget", "0", "-o", "b.tar", name, code=5)
    assert "hint: " in failed.stderr.decode()
    assert not (shell.folder / "b.tar").exists()
    shell("save", "--referrers", "--offline", "-o", "b.tar", name)
    warned = shell("save", "--referrers", "--retry-budget", "0", "--on-missing", "warn", "-o", "c.tar", name)
    assert "left out" in warned.stderr.decode()
    assert (shell.folder / "b.tar").read_bytes() == (shell.folder / "c.tar").read_bytes()
    assert shell.have() >= before


@newest
def test_ctr_makes_images_of_referrers_with_digests(
    signed: Signed, reader: Containerd, shell: Shell, tmp_path: Path
) -> None:
    """As kind does; before 2.x, that fails for signatures that have an image config."""
    shell("save", "--referrers", "--index", "prune", "-o", "signed.tar", signed.name)
    flags = ["--digests", "--all-platforms"]
    file, namespace = tmp_path / "signed.tar", f"{shell.namespace}-digests"
    done = reader.ctr("images", "import", *flags, file, namespace=namespace, check=False)
    assert done.returncode == (1 if reader.is_1 else 0)
    collect_garbage(reader, namespace)
    images = snapshot_of(reader, namespace)["images"]
    made = {image["target"]["digest"] for name, image in images.items() if name.startswith("import-")}
    assert made >= {signed.old.digest}
    assert signed.name in images
