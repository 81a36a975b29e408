"""The fenced blocks of a page of docs/: run its commands, and compare what they print with the page."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from integration.rig import peers
from integration.rig.containerd import Containerd
from integration.shell import REPOSITORY_ROOT
from tests.support.pages import FOLLOW, Block, blocks, run_by

_CODE = re.compile(r"# exits with (\d+)")
# Progress, which a terminal shows as bars, and warnings of ctr and nerdctl about this machine.
_NOISE = re.compile(r"\w+ sha256:[0-9a-f]{12}: |time=\"")
# What differs between two runs, and what is shortened in a page.
_CHANGING: Final = (
    (re.compile(r"sha256:[0-9a-f]{4,}…?"), "DIGEST"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "TIME"),
    (re.compile(r"\b\d+ (?:s|min|h|days?)\b"), "AGE"),
    (re.compile(r"\b\d+-[\w-]{4}(?= )"), "LEASE"),
    (re.compile(r"\bextract-\S+"), "EXTRACT"),
    (re.compile(r"^(pyctrd|containerd): v?\d+\.\d+\S*$"), r"\1: VERSION"),
    (re.compile(r"\s+"), " "),
)


class Step(NamedTuple):
    """A command of a console block, with what the page shows of its output, and its exit code."""

    command: str
    output: tuple[str, ...]
    code: int


def steps(text: str) -> Iterator[Step]:
    """Read the commands of a console block; a line that ends with a backslash continues in the next one."""
    command = ""
    output: list[str] = []
    for line in text.replace("\\\n", "").splitlines():
        if line.startswith("$ "):
            if command:
                yield _step(command, output)
            command, output = line[2:], []
        else:
            output.append(line)
    if command:
        yield _step(command, output)


def _step(command: str, output: list[str]) -> Step:
    code = _CODE.search(command)
    return Step(command, tuple(filter(str.strip, output)), int(code[1]) if code else 0)


def comparable(line: str) -> str:
    """Replace what differs between two runs."""
    for pattern, replacement in _CHANGING:
        line = pattern.sub(replacement, line)
    return line.strip()


def shows(page: tuple[str, ...], real: str) -> bool:
    """Whether lines of a page are the real output; `…` is any text, on a line of its own any lines."""
    pattern = ""
    for line in map(comparable, page):
        part = r"(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + r"\n"
        pattern += part
    lines = "".join(f"{line}\n" for line in map(comparable, real.splitlines()) if line)
    return re.fullmatch(pattern, lines) is not None


class Machine:
    """A machine with a containerd and the programs of the pages, whose names `real` maps to real ones."""

    def __init__(self, containerd: Containerd, folder: Path, real: Mapping[str, str]) -> None:
        self.containerd = containerd
        self.folder = folder
        self.real = dict(real)
        self.programs = folder / "bin"
        self.programs.mkdir()
        self.env = {
            **peers.tool_environment(self.programs, containerd.peer.bin_dir),
            "CONTAINERD_ADDRESS": str(containerd.address),
            "CONTAINERD_NAMESPACE": "default",
            "DOCKER_CONFIG": str(folder / "no-docker-config"),
            "PYTHONPATH": str(REPOSITORY_ROOT),
        }
        self.program("pyctrd", f'exec {shlex.quote(sys.executable)} -m pyctrd "$@"')
        self.program("python3", f'exec {shlex.quote(sys.executable)} "$@"')

    def program(self, name: str, script: str) -> None:
        """Add a program to those that the commands find."""
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def write(self, name: str, text: str) -> Path:
        """Write a file that a page shows, with real names."""
        path = self.folder / name
        path.write_text(self.to_real(text))
        return path

    def to_real(self, text: str) -> str:
        for example, name in self.real.items():
            text = text.replace(example, name)
        return text

    def to_page(self, text: str) -> str:
        text = text.replace(f"pyctrd -a {self.containerd.address} ", "pyctrd ")  # it is not the default one
        for example, name in self.real.items():
            text = text.replace(name, example)
        return text

    def run(self, command: str, code: int = 0) -> str:
        """Run a command of a page, and return what a terminal shows, in the page's names."""
        done = subprocess.run(
            ["sh", "-c", self.to_real(command)],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=120,
        )
        output = done.stdout.decode(errors="replace")
        assert done.returncode == code, f"{command}: exit {done.returncode}\n{output}"
        assert "Traceback" not in output, output
        return self.to_page("".join(f"{line}\n" for line in output.splitlines() if not _NOISE.match(line)))

    def follow(self, page: str) -> None:
        """Run the console blocks and the Python programs of a page, in order, and compare what they print."""
        found = list(blocks(page))
        for block, after in zip(found, [*found[1:], None], strict=True):
            if block.reason or run_by(block) != FOLLOW:
                continue
            if block.language == "python":
                output = self.run(f"python3 {self.write('program.py', block.text).name}")
                if after and after.language == "text":  # a page may leave the output out
                    shown = tuple(after.text.splitlines())
                    assert shows(shown, output), f"docs/{page}:{block.line}\n{output}"
            elif block.language == "console":
                self.check(block)

    def check(self, block: Block) -> None:
        """Run the commands of a console block, and compare what they print with the page."""
        for step in steps(block.text):
            if step.command.startswith("export "):
                words = shlex.split(self.to_real(step.command))[1:]
                self.env |= dict(word.split("=", 1) for word in words)
                continue
            output = self.run(step.command, step.code)
            # A page may leave the output of a command out.
            where = f"docs/{block.page}:{block.line}: $ {step.command}"
            assert not step.output or shows(step.output, output), f"{where}\n{output}"
