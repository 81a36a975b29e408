"""Image archives of every program that writes some, for tests of load."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from integration.conftest import peer_required
from integration.rig import peers
from integration.rig.daemons import Containerd, Dockerd, Registry
from integration.rig.podman import Podman
from integration.rig.publish import push, write_layout
from pyctrd import IndexMode
from pyctrd.client import Client
from pyctrd.registry import RegistryOptions
from tests.support import images, shapes
from tests.support.images import Graph

NAME = "example.com/team/app"


@dataclass
class Workshop:
    """What archives are made with: a registry, a containerd of some generation, and docker engines."""

    folder: Path
    registry: Registry
    containerd: Callable[[str], Containerd]
    docker: Callable[[bool], Dockerd]

    def path(self, name: str) -> Path:
        """A new file."""
        self.folder.mkdir(exist_ok=True)
        return self.folder / name

    def run(self, tool: str, *arguments: str | Path, **env: str) -> None:
        """Run one of the peers."""
        with peer_required():
            program = peers.tool(tool)
        done = subprocess.run(
            [program, *arguments],
            env={**os.environ, **env},
            capture_output=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")

    def layout(self, graph: Graph, name: str) -> Path:
        """A folder with an OCI layout."""
        return write_layout(graph, self.folder / f"layout-{graph.digest[7:19]}", name)

    def pulled(self, generation: str, graph: Graph) -> tuple[Containerd, str, str]:
        """A containerd that has pulled all platforms of an image, a namespace of it, and the image's name."""
        daemon = self.containerd(generation)
        name = push(graph, self.registry, f"archives/{graph.digest[7:19]}")
        namespace = f"archives-{graph.digest[7:19]}"
        daemon.ctr("content", "fetch", "--plain-http", "--all-platforms", name, namespace=namespace)
        return daemon, namespace, name


Make = Callable[[Workshop, Path], None]


@dataclass(frozen=True)
class Archive:
    """An archive for the tests.

    `local_flags` are those that ctr needs where it imports by itself: its default includes linux/386, which
    it then misses.
    """

    name: str
    make: Make
    flags: tuple[str, ...] = ()
    local_flags: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return its name for pytest."""
        return self.name


def tar_of_folder(folder: Path, path: Path, *, last: Sequence[str] = ()) -> None:
    """Write a folder as a tar, with some of its files at the end."""
    with tarfile.open(path, "w") as archive:
        names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        for name in [one for one in names if one not in last] + list(last):
            archive.add(folder / name, f"./{name}" if last else name)


def _layout_tar(graph: Callable[[], Graph], name: str, *last: str) -> Make:
    def make(shop: Workshop, path: Path) -> None:
        tar_of_folder(shop.layout(graph(), name), path, last=last)

    return make


def _exported(generation: str, graph: Callable[[], Graph], *flags: str) -> Make:
    def make(shop: Workshop, path: Path) -> None:
        daemon, namespace, name = shop.pulled(generation, graph())
        local = [] if daemon.is_1 else ["--local"]
        daemon.ctr("images", "export", *local, *flags, path, name, namespace=namespace)

    return make


def _saved(graph: Callable[[], Graph], index: IndexMode, *platforms: str) -> Make:
    def make(shop: Workshop, path: Path) -> None:
        daemon, namespace, name = shop.pulled(peers.NEWEST, graph())
        with Client(daemon.address, namespace, registry=RegistryOptions(plain_http=True)) as client:
            client.images.save(name, path, index=index, platforms=platforms or None)

    return make


def _skopeo(target: str, graph: Callable[[], Graph], *flags: str) -> Make:
    def make(shop: Workshop, path: Path) -> None:
        layout = shop.layout(graph(), "v1")
        shop.run("skopeo", "copy", *flags, f"oci:{layout}:v1", f"{target}:{path}:{NAME}:v1")

    return make


def _crane(form: str, graph: Callable[[], Graph], *flags: str) -> Make:
    def make(shop: Workshop, path: Path) -> None:
        made = graph()
        name = push(made, shop.registry, f"archives/{made.digest[7:19]}")
        if form == "oci":
            folder = path.with_suffix(".folder")
            shop.run("crane", "pull", "--insecure", "--annotate-ref", "--format=oci", *flags, name, folder)
            tar_of_folder(folder, path)
        else:
            shop.run("crane", "pull", "--insecure", f"--format={form}", *flags, name, path)

    return make


def _oras(graph: Callable[[], Graph], *flags: str) -> Make:
    def make(shop: Workshop, path: Path) -> None:
        made = graph()
        name = push(made, shop.registry, f"archives/{made.digest[7:19]}")
        folder = path.with_suffix(".folder")
        shop.run("oras", "copy", "--from-plain-http", "--to-oci-layout", *flags, name, f"{folder}:v1")
        tar_of_folder(folder, path)

    return make


def _umoci() -> Make:
    def make(shop: Workshop, path: Path) -> None:
        folder = path.with_suffix(".folder")
        shop.run("umoci", "init", "--layout", folder)
        shop.run("umoci", "new", "--image", f"{folder}:v1")
        file = shop.path("file.txt")
        file.write_text("a file\n" * 1000)
        shop.run("umoci", "insert", "--image", f"{folder}:v1", file, "/etc/file.txt")
        shop.run("umoci", "insert", "--image", f"{folder}:v1", "--tag", "v2", file, "/etc/second.txt")
        tar_of_folder(folder, path)

    return make


def _docker(containerd_store: bool, *graphs: Callable[[], Graph], tagged: bool = True) -> Make:
    def make(shop: Workshop, path: Path) -> None:
        engine = shop.docker(containerd_store)
        names = []
        for number, graph in enumerate(graphs):
            archive = io.BytesIO()
            layout = shop.layout(graph(), "v1")
            source = shop.path(f"docker-{number}.tar")
            source.unlink(missing_ok=True)
            name = f"{NAME}-{number}:v1"
            shop.run("skopeo", "copy", f"oci:{layout}:v1", f"docker-archive:{source}:{name}")
            engine.docker("load", stdin=source.read_bytes())
            archive.close()
            found = engine.docker("image", "inspect", "--format", "{{.Id}}", name).stdout.decode().strip()
            names += [name] if tagged else [found]
        engine.docker("save", "-o", path, *names)

    return make


def _nerdctl(version: str, graph: Callable[[], Graph]) -> Make:
    def make(shop: Workshop, path: Path) -> None:
        daemon, namespace, name = shop.pulled("1.7" if version == "2.0.4" else "2.3", graph())
        with peer_required():
            program = peers.nerdctl(version)
        done = subprocess.run(
            [
                *(program, f"--address={daemon.address}", f"--namespace={namespace}"),
                *("--data-root", shop.folder / "nerdctl", "--insecure-registry"),
                *("save", "-o", path, name),
            ],
            capture_output=True,
            check=False,
            timeout=120,
            env=peers.tool_environment(daemon.peer.bin_dir),
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")

    return make


def _podman(form: str, *graphs: Callable[[], Graph]) -> Make:
    def make(shop: Workshop, path: Path) -> None:
        with peer_required():
            podman = Podman(shop.path("podman"))
        names = []
        for number, graph in enumerate(graphs):
            layout = shop.layout(graph(), "v1")
            found = podman("pull", "-q", f"oci:{layout}:v1").stdout.decode().strip()
            names.append(f"{NAME}-{number}:v1")
            podman("tag", found, names[-1])
        several = ["--multi-image-archive"] if len(names) > 1 else []
        podman("save", "--format", form, *several, "-o", path, *names)

    return make


def _buildkit(kind: str, *flags: str) -> Make:
    """Build an image from a Dockerfile with the BuildKit in dockerd, and export it."""

    def make(shop: Workshop, path: Path) -> None:
        engine = shop.docker(True)
        context = shop.path("context")
        context.mkdir()
        (context / "Dockerfile").write_text("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH one /\n")
        for name in ("amd64", "arm64", "one"):
            (context / name).write_text(f"{name}\n" * 1000)
        where = {"DOCKER_HOST": engine.address, "DOCKER_CONFIG": str(shop.folder / "docker-config")}
        output = f"--output=type={kind},dest={path},name={NAME}:v1"
        shop.run("buildx", "build", "--progress=plain", output, *flags, context, **where)

    return make


def _v1_layers(shop: Workshop, path: Path) -> None:
    """Docker's archive as before 1.10 and as skopeo: the second layer is a link to the first."""
    made = images.layer({"etc/os-release": b"ID=example\n" * 100}, compression="")
    config = images.config([made, made])
    manifest = [{"Config": "config.json", "RepoTags": ["app:v1"], "Layers": ["a/layer.tar", "b/layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        for name, data in (
            ("a/layer.tar", made.data),
            ("a/VERSION", b"1.0"),
            ("config.json", config.data),
            ("manifest.json", images.to_json(manifest)),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            if name == "a/layer.tar":
                link = tarfile.TarInfo("b/layer.tar")
                link.type, link.linkname = tarfile.SYMTYPE, "../a/layer.tar"
                archive.addfile(link)


single = shapes.single
other = partial(shapes.single, salt="other")
two = partial(shapes.multi, ["linux/amd64", "linux/arm64"], salt="two")
AMD64 = ("--platform", "linux/amd64")
BOTH = "linux/amd64,linux/arm64"

ARCHIVES = (
    Archive("layout", _layout_tar(single, f"{NAME}:v1")),
    Archive("layout-tag-only", _layout_tar(single, "v1")),
    Archive("layout-index-last", _layout_tar(two, f"{NAME}:v1", "oci-layout", "index.json")),
    Archive("layout-nested", _layout_tar(shapes.nested, f"{NAME}:v1")),
    Archive("layout-mixed", _layout_tar(shapes.mixed, f"{NAME}:v1"), local_flags=AMD64),
    Archive("layout-artifact", _layout_tar(shapes.artifact, f"{NAME}:v1"), flags=("--no-unpack",)),
    Archive(
        "layout-compressions",
        _layout_tar(lambda: shapes.compressions(("gzip", "", "zstd")), f"{NAME}:v1"),
    ),
    Archive("layout-shared-layers", _layout_tar(shapes.shared_layers, f"{NAME}:v1")),
    Archive(
        "layout-arm64",
        _layout_tar(two, f"{NAME}:v1"),
        flags=(
            "--platform",
            "linux/arm64",
        ),
    ),
    Archive("layout-all", _layout_tar(shapes.five_platform, f"{NAME}:v1"), flags=("--all-platforms",)),
    Archive("layout-attestation", _layout_tar(shapes.mixed, f"{NAME}:v1"), flags=("--all-platforms",)),
    Archive("layout-no-unpack", _layout_tar(single, f"{NAME}:v1"), flags=("--no-unpack",)),
    Archive(
        "layout-labels",
        _layout_tar(single, f"{NAME}:v1"),
        flags=(
            "--label",
            "a=b",
            "--label",
            "c=d",
        ),
    ),
    Archive(
        "layout-base-name",
        _layout_tar(single, "v1"),
        flags=(
            "--base-name",
            "example.com/base",
        ),
    ),
    *(Archive(f"ctr-{one}-single", _exported(one, single)) for one in peers.GENERATIONS),
    *(Archive(f"ctr-{one}-five", _exported(one, shapes.five_platform)) for one in peers.GENERATIONS),
    Archive("ctr-mixed", _exported("2.4", shapes.mixed), local_flags=AMD64),
    Archive("save-keep", _saved(shapes.five_platform, "keep")),
    Archive("save-prune", _saved(shapes.mixed, "prune")),
    Archive("save-flatten", _saved(shapes.five_platform, "flatten")),
    Archive(
        "save-two-arm64",
        _saved(two, "keep", "linux/arm64"),
        flags=(
            "--platform",
            "linux/arm64",
        ),
    ),
    Archive("skopeo-docker", _skopeo("docker-archive", single)),
    Archive("skopeo-docker-uncompressed", _skopeo("docker-archive", lambda: shapes.compressions(("",)))),
    Archive("skopeo-oci", _skopeo("oci-archive", single)),
    Archive("skopeo-oci-all", _skopeo("oci-archive", two, "--all")),
    Archive("crane-tarball", _crane("tarball", single)),
    Archive("crane-legacy", _crane("legacy", single)),
    Archive("crane-oci", _crane("oci", single)),
    Archive("crane-oci-index", _crane("oci", two)),
    Archive("oras", _oras(two)),
    Archive("oras-one-platform", _oras(two, "--platform", "linux/amd64")),
    Archive("umoci", _umoci()),
    Archive("docker", _docker(False, single)),
    Archive("docker-several", _docker(False, single, other)),
    Archive("docker-containerd-store", _docker(True, single)),
    Archive("podman-docker", _podman("docker-archive", single)),
    Archive("podman-docker-several", _podman("docker-archive", single, other)),
    Archive("podman-oci", _podman("oci-archive", single)),
    Archive("podman-oci-zstd", _podman("oci-archive", lambda: shapes.recompressed("zstd"))),
    Archive("buildkit-oci", _buildkit("oci", "--provenance=false")),
    Archive(
        "buildkit-oci-zstd", _buildkit("oci,compression=zstd,force-compression=true", "--provenance=false")
    ),
    Archive("buildkit-oci-attested", _buildkit("oci", "--provenance=mode=max", f"--platform={BOTH}")),
    Archive("buildkit-docker", _buildkit("docker", "--provenance=false")),
    Archive("nerdctl-2.0.4", _nerdctl("2.0.4", two)),
    Archive("nerdctl-2.3.5", _nerdctl("2.3.5", two)),
    Archive("v1-layers", _v1_layers),
)
