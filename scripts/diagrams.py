"""Diagrams for docs/explanation/: boxes and arrows as SVG, on a light card that any page color suits."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

FOLDER: Final = Path(__file__).parent.parent / "docs" / "pictures"
INK, PAPER, LINE, GREY = "#1f2328", "#ffffff", "#57606a", "#8c959f"
FILLS: Final[Mapping[str, str]] = {
    "record": "#ddf4ff",
    "blob": "#dafbe1",
    "snapshot": "#fbefff",
    "lease": "#fff8c5",
    "absent": PAPER,
}
LEGEND: Final[Mapping[str, str]] = {
    "record": "image record",
    "blob": "blob in the content store",
    "snapshot": "snapshot",
    "lease": "lease",
    "absent": "not here",
}
# What users import or run.
ENTRIES: Final = ("", "__main__", "cli", "pytest_plugin")
HEIGHT = 30
CARD = 760


@dataclass
class Box:
    """A box with its middle at x, y."""

    text: str
    x: int
    y: int
    kind: str = "blob"
    width: int = 120

    def svg(self) -> str:
        """Draw the box; what is absent has a dashed outline and grey text."""
        absent = self.kind == "absent"
        dashes = ' stroke-dasharray="5 4"' if absent else ""
        left, top = self.x - self.width // 2, self.y - HEIGHT // 2
        return (
            f'<rect x="{left}" y="{top}" width="{self.width}" height="{HEIGHT}" rx="5" '
            f'fill="{FILLS[self.kind]}" stroke="{GREY if absent else LINE}"{dashes}/>'
            f'<text x="{self.x}" y="{self.y + 4}" text-anchor="middle" fill="{GREY if absent else INK}">'
            f"{escape(self.text)}</text>"
        )


@dataclass
class Diagram:
    """Boxes by name, and arrows between them with a label each."""

    title: str
    height: int
    legend: bool = True
    boxes: dict[str, Box] = field(default_factory=dict)
    arrows: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[tuple[int, int, str]] = field(default_factory=list)

    def box(self, name: str, text: str, x: int, y: int, kind: str = "blob", width: int = 120) -> None:
        """Add a box."""
        self.boxes[name] = Box(text, x, y, kind, width)

    def arrow(self, start: str, end: str, label: str = "") -> None:
        """Add an arrow from the bottom of a box to the top of another."""
        self.arrows.append((start, end, label))

    def svg(self) -> str:
        """Draw everything."""
        parts = [
            *self._arrows(),
            *(box.svg() for box in self.boxes.values()),
            *self._notes(),
            *self._legend(),
        ]
        drawing = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {CARD} {self.height}" '
            f'width="{CARD}" height="{self.height}" role="img" font-size="12" '
            'font-family="system-ui, -apple-system, Segoe UI, Roboto, DejaVu Sans, sans-serif">'
        )
        tip = (
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker></defs>'
        )
        card = (
            f'<rect x="0.5" y="0.5" width="{CARD - 1}" height="{self.height - 1}" rx="8" fill="{PAPER}" '
            f'stroke="{GREY}"/>'
        )
        title = f"<title>{escape(self.title)}</title>"
        return "\n".join((drawing, title, tip, card, *parts, "</svg>\n"))

    def _arrows(self) -> Iterator[str]:
        for start, end, label in self.arrows:
            one, other = self.boxes[start], self.boxes[end]
            level = abs(one.y - other.y) < HEIGHT
            side = 1 if other.x > one.x else -1
            x1, y1 = (one.x + side * one.width // 2, one.y) if level else (one.x, one.y + HEIGHT // 2)
            x2, y2 = (
                (other.x - side * other.width // 2, other.y) if level else (other.x, other.y - HEIGHT // 2)
            )
            yield (f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{LINE}" marker-end="url(#tip)"/>')
            if label:
                x, y = (x1 + x2) // 2, (y1 + y2) // 2 + (-5 if level else 3)
                width = 6 * len(label) + 8
                yield (
                    f'<rect x="{x - width // 2}" y="{y - 11}" width="{width}" height="15" fill="{PAPER}"/>'
                    f'<text x="{x}" y="{y}" text-anchor="middle" font-size="11" fill="{LINE}">'
                    f"{escape(label)}</text>"
                )

    def _notes(self) -> Iterator[str]:
        for x, y, text in self.notes:
            yield f'<text x="{x}" y="{y}" fill="{INK}" font-weight="600">{escape(text)}</text>'

    def _legend(self) -> Iterator[str]:
        kinds = {box.kind for box in self.boxes.values()} if self.legend else set()
        x, y = 20, self.height - 24
        for kind in (kind for kind in LEGEND if kind in kinds):
            dashes = ' stroke-dasharray="3 2"' if kind == "absent" else ""
            yield (
                f'<rect x="{x}" y="{y}" width="14" height="12" rx="2" fill="{FILLS[kind]}" '
                f'stroke="{LINE}"{dashes}/>'
                f'<text x="{x + 20}" y="{y + 10}" font-size="11" fill="{LINE}">{LEGEND[kind]}</text>'
            )
            x += 44 + 6 * len(LEGEND[kind])


def _image(drawn: Diagram, left: int, absent: Sequence[str]) -> None:
    """Add an image of two platforms, without the blobs named in `absent`."""

    def kind(name: str) -> str:
        return "absent" if name in absent else "blob"

    key = f"{left}"
    drawn.box(f"{key} record", "team/app:1.4", left + 170, 70, "record", 130)
    drawn.box(f"{key} index", "index", left + 170, 130)
    drawn.arrow(f"{key} record", f"{key} index")
    for platform, middle in (("amd64", left + 80), ("arm64", left + 260)):
        drawn.box(f"{key} {platform}", f"manifest {platform}", middle, 190, kind(platform), 130)
        drawn.arrow(f"{key} index", f"{key} {platform}")
        for name, at in (("config", middle - 44), ("layers", middle + 44)):
            drawn.box(f"{key} {platform} {name}", name, at, 250, kind(f"{platform} {name}"), 74)
            drawn.arrow(f"{key} {platform}", f"{key} {platform} {name}")


def after_a_pull() -> Diagram:
    """What ctr and others store of an image of two platforms."""
    drawn = Diagram("What a pull stores of an image of two platforms, on an amd64 machine", 310)
    drawn.notes = [(30, 34, "ctr images pull of 2.x, pyctrd pull"), (410, 34, "nerdctl pull, the kubelet")]
    _image(drawn, 20, ["arm64 layers"])
    _image(drawn, 400, ["arm64", "arm64 config", "arm64 layers"])
    return drawn


def references() -> Diagram:
    """What leads from an image to its blobs and snapshots, for the garbage collector."""
    drawn = Diagram("The references that the garbage collector follows", 400)
    drawn.box("record", "image record team/app:1.4", 380, 40, "record", 190)
    drawn.box("index", "index", 380, 105)
    drawn.box("amd64", "manifest amd64", 220, 180, width=140)
    drawn.box("arm64", "manifest arm64", 560, 180, width=140)
    drawn.box("config", "config", 90, 260)
    drawn.box("base", "layer 0", 240, 260)
    drawn.box("top", "layer 1", 380, 260)
    drawn.box("other", "layers", 640, 260, "absent")
    drawn.box("other config", "config", 510, 260)
    drawn.box("snapshot", "snapshot of layers 0 and 1", 120, 335, "snapshot", 180)
    drawn.box("below", "snapshot of layer 0", 380, 335, "snapshot", 160)
    drawn.arrow("record", "index", "target")
    drawn.arrow("index", "amd64", "gc.ref.content.m.0")
    drawn.arrow("index", "arm64", "gc.ref.content.m.1")
    drawn.arrow("amd64", "config", "….config")
    drawn.arrow("amd64", "base", "….l.0")
    drawn.arrow("amd64", "top", "….l.1")
    drawn.arrow("arm64", "other config", "….config")
    drawn.arrow("arm64", "other", "….l.0, ….l.1")
    drawn.arrow("config", "snapshot", "gc.ref.snapshot.overlayfs")
    drawn.arrow("snapshot", "below", "parent")
    return drawn


def lease() -> Diagram:
    """What keeps an image during its pull, and after it."""
    drawn = Diagram("During a pull a lease keeps the blobs; afterwards the image record does", 330)
    drawn.notes = [(30, 34, "while a pull runs"), (410, 34, "when it has ended")]
    for left, ended in ((20, False), (400, True)):
        key = f"{left}"
        drawn.box(f"{key} lease", "lease", left + 45, 165, "absent" if ended else "lease", 90)
        drawn.box(f"{key} record", "image record", left + 170, 75, "record" if ended else "absent")
        drawn.box(f"{key} index", "index", left + 170, 138, width=90)
        drawn.box(f"{key} manifest", "manifest", left + 170, 192, width=90)
        drawn.box(f"{key} layer", "layer", left + 60, 255, "blob" if ended else "absent", 90)
        drawn.box(f"{key} config", "config", left + 170, 255, "blob" if ended else "absent", 90)
        drawn.box(f"{key} snapshot", "snapshot", left + 290, 255, "snapshot" if ended else "absent", 90)
        if ended:
            drawn.arrow(f"{key} record", f"{key} index")
            drawn.arrow(f"{key} config", f"{key} snapshot")
            drawn.arrow(f"{key} manifest", f"{key} config")
            drawn.arrow(f"{key} manifest", f"{key} layer")
        else:
            drawn.arrow(f"{key} lease", f"{key} index")
            drawn.arrow(f"{key} lease", f"{key} manifest")
        drawn.arrow(f"{key} index", f"{key} manifest")
    return drawn


def layers() -> Diagram:
    """The packages of pyctrd, each above what it may import."""
    may_import = _layering()
    level: dict[str, int] = {}
    for name in TopologicalSorter(may_import).static_order():
        level[name] = max((level[below] + 1 for below in may_import[name]), default=0)
    rows = [
        sorted(name for name in level if level[name] == number) for number in range(max(level.values()) + 1)
    ]
    step = HEIGHT + 18
    drawn = Diagram(
        "The packages of pyctrd: each may import only from the rows below it",
        step * len(rows) + 14,
        legend=False,
    )
    for number, row in enumerate(reversed(rows)):
        width = min(130, (CARD - 40) // len(row) - 10)
        left = (CARD - len(row) * (width + 10)) // 2
        for column, name in enumerate(row):
            x, y = left + column * (width + 10) + width // 2 + 5, 30 + number * step
            drawn.box(name, name or "pyctrd", x, y, "record" if name in ENTRIES else "blob", width)
    return drawn


def _layering() -> dict[str, list[str]]:
    """Read the dict that tests/test_layering.py checks."""
    tree = ast.parse((FOLDER.parent.parent / "tests" / "test_layering.py").read_text(encoding="utf-8"))
    (found,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id == "MAY_IMPORT"
    )
    return {name: below.split() for name, below in ast.literal_eval(found).items()}


DIAGRAMS: Final = {"after-a-pull": after_a_pull, "references": references, "lease": lease, "layers": layers}


def main() -> None:
    """Write the diagrams, into docs/pictures/ or the folder that is given."""
    folder = Path(sys.argv[1]) if sys.argv[1:] else FOLDER
    for name, draw in DIAGRAMS.items():
        (folder / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
