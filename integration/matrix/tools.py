"""The tools that write archives: their commands and results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from integration.matrix.archives import Archive
from integration.matrix.site import Site
from integration.rig.daemons import Request
from integration.rig.peers import GENERATIONS, NEWEST
from pyctrd import Client, PyctrdError, RegistryOptions

Ask = Literal["host", "arm64", "riscv64", "all"]
PLATFORM = {"host": "linux/amd64", "arm64": "linux/arm64", "riscv64": "linux/riscv64"}


@dataclass(frozen=True)
class Tool:
    """A column of the matrix. `version` is a generation of ctr or a release of nerdctl.

    `forecast` is its member in diagnose's `tools`. `by_daemon`: the daemon exports, through its transfer
    service; such an archive may be truncated although the tool reports success.
    """

    name: str
    program: Literal["ctr", "nerdctl", "pyctrd"]
    version: str
    forecast: str
    by_daemon: bool = False
    flags: tuple[str, ...] = ()

    def runs_on(self, generation: str) -> bool:
        """Whether the tool can run: ctr's transfer service is missing in 1.6."""
        return not (self.program == "ctr" and self.by_daemon and generation == "1.6")


_TWO = [one for one in GENERATIONS if not one.startswith("1.")]
TOOLS = (
    Tool("ctr 1.6 export", "ctr", "1.6", "ctr_export"),
    Tool("ctr 1.7 export", "ctr", "1.7", "ctr_export"),
    *(Tool(f"ctr {one} export --local", "ctr", one, "ctr_export", flags=("--local",)) for one in _TWO),
    Tool(f"ctr {NEWEST} export", "ctr", NEWEST, "ctr_export", by_daemon=True),
    Tool("nerdctl 2.0.3 save", "nerdctl", "2.0.3", "nerdctl_save_2_0_3"),
    Tool("nerdctl 2.0.4 save", "nerdctl", "2.0.4", "nerdctl_save_2_0_4"),
    Tool("nerdctl 2.2.2 save", "nerdctl", "2.2.2", "nerdctl_save_2_1_4"),
    Tool("nerdctl 2.3.5 save", "nerdctl", "2.3.5", "nerdctl_save_2_3_0", by_daemon=True),
    Tool("pyctrd save", "pyctrd", "", "pyctrd_save"),
)


@dataclass(frozen=True)
class Outcome:
    """What a tool did. `fetched` are the digests that it downloaded, `size` their bytes.

    `archive` is None unless there is one that can be read to its end. `target` is what the image's record
    points at afterwards.
    """

    exit_code: int
    words: str
    requests: tuple[Request, ...]
    fetched: frozenset[str]
    size: int
    archive: Archive | None
    target: str


def values(ask: Ask) -> list[str]:
    """The platforms as arguments of pyctrd."""
    if ask == "host":
        return []
    return ["all"] if ask == "all" else [PLATFORM[ask]]


def run(tool: Tool, site: Site, ask: Ask) -> Outcome:
    """Run the tool, which writes an archive, and return the result."""
    output = site.folder / "out.tar"
    site.forget_requests()
    if tool.program == "pyctrd":
        exit_code, words = _save(site, ask, output)
    else:
        exit_code, words = _run(tool, site, ask, output)
    fetched = frozenset(fetched_digests(site.requests()))
    blobs = {**site.graph.blobs, **site.moved.blobs}
    return Outcome(
        exit_code=exit_code,
        words=words,
        requests=tuple(site.requests()),
        fetched=fetched,
        size=sum(len(blobs[digest]) for digest in fetched),
        archive=Archive.read(output),
        target=site.target(),
    )


def _run(tool: Tool, site: Site, ask: Ask, output: Path) -> tuple[int, str]:
    flags = {"host": [], "all": ["--all-platforms"]}.get(ask) or _platform_flags(ask)
    if tool.program == "nerdctl":
        done = site.nerdctl(tool.version, "save", "-o", output, *flags, site.name)
    else:
        done = site.ctr(tool.version, "images", "export", *tool.flags, *flags, output, site.name)
    return done.returncode, done.stderr.decode(errors="replace")


def _platform_flags(ask: Ask) -> list[str]:
    return ["--platform", PLATFORM[ask]] if ask in ("arm64", "riscv64") else []


def _save(site: Site, ask: Ask, output: Path) -> tuple[int, str]:
    try:
        with client(site) as pyctrd:
            pyctrd.images.save([site.name], output, platforms=values(ask))
    except PyctrdError as error:
        return error.exit_code, error.message
    return 0, ""


def client(site: Site) -> Client:
    """A client of pyctrd's library for this cell."""
    return Client(str(site.daemon.address), site.namespace, registry=RegistryOptions(plain_http=True))


def fetched_digests(requests: Iterable[Request]) -> Iterator[str]:
    """The digests of what was downloaded."""
    for one in requests:
        name = one.path.rpartition("/")[2]
        if one.method == "GET" and one.status in (200, 206, 307) and name.startswith("sha256:"):
            yield name
