"""What is measured: the cases, each with pyctrd and the programs that it is compared with."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.image import MIB, many_name
from benchmarks.site import FEW, PYCTRD, ROUND_TRIP_SECONDS, SOME, Site, copy_of_blobs
from integration.rig import peers
from integration.rig.containerd import Containerd
from integration.rig.peers import CURRENT, NEWEST

OURS = "pyctrd"
GRPC = "import grpc"
COPY = "cp, openssl, sync"
CHECK_EACH = "ctr images check of each"
FEWER = "pyctrd, fewer names"
CALLS_ONLY = "grpc, calls only"
WITHOUT_RANGES = "pyctrd --parallel-ranges off"


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Contender:
    """A command to measure. `before` and `after` are not measured."""

    name: str
    command: Sequence[str]
    before: Callable[[], object] = _nothing
    after: Callable[[], object] = _nothing
    piped: bool = False
    """Whether `cat` reads its output."""
    daemon: Containerd | None = None
    """The daemon that it uses, if that is not the site's."""
    once: bool = False
    """Whether it is measured in the first round only, since it takes so long."""
    archive: Path | None = None
    """The archive that it writes."""
    requests: Callable[[], int] | None = None
    """Returns the number of requests that the registry got."""


@dataclass(frozen=True)
class Case:
    """Commands that do the same; `make` prepares them. pyctrd is the first of them."""

    name: str
    title: str
    """May contain names of SHAPES, and n500 for that number of images, in braces."""
    make: Callable[[Site], Sequence[Contender]]
    rounds: int = 3
    generations: Sequence[str] = CURRENT
    """Where it is measured unless generations are named: for the time, most on the newest only."""
    by_default: bool = True


def _every_peer(site: Site, image: str) -> bool:
    """Whether programs without a limit are measured as well; for the time, not always."""
    return site.generation == NEWEST and image != "gib"


# --- pull


def _pull(image: str, site: Site) -> list[Contender]:
    site.empty()
    name = site.reference(image)
    fresh = partial(Contender, after=site.empty)
    found = [
        fresh(OURS, site.pyctrd("pull", "-q", name)),
        fresh("ctr images pull", site.ctr("images", "pull", "--plain-http", name)),
    ]
    if _every_peer(site, image):
        local = ("images", "pull", "--local", "--plain-http", name)
        found += [
            fresh("ctr images pull --local", site.ctr(*local)),
            fresh("nerdctl pull", site.nerdctl("pull", "-q", name)),
            fresh(CALLS_ONLY, site.calls("pull", of=name)),
        ]
    return found


def _fetch(image: str, site: Site, *, far: bool = False) -> list[Contender]:
    site.empty()
    name = site.reference(image, site.source.far if far else "")
    fresh = partial(Contender, after=site.empty)
    found = [
        fresh(OURS, site.pyctrd("pull", "-q", "--no-unpack", name)),
        fresh("ctr content fetch", site.ctr("content", "fetch", "--plain-http", name)),
    ]
    if _every_peer(site, image):
        found.append(fresh(CALLS_ONLY, site.calls("fetch", of=name)))
    return found


def _pull_again(site: Site) -> list[Contender]:
    name = site.hold("large", unpacked=True)
    return [
        Contender(OURS, site.pyctrd("pull", "-q", name)),
        Contender(GRPC, _import_grpc()),
        Contender("ctr images pull", site.ctr("images", "pull", "--plain-http", name)),
    ]


def _pull_again_counted(site: Site) -> list[Contender]:
    site.empty()
    registry = site.source.registry
    pull = site.pyctrd("pull", "-q", site.reference("large", registry.host))
    site.do(pull)
    return [
        Contender(
            OURS,
            pull,
            before=registry.clear_requests,
            after=site.empty,
            requests=lambda: len(registry.requests()),
        )
    ]


def _to_archive(image: str, site: Site) -> list[Contender]:
    site.empty()
    name, file = site.reference(image), site.folder / "pulled.tar"
    pull, save = site.pyctrd("pull", "-q", "--no-unpack", name), site.pyctrd("save", "-q", "-o", file, name)
    gone = partial(file.unlink, missing_ok=True)

    def all_gone() -> None:
        gone()
        site.empty()

    skopeo, crane = str(peers.tool("skopeo")), str(peers.tool("crane"))
    return [
        Contender(OURS, _in_turn(pull, save), after=all_gone),
        Contender(
            "skopeo copy",
            [skopeo, "copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"oci-archive:{file}"],
            after=gone,
        ),
        Contender("crane pull", [crane, "pull", "--insecure", name, str(file)], after=gone),
    ]


def _in_turn(*commands: Sequence[str]) -> list[str]:
    """Return a command that runs several ones, each of them if the one before succeeds."""
    return ["sh", "-c", " && ".join(map(shlex.join, commands))]


def _ranges(limits: Mapping[str, float], site: Site) -> list[Contender]:
    site.empty()
    name = site.reference("layer", site.throttled(**limits) if limits else "")
    pull = partial(site.pyctrd, "pull", "-q", "--no-unpack", "--parallel-ranges")
    fresh = partial(Contender, after=site.empty)
    return [fresh(OURS, pull("auto", name)), fresh(WITHOUT_RANGES, pull("off", name))]


# --- save


def _save(image: str, site: Site) -> list[Contender]:
    name, file, folder = site.hold(image), site.folder / "saved.tar", site.folder / "copied"
    writes = partial(Contender, after=partial(file.unlink, missing_ok=True), archive=file)
    found = [
        writes(OURS, site.pyctrd("save", "-q", "-o", file, name)),
        writes("ctr images export", site.ctr("images", "export", file, name)),
        Contender(COPY, copy_of_blobs(site.blob_files(image), folder), after=partial(shutil.rmtree, folder)),
    ]
    if _every_peer(site, image):
        found += [
            writes("ctr images export --local", site.ctr("images", "export", "--local", file, name)),
            writes("nerdctl save", site.nerdctl("save", "-o", file, name)),
        ]
        if image == "small":
            found.append(Contender(CALLS_ONLY, site.calls("read")))
    return found


def _save_many(count: int, site: Site) -> list[Contender]:
    names = [many_name(number) for number in range(site.source.count(count))]
    file = site.folder / "saved.tar"
    found = _crowd(
        site,
        "some",
        ["save", "-q", "-o", str(file), *names],
        ["images", "export", str(file), *names],
        ["images", "export", "--local", str(file), *names],
    )
    found = [replace(one, after=partial(file.unlink, missing_ok=True), archive=file) for one in found]
    namespace = "few" if count == FEW else "some"
    daemon = site.crowd.daemon
    read = site.calls("read", address=daemon.address, namespace=namespace)
    return [*found, Contender(CALLS_ONLY, read, daemon=daemon)]


def _save_to_pipe(site: Site) -> list[Contender]:
    name = site.hold("large")
    return [
        Contender(OURS, site.pyctrd("save", "-q", name), piped=True),
        Contender("ctr images export", site.ctr("images", "export", "-", name), piped=True),
    ]


# --- load


def _load(image: str, site: Site) -> list[Contender]:
    archive = site.archive(image)
    site.empty()
    fresh = partial(Contender, after=site.empty)
    found = _loads(site, archive, fresh)
    if _every_peer(site, image):
        found += [
            fresh("ctr images import --local", site.ctr("images", "import", "--local", archive)),
            fresh("nerdctl load", site.nerdctl("load", "-q", "-i", archive)),
        ]
    return found


def _load_many(count: int, site: Site) -> list[Contender]:
    site.empty()
    return _loads(site, site.source.many(site.source.count(count)), partial(Contender, after=site.empty))


def _load_again(image: str, site: Site) -> list[Contender]:
    archive = site.archive(image)
    site.hold(image, unpacked=True)
    return [*_loads(site, archive, Contender), Contender(GRPC, _import_grpc())]


def _loads(site: Site, archive: Path, contender: Callable[..., Contender]) -> list[Contender]:
    return [
        contender(OURS, site.pyctrd("load", "-q", "-i", archive)),
        contender("ctr images import", site.ctr("images", "import", archive)),
    ]


# --- many images


def _crowd(site: Site, namespace: str, ours: Sequence[str], *others: Sequence[str]) -> list[Contender]:
    """Compare commands of ctr in a namespace of the containerd with many images."""
    daemon = site.crowd.daemon
    at = partial(Contender, daemon=daemon)
    pyctrd = partial(site.pyctrd, address=daemon.address, namespace=namespace)
    ctr = partial(site.ctr, address=daemon.address, namespace=namespace)
    return [at(OURS, pyctrd(*ours)), *(at(_name(one), ctr(*one)) for one in others)]


def _name(ctr: Sequence[str]) -> str:
    """Name a command of ctr: `images export --local`, without the file and the images."""
    return " ".join(["ctr", *ctr[:2], *(word for word in ctr if word == "--local")])


def _list_few(site: Site) -> list[Contender]:
    daemon = site.crowd.daemon
    calls = site.calls("list", address=daemon.address, namespace="few")
    return [
        *_crowd(site, "few", ["images"], ("images", "ls")),
        Contender(GRPC, _import_grpc()),
        Contender(CALLS_ONLY, calls, daemon=daemon),
    ]


def _diagnose_one(site: Site) -> list[Contender]:
    return [*_crowd(site, "few", ["diagnose", many_name(0)]), Contender(GRPC, _import_grpc())]


def _version(_site: Site) -> list[Contender]:
    return [Contender(OURS, [*PYCTRD, "--version"]), Contender(GRPC, _import_grpc())]


def _diagnose_some(site: Site) -> list[Contender]:
    found = _crowd(site, "some", ("diagnose",), ("images", "check"))
    check = shlex.join(site.ctr("images", "check", address=site.crowd.daemon.address, namespace="some"))
    names = [many_name(number) for number in range(site.crowd.some)]
    script = f'for name; do {check} "name==$name" || exit; done'
    each = Contender(CHECK_EACH, ["sh", "-c", script, "sh", *names], daemon=site.crowd.daemon)
    return [found[0], each, *found[1:]]


def _of_many(ours: str, ctr: Sequence[str], site: Site) -> list[Contender]:
    """Compare a command in the largest namespace with ctr, and with itself in a smaller namespace."""
    first, *others = _crowd(site, "many", [ours], *([ctr] if ctr else []))
    fewer = replace(_crowd(site, "some", [ours])[0], name=FEWER)
    return [first, fewer, *(replace(one, once=True) for one in others)]


def _import_grpc() -> list[str]:
    return [sys.executable, "-c", "import grpc"]


# --- the table of them


def _of_images() -> Iterator[Case]:
    """The cases that are measured with every image of SHAPES."""
    for name in ("large", "small", "programs", "gib"):
        case = partial(
            Case, rounds=5 if name == "small" else 3, generations=(NEWEST,) if name == "gib" else CURRENT
        )
        yield case(f"pull/{name}", f"pull and unpack {{{name}}}", partial(_pull, name))
        yield case(f"fetch/{name}", f"pull {{{name}}}, without unpacking", partial(_fetch, name))
        if name == "large":
            yield case("pull-again/large", f"pull {{{name}}}, all of it there", _pull_again, rounds=9)
            yield case("requests/large", f"pull {{{name}}}, all of it there", _pull_again_counted, rounds=1)
            yield case("pipe/large", f"save {{{name}}} to a pipe", _save_to_pipe)
        yield case(f"save/{name}", f"save {{{name}}}", partial(_save, name))
        yield case(f"load-again/{name}", f"load {{{name}}}, all of it there", partial(_load_again, name))
        yield case(f"load/{name}", f"load and unpack {{{name}}}", partial(_load, name))


def _of_the_newest() -> Iterator[Case]:
    """Cases where the line or the registry takes the time, or nothing can be compared."""
    case = partial(Case, generations=(NEWEST,))
    for name in ("large", "small", "programs"):
        fetch = partial(_fetch, name, far=True)
        yield case(f"line/{name}", f"pull {{{name}}}, without unpacking, round trips of 50 ms", fetch)
    yield case(
        "archive/programs", "from the registry to an archive: {programs}", partial(_to_archive, "programs")
    )


def _of_many_images() -> Iterator[Case]:
    case = partial(Case, generations=(NEWEST,))
    for count in (FEW, SOME):
        what = f"{{n{count}}} images of three small layers"
        yield case(f"save/{count}", f"save {what} in one archive", partial(_save_many, count))
    yield case("load/150", "load and unpack {n150} images of three small layers", partial(_load_many, 150))
    short = partial(case, rounds=9)
    yield short("start/list", "list {n150} images", _list_few)
    yield short("start/diagnose", "diagnose one image", _diagnose_one)
    yield short("start/version", "--version", _version)
    yield case("diagnose/500", "diagnose {n500} images", _diagnose_some)
    for verb, ours, ctr in (
        ("list", "images", ("images", "ls")),
        ("diagnose", "diagnose", ("images", "check")),
        ("usage", "usage", ()),
    ):
        yield case(
            f"{verb}/10000", f"{verb} of {{n10000}} names of {{n500}} images", partial(_of_many, ours, ctr)
        )


def _of_ranges() -> Iterator[Case]:
    """One large layer with and without parallel ranges, over networks of several kinds; takes minutes."""
    case = partial(Case, rounds=1, generations=(NEWEST,), by_default=False)
    for name, words, limits in (
        ("loopback", "unlimited", {}),
        ("slow", "4 MiB/s per connection", {"per_connection": 4 * MIB}),
        ("far", "4 MiB/s per connection, 50 ms", {"per_connection": 4 * MIB, "delay": ROUND_TRIP_SECONDS}),
        ("shared", "12 MiB/s in total", {"in_all": 12 * MIB}),
    ):
        yield case(f"ranges/{name}", f"pull {{layer}}, without unpacking, {words}", partial(_ranges, limits))


CASES: Sequence[Case] = (*_of_images(), *_of_the_newest(), *_of_many_images(), *_of_ranges())
