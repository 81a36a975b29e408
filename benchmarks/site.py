"""Where the measurements take place: a registry with the images, and a containerd of one generation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

from benchmarks import line
from benchmarks.image import MIB, SHAPES, scaled, write_many
from integration.rig import peers, publish
from integration.rig.containerd import Containerd
from integration.rig.disk import SmallDisk
from integration.rig.registry import Registry
from integration.rig.store import collect_garbage
from integration.rig.throttle import Throttle
from pyctrd.containerd import Daemon
from pyctrd.oci.model import ImageRecord

NAMESPACE = "default"
NERDCTL = "2.3.5"
ROUND_TRIP_SECONDS = 0.05
DISK_BYTES = 2 << 30
NAMES_OF_EACH = 20
FEW, SOME = 150, 500
ROOT = Path(__file__).parent.parent
# What the installed `pyctrd` script does.
PYCTRD = (sys.executable, "-c", "from pyctrd.cli import main; main()")


@dataclass(frozen=True)
class Published:
    """An image in the registry: its repository and tag, and the digests of its blobs."""

    repository: str
    digests: Sequence[str]


class Source:
    """The registry and the archives that all generations use.

    `scale` is a factor for all sizes; `settles` says whether the disk is synced before each command.
    """

    def __init__(self, folder: Path, scale: float, *, settles: bool = True) -> None:
        self.folder = folder
        self.scale = scale
        self.settles = settles
        self.registry = Registry(folder / "registry")
        self._published: dict[str, Published] = {}
        self._archives: dict[int, Path] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Source:
        self._stack.enter_context(self.registry)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def published(self, name: str) -> Published:
        """Return an image of SHAPES, after making and pushing it if that was not done yet."""
        if name not in self._published:
            graph = SHAPES[name].graph(self.scale)
            publish.push(graph, self.registry, f"bench/{name}")
            self._published[name] = Published(f"bench/{name}:latest", list(graph.blobs))
        return self._published[name]

    @cached_property
    def direct(self) -> str:
        """The host of the registry. (The rig's proxy, which counts requests, takes more time than it.)"""
        return self.registry.direct_host

    @cached_property
    def far(self) -> str:
        """The host of the registry at the end of a line with round trips of 50 ms."""
        port = int(self.direct.rpartition(":")[2])
        return f"127.0.0.1:{self._stack.enter_context(line.running(port, ROUND_TRIP_SECONDS))}"

    def count(self, number: int) -> int:
        """Return a number of images, scaled."""
        return scaled(number, self.scale)

    def many(self, number: int) -> Path:
        """Return an archive of so many small images."""
        if number not in self._archives:
            self._archives[number] = self.folder / f"many{number}.tar"
            write_many(number, self._archives[number])
        return self._archives[number]


class Site:
    """A containerd with its peers; a context manager.

    One image at a time is in it (`hold`), or none (`empty`).
    """

    def __init__(self, generation: str, source: Source) -> None:
        self.generation = generation
        self.source = source
        self.folder = source.folder / generation
        self.daemon = Containerd(generation, self.folder / "containerd")
        self._held: tuple[str, bool] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Site:
        self.folder.mkdir()
        self._stack.enter_context(self.daemon)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @cached_property
    def env(self) -> dict[str, str]:
        """The environment of all commands; no login of the user is used."""
        return {
            **peers.tool_environment(self.daemon.peer.bin_dir),
            "DOCKER_CONFIG": str(self.folder / "no-docker-config"),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "",  # or every process compiles all modules
        }

    # --- command lines

    def pyctrd(
        self, *arguments: str | Path, address: Path | None = None, namespace: str = NAMESPACE
    ) -> list[str]:
        """Return a command line of pyctrd."""
        where = ["-a", str(address or self.daemon.address), "-n", namespace]
        return [*PYCTRD, *where, *map(str, arguments)]

    def ctr(
        self, *arguments: str | Path, address: Path | None = None, namespace: str = NAMESPACE
    ) -> list[str]:
        """Return a command line of ctr."""
        where = ["-a", str(address or self.daemon.address), "-n", namespace]
        return [str(self.daemon.peer.ctr), *where, *map(str, arguments)]

    def nerdctl(self, *arguments: str | Path) -> list[str]:
        """Return a command line of nerdctl."""
        own = ["-a", str(self.daemon.address), "-n", NAMESPACE, "--data-root", str(self.folder / "nerdctl")]
        return [str(peers.nerdctl(NERDCTL)), *own, "--insecure-registry", *map(str, arguments)]

    def calls(
        self, verb: str, *, of: str = "", address: Path | None = None, namespace: str = NAMESPACE
    ) -> list[str]:
        """Return the command that only makes the calls of a command (benchmarks/floor.py).

        `of` is the name of an image in a registry, with the tag latest.
        """
        host, _, repository = of.removesuffix(":latest").partition("/")
        where = [str(address or self.daemon.address), namespace, *([host, repository] if of else [])]
        return [sys.executable, "-m", "benchmarks.floor", verb, *where]

    def do(self, command: Sequence[str]) -> None:
        """Run a command without measuring it. Raises RuntimeError with its error output if it fails."""
        done = subprocess.run(command, env=self.env, cwd=self.folder, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)[:300]}: {done.stderr.decode(errors='replace')[-2000:]}")

    def throttled(self, **limits: float) -> str:
        """Return the host of the registry behind a slow network (see Throttle), until the end of the site."""
        port = int(self.source.direct.rpartition(":")[2])
        return self._stack.enter_context(Throttle(port, **limits)).host

    # --- what is in the containerd

    def reference(self, name: str, host: str = "") -> str:
        """Return the name of an image in the registry."""
        return f"{host or self.source.direct}/{self.source.published(name).repository}"

    def empty(self) -> None:
        """Remove all images, their content and snapshots."""
        self._held = None
        names = self.daemon.ctr("images", "ls", "-q", namespace=NAMESPACE).stdout.decode().split()
        if names:
            self.daemon.ctr("images", "rm", "--sync", *names, namespace=NAMESPACE)
        collect_garbage(self.daemon, NAMESPACE)
        left = [path.name for path in self._blobs.glob("*")]
        if left:
            raise RuntimeError(f"content is left on containerd {self.daemon.version}: {left[:3]}")

    def hold(self, name: str, *, unpacked: bool = False) -> str:
        """Have this image of SHAPES in the containerd, and nothing else; return its name."""
        reference = self.reference(name)
        if self._held not in ((name, unpacked), (name, True)):
            self.empty()
            self.do(self.pyctrd("pull", "-q", "--unpack" if unpacked else "--no-unpack", reference))
            self._held = (name, unpacked)
        return reference

    def archive(self, name: str) -> Path:
        """Return an archive of an image of SHAPES."""
        file = self.source.folder / f"{name}.tar"
        if not file.exists():
            self.do(self.pyctrd("save", "-q", "-o", file, self.hold(name)))
        return file

    def blob_files(self, name: str) -> list[Path]:
        """Return the files of a held image's blobs."""
        return [
            self._blobs / digest.removeprefix("sha256:") for digest in self.source.published(name).digests
        ]

    @property
    def _blobs(self) -> Path:
        return self.folder / "containerd/root/io.containerd.content.v1.content/blobs/sha256"

    @cached_property
    def crowd(self) -> Crowd:
        """Another containerd with many images."""
        return self._stack.enter_context(crowded(self))


@dataclass(frozen=True)
class Crowd:
    """A containerd with many small images: three numbers of names, each in a namespace of that name."""

    daemon: Containerd
    few: int
    some: int
    many: int
    """The images of `some`, each with equally many names."""


@contextmanager
def crowded(site: Site) -> Iterator[Crowd]:
    """Start a containerd with many images.

    It is filled in memory: on a disk, where it is used then, each of so many changes would be synced.
    """
    source = site.source
    few, some = source.count(FEW), source.count(SOME)
    memory, disk = site.folder / "memory", site.folder / "crowd"
    with SmallDisk(memory, DISK_BYTES):
        with Containerd(site.generation, memory / "containerd") as daemon:
            for number, namespace in ((few, "few"), (some, "some"), (some, "many")):
                load = ("images", "import", "--local", "--no-unpack", source.many(number))
                site.do(site.ctr(*load, address=daemon.address, namespace=namespace))
            with Daemon.connect(str(daemon.address), "many") as store:
                targets = [record.target for record in store.images.list()]
                for tag in range(1, NAMES_OF_EACH):
                    for number, target in enumerate(targets):
                        name = f"registry.example/bench/{number}:{tag}"
                        store.images.create(ImageRecord(name=name, target=target))
        shutil.copytree(memory / "containerd/root", disk / "root")
    with Containerd(site.generation, disk) as daemon:
        yield Crowd(daemon, few, some, some * NAMES_OF_EACH)


def copy_of_blobs(files: Sequence[Path], folder: Path) -> list[str]:
    """Return the command that copies, hashes and syncs files: the least that a save has to do."""
    steps = ('mkdir "$to"', 'cp "$@" "$to"', 'openssl dgst -sha256 "$to"/*', 'sync "$to"/*')
    script = f"to=$1; shift; {' && '.join(steps)}"
    return ["sh", "-c", script, "sh", str(folder), *map(str, files)]


def described_machine() -> str:
    """Describe this machine in a few words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1024 * MIB)
    return f"{os.cpu_count()} cores, {memory:.0f} GiB of memory, Linux {os.uname().release}"
