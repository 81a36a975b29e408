"""Completion in bash, and the filter for completions in every shell.

bash inserts a completion as it is: it does not quote it, and replaces only the text after the last colon. So
the script passes the line as it was typed, and gets the text to insert.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from click.shell_completion import BashComplete, CompletionItem, add_completion_class

from pyctrd.cli.text import is_visible

_SAFE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:@%+=,-")
_BLANKS: Final = " \t\n"
_SCRIPT: Final = """\
%(complete_func)s() {
    local kind value
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done < <(env COMP_WORDBREAKS="$COMP_WORDBREAKS" COMP_COMMAND="$1" COMP_LINE="${COMP_LINE:0:COMP_POINT}" \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Typed(NamedTuple):
    """The word before the cursor: `before` is the part that bash keeps, `quote` an open quote or ""."""

    word: str
    before: str
    quote: str


class Bash(BashComplete):
    """click's completion for bash, using the typed line, since bash splits words at colons."""

    source_template = _SCRIPT
    _typed = Typed("", "", "")
    _head = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Split the line as a shell does; the last word may be unfinished."""
        words, self._typed = split(os.environ["COMP_LINE"], os.environ.get("COMP_WORDBREAKS", ""))
        command = os.environ.get("COMP_COMMAND", "")
        start = words.index(command) + 1 if command in words else 1
        word = self._typed.word
        name, equals, _ = word.partition("=")
        # click completes the value of `--option=value` without its option, which may be replaced as well.
        self._head = f"{name}=" if equals and word.startswith("-") else ""
        return words[start:], word

    def format_completion(self, item: CompletionItem) -> str:
        """Return the quoted text to insert, or nothing if it cannot be expressed."""
        if item.type != "plain":
            return f"{item.type},"
        text = f"{self._head}{item.value}"
        rest = text[len(self._typed.before) :]
        if not text.startswith(self._typed.before) or (self._typed.quote and not set(rest) <= _SAFE):
            return "none,"
        return f"plain,{''.join(char if char in _SAFE else _quoted(char) for char in rest)}"


def _quoted(char: str) -> str:
    """Quote one character with a backslash if needed; letters of other scripts are not quoted."""
    return char if shlex.quote(char) == char or char.isalnum() else f"\\{char}"


def split(line: str, breaks: str) -> tuple[list[str], Typed]:
    """Split a line into its whole words and the unfinished last one."""
    words: list[str] = []
    word, quote, begun = "", "", False
    # The part of the word up to the last character at which bash splits words, or to an open quote.
    before = ""
    for char, quoting, literal in _scan(line):
        if not literal and not quoting and char in _BLANKS:
            words += [word] if begun else []
            word, before, begun = "", "", False
            continue
        begun = True
        quote = quoting
        if literal or char not in "'\"":
            word += char
        if not literal and (char in breaks or char in "'\""):
            before = word.removesuffix("@")  # bash replaces it, too, since the name of a host might follow
    return words, Typed(word, before, quote)


def _scan(line: str) -> Iterator[tuple[str, str, bool]]:
    """Yield each character with the quote that is open after it, and whether it is literal."""
    quote, escaped = "", False
    for char in line:
        if escaped:
            escaped = False
            yield char, quote, True
        elif char == "\\" and quote != "'":
            escaped = True
        elif quote:
            if char == quote:
                quote = ""
                yield char, quote, False
            else:
                yield char, quote, True
        else:
            if char in "'\"":
                quote = char
            yield char, quote, False


def offered(names: Iterable[str], incomplete: str) -> list[str]:
    """Return the matching names, without those that contain invisible characters."""
    return [name for name in names if name.startswith(incomplete) and all(map(is_visible, name))]


def install() -> None:
    """Replace click's completion for bash by ours."""
    add_completion_class(Bash, "bash")
