"""Completion in a real bash: the line after TAB, which runs nothing but pyctrd."""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyctrd.cli import shells

ROOT = Path(__file__).parent.parent.parent
NAMES = (
    "127.0.0.1:5000/team/app:1.0",
    "127.0.0.1:5000/team/app:1.1",
    "docker.io/library/alpine:3.20",
    "docker.io/library/alpine@sha256:0123",
    "evil/$(touch pwned)`id`;&|x",
    'it\'s a "name":with*',
    "hidden/\u200bname",
)
BREAKS = " \t\n\"'><=;|&(:"
PROGRAM = f"""\
#!{sys.executable}
import contextlib, sys, types
from pyctrd.cli import main, session
def named(*names):
    return types.SimpleNamespace(list=lambda: [types.SimpleNamespace(name=name) for name in names])
client = types.SimpleNamespace(
    images=named(*{NAMES!r}),
    namespaces=named("default", "k8s.io"),
    snapshots=types.SimpleNamespace(snapshotters=lambda: ("overlayfs",)),
)
session.open_client = lambda context: contextlib.nullcontext(client)
if len(sys.argv) > 1 and sys.argv[1] == "--args":
    print(*map(ascii, sys.argv[2:]))
else:
    main()
"""


class Bash:
    """An interactive bash; `\\C-g` prints the line that is being edited."""

    def __init__(self, folder: Path) -> None:
        (folder / "pyctrd").write_text(PROGRAM)
        (folder / "pyctrd").chmod(0o755)
        self._controller, terminal = pty.openpty()
        environ = {
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "TERM": "dumb",
            "LC_ALL": "C.UTF-8",
            "HISTFILE": "",
            "COLUMNS": "400",
        }
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env=environ,
            cwd=folder,
            start_new_session=True,
        )
        os.close(terminal)
        self._seen = ""
        self.type("bind 'set bell-style none' 'set enable-bracketed-paste off'; stty -echo cols 400\n")
        self.type("""bind -x '"\\C-g": printf "<<%s>>\\n" "$READLINE_LINE"'; PS1=\n""")
        self.type("""eval "$(pyctrd completion bash)"\n""")
        self.type("echo rea''dy\n")
        self._until("ready\r?\n")

    def type(self, text: str) -> None:
        os.write(self._controller, text.encode())

    def _until(self, pattern: str) -> re.Match[str]:
        while not (found := re.search(pattern, self._seen, re.DOTALL)):
            data = os.read(self._controller, 65536)
            assert data, self._seen
            self._seen += data.decode(errors="replace")
        self._seen = self._seen[found.end() :]
        return found

    def complete(self, line: str) -> str:
        """Type a line and TAB; return the completed line, and clear it."""
        self.type(f"{line}\t\x07")
        text = self._until("<<(.*?)>>\r?\n")[1]
        self.type("\x15")
        return text

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._controller)


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bash]:
    running = Bash(tmp_path_factory.mktemp("bash"))
    yield running
    running.close()


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("pyctrd im", "pyctrd images "),
        ("pyctrd save 127", r"pyctrd save 127.0.0.1:5000/team/app:1."),
        ("pyctrd save 127.0.0.1:5000/team/app:1.1", "pyctrd save 127.0.0.1:5000/team/app:1.1 "),
        ("pyctrd save 127.0.0.1:", "pyctrd save 127.0.0.1:5000/team/app:1."),
        ("pyctrd save x 127.0.0.1:5000/team/app:1.", "pyctrd save x 127.0.0.1:5000/team/app:1."),
        ("pyctrd pin 127.0.0.1:5000/team/app:1.1", "pyctrd pin 127.0.0.1:5000/team/app:1.1 "),
        ("pyctrd tag x 127.0.0.1:5000/team/app:1.1", "pyctrd tag x 127.0.0.1:5000/team/app:1.1 "),
        (
            "true; pyctrd diagnose docker.io/library/alpine:",
            "true; pyctrd diagnose docker.io/library/alpine:3.20 ",
        ),
        (
            "pyctrd diagnose docker.io/library/alpine@",
            "pyctrd diagnose docker.io/library/alpine@sha256:0123 ",
        ),
        ("pyctrd diagnose 'docker.io/library/alpine:", "pyctrd diagnose 'docker.io/library/alpine:3.20' "),
        ('pyctrd diagnose "docker.io/library/alpine:', 'pyctrd diagnose "docker.io/library/alpine:3.20" '),
        ("pyctrd diagnose evil", r"pyctrd diagnose evil/\$\(touch\ pwned\)\`id\`\;\&\|x "),
        (r"pyctrd diagnose evil/\$\(to", r"pyctrd diagnose evil/\$\(touch\ pwned\)\`id\`\;\&\|x "),
        ("pyctrd diagnose 'evil/", "pyctrd diagnose 'evil/"),
        ("pyctrd diagnose it", r"pyctrd diagnose it\'s\ a\ \"name\":with\* "),
        (r"pyctrd diagnose it\'s\ a\ \"name\":", r"pyctrd diagnose it\'s\ a\ \"name\":with\* "),
        ("pyctrd diagnose hidden", "pyctrd diagnose hidden"),
        ("pyctrd -n k8", "pyctrd -n k8s.io "),
        ("pyctrd images --namespace=k8", "pyctrd images --namespace=k8s.io "),
        ("pyctrd pull --platform linux/s", "pyctrd pull --platform linux/s390x "),
        ("pyctrd pull --platform=linux/amd64,linux/ppc", "pyctrd pull --platform=linux/amd64,linux/ppc64le "),
        ("pyctrd pull --snapshotter over", "pyctrd pull --snapshotter overlayfs "),
        ("pyctrd save --index pr", "pyctrd save --index prune "),
        ("pyctrd save -o pyc", "pyctrd save -o pyctrd "),
        ("pyctrd registry exp", "pyctrd registry explain "),
    ],
)
def test_tab_completes_the_word(bash: Bash, line: str, completed: str) -> None:
    assert bash.complete(line) == completed


def test_completion_works_with_other_word_breaks(bash: Bash) -> None:
    bash.type("saved=$COMP_WORDBREAKS; COMP_WORDBREAKS=${COMP_WORDBREAKS//[:=]}\n")
    assert (
        bash.complete("pyctrd save 127.0.0.1:5000/team/app:1.1") == "pyctrd save 127.0.0.1:5000/team/app:1.1 "
    )
    assert bash.complete("pyctrd images --namespace=k8") == "pyctrd images --namespace=k8s.io "
    bash.type("COMP_WORDBREAKS=$saved\n")


def test_a_completed_line_runs_nothing_but_pyctrd(bash: Bash, tmp_path: Path) -> None:
    line = bash.complete("pyctrd diagnose evil")
    done = subprocess.run(
        ["bash", "-c", line.replace("pyctrd diagnose", "printf %s")],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode() == NAMES[4]
    assert list(tmp_path.iterdir()) == []


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1), max_size=4
    )
)
@example(["a b", "c'd\"e\\f", "\t", "x:y=z"])
def test_words_are_split_as_by_a_shell(words: list[str]) -> None:
    line = shlex.join(words)
    whole, typed = shells.split(f"{line} ", BREAKS)
    assert (whole, typed) == (words, shells.Typed("", "", ""))
    if words:
        whole, typed = shells.split(line, BREAKS)
        assert [*whole, typed.word] == words
