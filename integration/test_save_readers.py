"""Which archive of pyctrd loads where: each kind of archive, and the programs that users load it with.

docs/airgap.md has the same table.
"""

from __future__ import annotations

import re
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from integration.conftest import peer_required
from integration.rig import peers
from integration.rig.daemons import ISOLATED_CONTENT, Containerd, Dockerd, Registry
from integration.rig.podman import Podman
from integration.rig.publish import push
from integration.shell import REPOSITORY_ROOT, Shell
from tests.support import shapes

KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "default": ("-o", "image.tar"),
    "`--index prune`": ("--index", "prune", "-o", "image.tar"),
    "`--index flatten`": ("--index", "flatten", "-o", "image.tar"),
    "`--format docker`": ("--format", "docker", "-o", "image.tar"),
    "`.tar.gz`": ("-o", "image.tar.gz"),
    "`.tar.zst`": ("-o", "image.tar.zst"),
}
PLATFORM: Final = "linux/amd64"


class Site:
    """The archives of one image, and the programs that load them."""

    def __init__(self, folder: Path, registry: Registry, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        # As most images: for the host, for another platform that it can run, and for one that it cannot.
        graph = shapes.multi(["linux/amd64", "linux/386", "linux/arm64"], salt="readers")
        self.name = push(graph, registry, "readers/app", "v1")
        self.containerd = cache(self._containerd)
        self.docker = cache(self._docker)
        shell = Shell(self.containerd(peers.NEWEST), "save", folder)
        shell("pull", self.name)
        self.archives: dict[str, Path] = {}
        for kind, flags in KINDS.items():
            shell("save", *flags, self.name)
            made = folder / flags[-1]
            self.archives[kind] = made.rename(folder / f"{len(self.archives)}-{made.name}")

    def _containerd(self, generation: str) -> Containerd:
        with peer_required():
            return self._stack.enter_context(
                Containerd(generation, self.folder / generation, ISOLATED_CONTENT)
            )

    def _docker(self, containerd_store: bool) -> Dockerd:
        engine = Dockerd(self.folder / f"docker-{containerd_store}", containerd_store=containerd_store)
        with peer_required():
            return self._stack.enter_context(engine)

    def new_folder(self) -> Path:
        path = self.folder / uuid.uuid4().hex
        path.mkdir()
        return path


@pytest.fixture(scope="module")
def site(session_registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path_factory.mktemp("readers"), session_registry, stack)


Outcome: TypeAlias = str
"""What a program says if it fails; "" if it loads the image."""
Reader: TypeAlias = Callable[[Site, Path], Outcome]


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> Outcome:
    done = subprocess.run(command, capture_output=True, check=False, timeout=120, env=env)
    return done.stderr.decode(errors="replace").strip() if done.returncode else ""


def program(name: str) -> Path:
    with peer_required():
        return peers.tool(name)


def ctr(generation: str, *flags: str, pipe: bool = False) -> Reader:
    """Import with ctr; the image must then be complete and unpacked."""

    def load(site: Site, path: Path) -> Outcome:
        reader = site.containerd(generation)
        namespace = uuid.uuid4().hex
        how = {"stdin": path.read_bytes()} if pipe else {}
        command = ["images", "import", *flags, "-" if pipe else path]
        done = reader.ctr(*command, namespace=namespace, check=False, **how)
        if done.returncode:
            return done.stderr.decode().strip()
        check_complete(site, reader, namespace)
        return ""

    return load


def check_complete(site: Site, reader: Containerd, namespace: str) -> None:
    lines = reader.ctr("images", "check", namespace=namespace).stdout.decode().splitlines()[1:]
    assert site.name in [line.split()[0] for line in lines]
    for line in lines:
        assert " complete " in line, lines
        assert "unpacked" in line or "true" in line, lines


def nerdctl(version: str, generation: str) -> Reader:
    def load(site: Site, path: Path) -> Outcome:
        reader = site.containerd(generation)
        namespace = uuid.uuid4().hex
        with peer_required():
            command = peers.nerdctl(version)
        where = (
            f"--address={reader.address}",
            f"--namespace={namespace}",
            f"--data-root={site.new_folder()}",
        )
        env = peers.tool_environment(reader.peer.bin_dir)
        failure = run(command, *where, "load", "-i", path, env=env)
        if not failure:
            check_complete(site, reader, namespace)
        return failure

    return load


def docker(containerd_store: bool) -> Reader:
    def load(site: Site, path: Path) -> Outcome:
        engine = site.docker(containerd_store)
        engine.docker("image", "rm", site.name, check=False)
        done = engine.docker("load", "-i", path, check=False)
        if done.returncode:
            return done.stderr.decode().strip()
        found = engine.docker("image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", site.name)
        assert found.stdout.decode().strip() == PLATFORM
        return ""

    return load


def podman(site: Site, path: Path) -> Outcome:
    with peer_required():
        command = Podman(site.new_folder())
    done = command("load", "-i", path, check=False)
    if done.returncode:
        return done.stderr.decode().strip()
    found = command("image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", site.name)
    assert found.stdout.decode().strip() == PLATFORM
    return ""


def skopeo(source: str) -> Reader:
    def load(site: Site, path: Path) -> Outcome:
        name = site.name if source == "docker-archive" else "v1"
        target = site.new_folder() / "copy"
        return run(program("skopeo"), "copy", f"{source}:{path}:{name}", f"oci:{target}:v1")

    return load


def umoci(site: Site, path: Path) -> Outcome:
    """Unpack the layout in an archive into a bundle."""
    folder = site.new_folder()
    (folder / "layout").mkdir()
    subprocess.run(["tar", "-x", "-f", path, "-C", folder / "layout"], check=True, timeout=60)
    return run(program("umoci"), "unpack", "--image", f"{folder}/layout:v1", folder / "bundle")


def crane(site: Site, path: Path) -> Outcome:
    return run(program("crane"), "push", "--insecure", path, site.name.replace("readers/", "pushed/"))


READERS: Final[Mapping[str, Reader]] = {
    **{f"`ctr images import` {generation}": ctr(generation) for generation in peers.GENERATIONS},
    "`ctr images import --platform linux/amd64` 1.7": ctr("1.7", "--platform", PLATFORM),
    "`kind load image-archive`, containerd 1.7": ctr("1.7", "--all-platforms", "--digests", pipe=True),
    "`kind load image-archive`, containerd 2.4": ctr("2.4", "--all-platforms", "--digests", pipe=True),
    "`nerdctl load` 2.0": nerdctl("2.0.4", "1.7"),
    "`nerdctl load` 2.3": nerdctl("2.3.5", "2.4"),
    "`docker load`": docker(False),
    "`docker load`, containerd's image store": docker(True),
    "`podman load`": podman,
    "`skopeo copy oci-archive:`": skopeo("oci-archive"),
    "`skopeo copy docker-archive:`": skopeo("docker-archive"),
    "`crane push`": crane,
    "`umoci unpack`": umoci,
}

MISSING: Final = r"content digest sha256:[0-9a-f]{64}: not found"
NO_TAR: Final = "invalid tar header"
DEFAULT, _PRUNE, _FLATTEN, DOCKER, GZIP, ZSTD = KINDS
REFUSED: Final[Mapping[str, Mapping[str, str]]] = {
    "`ctr images import` 1.6": {DEFAULT: MISSING, GZIP: NO_TAR, ZSTD: NO_TAR},
    "`ctr images import` 1.7": {DEFAULT: MISSING, GZIP: NO_TAR, ZSTD: NO_TAR},
    "`ctr images import --platform linux/amd64` 1.7": {GZIP: NO_TAR, ZSTD: NO_TAR},
    "`kind load image-archive`, containerd 1.7": {DEFAULT: MISSING, GZIP: NO_TAR, ZSTD: NO_TAR},
    "`kind load image-archive`, containerd 2.4": dict.fromkeys((DEFAULT, GZIP, ZSTD), MISSING),
    "`skopeo copy oci-archive:`": {DOCKER: r"index\.json: no such file"},
    "`crane push`": {GZIP: NO_TAR, ZSTD: NO_TAR},
    "`umoci unpack`": {
        **dict.fromkeys((DEFAULT, GZIP, ZSTD), "tag is ambiguous: v1"),
        DOCKER: "read oci-layout: invalid image detected",
    },
}
"""What the programs say of archives that they do not load."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_it_loads_or_is_refused(site: Site, reader: str, kind: str) -> None:
    failure = READERS[reader](site, site.archives[kind])
    expected = REFUSED.get(reader, {}).get(kind, "")
    assert bool(failure) == bool(expected), failure
    assert re.search(expected, failure), failure


def test_the_page_has_this_table() -> None:
    page = (REPOSITORY_ROOT / "docs/airgap.md").read_text(encoding="utf-8")
    assert table() in page, table()


def table() -> str:
    rows = [
        [reader, *("no" if kind in REFUSED.get(reader, {}) else "yes" for kind in KINDS)]
        for reader in READERS
    ]
    head = [["program", *KINDS], ["---"] * (len(KINDS) + 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [*head, *rows])
