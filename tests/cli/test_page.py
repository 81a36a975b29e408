"""Pages: tables are complete in pipes and fit terminals, and names are escaped."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pyctrd.cli.page import Cell, Column, Item, MarkdownPage, Page, PlainPage
from pyctrd.cli.render import digest_cell
from pyctrd.cli.terminal import TerminalPage

HOSTILE = ["\x1b[31m\x07", "a\r\nb", "\x9b\x85", "\u202e"]
DIGEST = "sha256:" + "0123456789abcdef" * 4
COLUMNS = [Column("NAME"), Column("SIZE", right=True), Column("DIGEST"), Column("MORE", brief=True)]
ROWS = [
    (Cell("a" * 90, "good"), Cell("7 B"), digest_cell(DIGEST), Cell("x")),
    (Cell("b"), Cell("1023.9 MiB"), digest_cell(DIGEST), Cell("y")),
]


def terminal(width: int = 80, **how: object) -> tuple[TerminalPage, io.StringIO]:
    """Return a terminal page that is written to memory."""
    stream = io.StringIO()
    options = {"force_terminal": True, "color_system": "standard", "width": width, **how}
    return TerminalPage(Console(file=stream, highlight=False, **options)), stream  # type: ignore[arg-type]


def everything(page: Page, hostile: str) -> None:
    """Print a text with every method."""
    page.heading(hostile)
    page.line(hostile, "bad")
    page.table([Column("A"), Column("B")], [(Cell(hostile), Cell(hostile, brief=hostile))])
    page.items([Item(hostile, hostile, "good", [hostile])])
    page.step(1, hostile, notes=[hostile], command=hostile)


PLACES = 10  # in which `everything` prints


def test_pipes_get_complete_aligned_columns(capsys: pytest.CaptureFixture[str]) -> None:
    PlainPage().table(COLUMNS, ROWS)
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["NAME", "SIZE", "DIGEST", "MORE"]
    assert [line.split() for line in lines] == [
        ["a" * 90, "7", "B", DIGEST, "x"],
        ["b", "1023.9", "MiB", DIGEST, "y"],
    ]
    assert {line.index(DIGEST) for line in lines} == {header.index("DIGEST")}
    assert not any(line.endswith(" ") for line in (header, *lines))


def test_terminals_get_short_digests_and_folded_cells() -> None:
    page, stream = terminal()
    page.table(COLUMNS, ROWS)
    text = stream.getvalue()
    assert "sha256:0123456789ab" in text
    assert DIGEST not in text
    assert "MORE" not in text
    assert text.count("a") == 90 + 2 * 2  # folded, not cut; each digest has one a, and "sha256" another


def test_wide_terminals_get_all_columns() -> None:
    page, stream = terminal(160)
    page.table(COLUMNS, ROWS)
    assert "MORE" in stream.getvalue()


def test_commands_are_never_wrapped() -> None:
    command = f"pyctrd ensure --platform {'linux/arm64,' * 20} x"
    page, stream = terminal(40, color_system=None)
    page.step(1, "because", command=command)
    assert f"   $ {command}\n" in stream.getvalue()


def test_a_digest_fits_next_to_its_term_at_80_columns() -> None:
    page, stream = terminal(color_system=None)
    page.items([Item("unpacked", "linux/amd64"), Item("digest", DIGEST)])
    assert f"digest   {DIGEST}\n" in stream.getvalue()


@pytest.mark.parametrize(
    "hostile", ["\x1b[31m\x07", "[bold]x[/bold]", ":smile:", "a\r\nb", "\x9b\x85", "\u202e"]
)
def test_names_cannot_control_the_terminal(hostile: str) -> None:
    page, stream = terminal(color_system=None)
    everything(page, hostile)
    text = stream.getvalue()
    assert not set(text) & set("\x1b\x07\r\x9b\x85\u202e")
    if hostile.isprintable():
        assert text.count(hostile) == PLACES


@pytest.mark.parametrize("hostile", HOSTILE)
def test_control_characters_are_escaped_in_pipes(capsys: pytest.CaptureFixture[str], hostile: str) -> None:
    for page in (PlainPage(), MarkdownPage()):
        everything(page, hostile)
    text = capsys.readouterr().out
    assert not set(text) & set("\x1b\x07\r\x9b\x85\u202e")


def test_markdown_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    page = MarkdownPage()
    page.table([Column("A")], [(Cell("x|y <b> *z*"),)])
    page.line("`code` [link](url) _a_")
    assert capsys.readouterr().out.splitlines() == [
        "| A |",
        "|---|",
        "| x\\|y &lt;b&gt; \\*z\\* |",
        "\\`code\\` \\[link\\](url) \\_a\\_",
        "",
    ]


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured, stream = terminal()
    coloured.line("x", "good")
    assert "\x1b[32m" in stream.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain, stream = terminal()
    plain.line("x", "good")
    assert "\x1b[32m" not in stream.getvalue()


NAMES = [f"registry.example/{'x' * length}:1.{length}" for length in (3, 20, 70)]
WHOLE = [
    Column("NAME", whole=True),
    Column("DIGEST", brief=True),
    Column("SIZE", right=True),
    Column("PLATFORMS"),
]
OF_IMAGES = [
    (Cell(name, "strong"), digest_cell(DIGEST), Cell(f"{number}.0 MiB"), Cell("linux/amd64 (1 of 5)"))
    for number, name in enumerate(NAMES)
]


@pytest.mark.parametrize("width", [40, 80, 100, 160])
def test_names_are_never_wrapped(width: int) -> None:
    page, stream = terminal(width, color_system=None)
    page.table(WHOLE, OF_IMAGES)
    lines = stream.getvalue().splitlines()
    for name in NAMES:
        assert sum(name in line for line in lines) == 1
    assert sum("linux/amd64 (1 of 5)" in line for line in lines) == 3
    assert ("sha256:0123456789ab" in stream.getvalue()) == (width == 160)


@pytest.mark.parametrize("indent", [0, 2])
def test_a_word_of_a_line_is_never_broken(indent: int) -> None:
    page, stream = terminal(40, color_system=None)
    page.line("registry.example/" + 80 * "x", "strong", indent=indent)
    page.line("would remove registry.example/" + 80 * "x", indent=indent)
    page.line("several words that are wrapped, because they are a paragraph", indent=indent)
    name, named, *paragraph = stream.getvalue().splitlines()
    assert name == " " * indent + "registry.example/" + 80 * "x"
    assert named == " " * indent + "would remove registry.example/" + 80 * "x"
    assert len(paragraph) == 2


def test_short_names_fit_the_table_of_a_narrow_terminal() -> None:
    page, stream = terminal(80, color_system=None)
    page.table(WHOLE, OF_IMAGES[:1])
    header, row = stream.getvalue().splitlines()
    assert header.split() == ["NAME", "SIZE", "PLATFORMS"]
    assert NAMES[0] in row
    assert "0.0 MiB" in row


def test_a_table_without_rows_is_only_a_header() -> None:
    page, stream = terminal(30, color_system=None)
    page.table(WHOLE, [])
    assert stream.getvalue().split()[0] == "NAME"


def test_the_widest_cell_below_a_name_is_wrapped_so_that_the_last_one_is_whole() -> None:
    columns = [Column("NAME", whole=True), Column("PLATFORMS"), Column("SIZE", right=True), Column("STATUS")]
    platforms = "linux/amd64, linux/arm64, linux/ppc64le, ... (4 of 5)"
    rows = [
        (Cell(NAMES[2]), Cell(platforms), Cell("10.9 MiB"), Cell("complete, in use")),
        (Cell(NAMES[0]), Cell("linux/amd64"), Cell("7.0 MiB"), Cell("incomplete")),
    ]
    page, stream = terminal(80, color_system=None)
    page.table(columns, rows)
    lines = stream.getvalue().splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines if NAMES[2] not in line)
    assert sum("complete, in use" in line for line in lines) == 1
    assert [line.index("STATUS") for line in lines if "STATUS" in line] == [
        line.index("incomplete") for line in lines if "incomplete" in line
    ]
    assert all(word in stream.getvalue().split() for word in platforms.split())
