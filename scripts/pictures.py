"""Pictures of commands on a terminal: the real output, on a containerd made for them, as SVG.

What changes from run to run is replaced by values of the same width: ages, times, ids and folders.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from integration.rig.containerd import Containerd
from integration.rig.peers import NEWEST
from integration.shell import REPOSITORY_ROOT, Shell, on_a_terminal
from pyctrd.containerd import Daemon
from pyctrd.errors import AlreadyExists
from pyctrd.oci.resources import LeaseResource
from tests.support import images, shapes
from tests.support.images import Graph
from tests.support.loading import archive_of

SHOWN: Final = REPOSITORY_ROOT / "docs" / "pictures"
WIDTHS: Final = (80, 160)
NAMESPACE: Final = "default"
APP, NEXT, BASE = (
    "registry.example/team/app:1.0",
    "registry.example/team/app:1.1",
    "docker.io/library/base:12",
)
PAUSE, LONG = "registry.k8s.io/pause:3.10", "registry.example/team/platform/observability/collector:2026.11.4"


def _layer(name: str, size: int, seed: int) -> images.Layer:
    return images.random_layer(size, seed) if size else images.layer({name: b"#"})


class Scene(NamedTuple):
    """A command line to show. `shown` says at which width and in which theme docs/ has it, if at all.

    `prepare` is run before it, and what a scene changes is there for the next ones.
    """

    name: str
    command: tuple[str, ...]
    shown: tuple[int, str] | None = None
    prepare: Callable[[Shell], object] | None = None


BLOB: Final = str(_layer("base", 7 << 20, 1).digest)[:19]
OTHER: Final = "registry.example/team/app:stable"


def _lease(shell: Shell) -> None:
    with Daemon.connect(str(shell.containerd.address), NAMESPACE) as daemon:
        with suppress(AlreadyExists):
            daemon.leases.create("build-cache", {"team": "one"})
        for resource in (
            LeaseResource(type="content", id=str(_layer("base", 7 << 20, 1).digest)),
            LeaseResource(type="snapshots/overlayfs", id="web-1"),
        ):
            daemon.leases.add("build-cache", resource)


def _ingest(shell: Shell) -> None:
    layer = _layer("collector", 5 << 20, 5)
    with (
        Daemon.connect(str(shell.containerd.address), NAMESPACE) as daemon,
        daemon.content.open_ingest(f"layer-{layer.digest}", digest=None, size=5 << 20) as ingest,
    ):
        if not ingest.offset:
            ingest.write(bytes(2 << 20))


SCENES: Final = (
    Scene("images", ("images",), (80, "dark")),
    Scene("images-wide", ("images", "--format", "wide")),
    Scene("diagnose-all", ("diagnose",), (80, "light")),
    Scene("diagnose", ("diagnose", PAUSE)),
    Scene("inspect", ("inspect", APP), (160, "dark")),
    Scene("history", ("history", APP)),
    Scene("why", ("why", BLOB), (80, "dark")),
    Scene("why-image", ("why", BASE)),
    Scene("usage", ("usage", "--verbose"), (80, "light")),
    Scene("rm", ("rm", "--dry-run", APP)),
    Scene("prune", ("prune", "--unused", "--keep-last", "1", "--dry-run"), (80, "light")),
    Scene("in-use", ("rm", BASE)),
    Scene("missing", ("save", "--offline", PAUSE, "-o", "pause.tar")),
    Scene("similar", ("inspect", "team/app")),
    Scene("doctor", ("doctor",)),
    Scene("content", ("content", "ls")),
    Scene("content-info", ("content", "info", BLOB)),
    Scene("content-read", ("content", "read", BLOB)),
    Scene("content-rm", ("content", "rm", BLOB)),
    Scene("content-get", ("content", "get", BLOB)),
    Scene("snapshots", ("snapshots", "tree")),
    Scene("snapshots-ls", ("snapshots", "ls")),
    Scene("snapshots-usage", ("snapshots", "usage")),
    Scene("snapshots-mounts", ("snapshots", "mounts", "web-1")),
    Scene("plugins", ("plugins",)),
    Scene("version", ("version",)),
    Scene("namespaces", ("namespaces", "ls")),
    Scene("namespaces-rm", ("namespaces", "rm", NAMESPACE)),
    Scene("ensure-all", ("ensure", "--all", "--dry-run")),
    Scene("leases", ("leases", "ls"), prepare=_lease),
    Scene("leases-inspect", ("leases", "inspect", "build-cache")),
    Scene("why-lease", ("why", BLOB)),
    Scene("ingests", ("ingests", "ls"), prepare=_ingest),
    Scene("ingests-abort", ("ingests", "abort", "--all"), prepare=_ingest),
    Scene("tag", ("tag", APP, OTHER)),
    Scene("tag-refused", ("tag", NEXT, OTHER)),
    Scene("pin", ("pin", APP)),
    Scene("unpin", ("unpin", APP)),
    Scene("label", ("label", APP, "team=one")),
    Scene("unpack", ("unpack", APP)),
    Scene("removed", ("rm", OTHER), prepare=lambda shell: shell("tag", APP, OTHER)),
    Scene("leftovers", ("prune", "--leftovers", "--expired", "--force"), prepare=_ingest),
)


def _rgb(text: str) -> tuple[int, int, int]:
    return int(text[:2], 16), int(text[2:4], 16), int(text[4:], 16)


def _theme(background: str, foreground: str, *colours: str) -> TerminalTheme:
    return TerminalTheme(_rgb(background), _rgb(foreground), [*map(_rgb, colours)])


# Black, red, green, yellow, blue, magenta, cyan and white, each of them readable on the background.
THEMES: Final[Mapping[str, TerminalTheme]] = {
    "dark": _theme(
        "0d1117", "e6edf3", "484f58", "ff7b72", "56d364", "e3b341", "79c0ff", "d2a8ff", "76e3ea", "b1bac4"
    ),
    "light": _theme(
        "ffffff", "1f2328", "24292f", "cf222e", "116329", "7d4e00", "0969da", "8250df", "1b7c83", "6e7781"
    ),
}

# The size of a character cell; most monospaced fonts are 0.6 as wide as high.
_SIZE, _WIDE, _HIGH, _MARGIN = 14, 8.4, 19, 14

# pyctrd is told that it is three days later, so that all ages are the same.
_LATER: Final = """
import datetime
class Later(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(days=3, hours=1)
datetime.datetime = Later
"""

_CHANGING: Final = (
    (re.compile(r" -a /tmp/pc-\S+"), ""),
    (re.compile(r"/tmp/[^\s'\"]+"), "/run/containerd"),
    (re.compile(r"\b20\d\d-\d\d-\d\d([T ])\d\d:\d\d:\d\d"), r"2026-11-27\g<1>09:30:00"),
)


def stable(text: str) -> str:
    """Replace what depends on the time and the machine."""
    for pattern, by in _CHANGING:
        text = pattern.sub(by, text)
    return text


def _image(layers: list[images.Layer], *steps: str, platforms: tuple[str, ...] = ("linux/amd64",)) -> Graph:
    history = [{"created": "2026-11-20T08:00:00Z", "created_by": step} for step in steps]
    return images.index(
        [
            images.manifest(
                images.config(layers, on, created="2026-11-20T08:00:00Z", history=history),
                layers,
                on=on,
            )
            for on in platforms
        ]
    )


@contextmanager
def node() -> Iterator[Shell]:
    """A containerd with images that have common layers, lack something, are old, pinned and in use."""
    with tempfile.TemporaryDirectory(prefix="pyctrd-pictures-") as folder:
        root = Path(folder)
        with Containerd(NEWEST, root / "containerd") as containerd:
            shell = Shell(containerd, NAMESPACE, root)
            fill(shell)
            yield shell


def fill(shell: Shell) -> None:
    """Load images, remove content of two of them, pin one, and run a container of one."""
    base, tools = _layer("base", 7 << 20, 1), _layer("tools", 3 << 20, 2)
    app, newer = _layer("app", 900 << 10, 3), _layer("app", 950 << 10, 4)
    long = _layer("collector", 5 << 20, 5)
    build = ("COPY rootfs / # buildkit", "RUN apt-get install --yes ca-certificates tzdata # buildkit")
    graphs = {
        BASE: _image([base], *build[:1]),
        APP: _image([base, tools, app], *build, "COPY app-1.0 /usr/local/bin/app # buildkit"),
        NEXT: _image([base, tools, newer], *build, "COPY app-1.1 /usr/local/bin/app # buildkit"),
        LONG: _image([base, long], *build[:1], "COPY collector /collector # buildkit"),
        PAUSE: shapes.five_platform(2),
    }
    for number, (name, graph) in enumerate(graphs.items()):
        archive = shell.folder / f"{number}.tar"
        archive.write_bytes(archive_of(graph, name))
        shell("load", "-i", archive.name, *(["--all-platforms"] if name == PAUSE else []))
    lost = [graphs[PAUSE].child(0).document()["layers"][1]["digest"], long.digest]
    shell.containerd.ctr("content", "rm", *lost, namespace=NAMESPACE)
    shell("pin", NEXT)
    containers = ["containers", "create", "--snapshotter", "overlayfs", BASE, "web-1"]
    shell.containerd.ctr(*containers, namespace=NAMESPACE)


def picture(scene: Scene, output: str, width: int, theme: str) -> str:
    """Return the SVG of what a terminal of that width shows."""
    command = f"$ pyctrd {' '.join(scene.command)}"
    text = Text.from_ansi(output.replace("\r\n", "\n").rstrip("\n"))
    text = Text.assemble((command, "bold"), "\n", text)
    lines = [part for line in text.split() for part in cut(line, width)]
    colours = THEMES[theme]
    classes: dict[str, str] = {}
    rows = []
    for number, line in enumerate(lines):
        y = _MARGIN + _SIZE + number * _HIGH
        rows += [
            f'<text x="{_MARGIN + column * _WIDE:g}" y="{y}"{_class(style, colours, classes)}>'
            f"{escape(word)}</text>"
            for column, word, style in words(line)
        ]
    wide, high = width * _WIDE + 2 * _MARGIN, len(lines) * _HIGH + 2 * _MARGIN
    rules = "".join(f".{name}{{{rule}}}" for rule, name in classes.items())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:g} {high}" width="{wide:g}"'
        f' role="img" aria-label="{escape(command, {chr(34): "&quot;"})}">\n'
        f"<style>text{{font:{_SIZE}px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
        f"fill:{_hex(colours.foreground_color)};white-space:pre}}{rules}</style>\n"
        f'<rect x=".5" y=".5" width="{wide - 1:g}" height="{high - 1}" rx="6" '
        f'fill="{_hex(colours.background_color)}" stroke="#8b949e" stroke-opacity=".4"/>\n'
        + "\n".join(rows)
        + "\n</svg>\n"
    )


def cut(line: Text, width: int) -> Sequence[Text]:
    """Return the lines that a terminal makes of a longer one."""
    return line.divide(range(width, max(len(line.plain), 1), width))


def words(line: Text) -> Iterator[tuple[int, str, Style]]:
    """Yield the words with their columns, so that they stand right with any monospaced font."""
    column = 0
    for segment in line.render(Console(color_system="standard", force_terminal=True)):
        for match in re.finditer(r"\S+", segment.text):
            yield column + cell_len(segment.text[: match.start()]), match[0], segment.style or Style.null()
        column += cell_len(segment.text)


def _class(style: Style, colours: TerminalTheme, classes: dict[str, str]) -> str:
    """Return the attribute for a style, and note the rule of its class."""
    rule = (
        f"fill:{_hex(style.color.get_truecolor(colours))};"
        if style.color and not style.color.is_default
        else ""
    )
    rule += ("font-weight:bold;" if style.bold else "") + ("opacity:.6;" if style.dim else "")
    if not rule:
        return ""
    return f' class="{classes.setdefault(rule, f"s{len(classes)}")}"'


def _hex(colour: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def main() -> int:
    """Write the pictures; return 0."""
    parser = argparse.ArgumentParser(prog="scripts/pictures", description=__doc__)
    parser.add_argument("--all", type=Path, metavar="DIR", help="write every picture, to look at them")
    parser.add_argument("names", nargs="*", help="only these")
    given = parser.parse_args()
    with node() as shell:
        (shell.folder / "sitecustomize.py").write_text(_LATER)
        shell.env["PYTHONPATH"] = f"{shell.folder}:{shell.env['PYTHONPATH']}"
        shell.env["TERM"] = "xterm-256color"
        shell.env.pop("NO_COLOR", None)
        for scene in SCENES:
            if given.names and scene.name not in given.names:
                continue
            for width in WIDTHS:
                if not given.all and (not scene.shown or scene.shown[0] != width):
                    continue
                shell.env["COLUMNS"] = str(width)
                if scene.prepare:
                    scene.prepare(shell)
                _, output = on_a_terminal(shell, *scene.command)
                for theme in THEMES:
                    svg = picture(scene, stable(output), width, theme)
                    if given.all:
                        given.all.mkdir(parents=True, exist_ok=True)
                        (given.all / f"{scene.name}-{width}-{theme}.svg").write_text(svg)
                    elif scene.shown == (width, theme):
                        SHOWN.mkdir(exist_ok=True)
                        (SHOWN / f"{scene.name}.svg").write_text(svg)
    return 0


if __name__ == "__main__":
    sys.exit(main())
