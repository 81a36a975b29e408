"""Hostile names and labels: whatever a store holds, terminals and logs get no raw control characters."""

from __future__ import annotations

import pytest

from integration.bench import Bench
from integration.rig.publish import push
from integration.shell import Shell, on_a_terminal
from pyctrd.oci.model import ImageRecord
from tests.support import shapes

pytestmark = pytest.mark.two_generations

ESCAPES = "evil\x1b]0;owned\x07\x1b[31m\u202e\x9b2J\r\nfake: line"
NAME = f"registry.example/app:{ESCAPES}"
COMMANDS = [
    ["images"],
    ["images", "--format", "json"],
    ["content"],
    ["verify"],
    ["diagnose", NAME],
    ["save", "--dry-run", NAME],
    ["ensure", NAME],
]


@pytest.fixture
def shell(bench: Bench) -> Shell:
    graph = shapes.five_platform(salt=bench.namespace)
    name = push(graph, bench.registry, bench.repository)
    bench.ctr("images", "pull", "--plain-http", name)
    with bench.daemon() as daemon:
        target = daemon.images.get(name).target
        record = ImageRecord(name=NAME, target=target, labels={"key": ESCAPES})
        daemon.images.create(record)
        daemon.content.set_labels(target.digest, {"evil/label": ESCAPES})
    return Shell(bench.containerd, bench.namespace, bench.folder)


def raw(text: str) -> set[str]:
    """Return the control characters in a text that pyctrd never prints."""
    return {
        letter
        for letter in text
        if (ord(letter) < 32 and letter != "\n") or 127 <= ord(letter) < 160 or letter == "\u202e"
    }


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command)[:20].replace("\x1b", ""))
def test_pipes_get_no_control_characters(shell: Shell, command: list[str]) -> None:
    done = shell.start(*command, stdout=-1, stderr=-1)
    stdout, stderr = done.communicate(timeout=60)
    assert raw((stdout + stderr).decode()) == set()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command)[:20].replace("\x1b", ""))
def test_terminals_get_only_the_control_characters_of_rich(shell: Shell, command: list[str]) -> None:
    _code, text = on_a_terminal(shell, *command)
    # rich itself sends colors, cursor movements and carriage returns; none of them sets a title.
    assert "\x1b]" not in text
    assert not raw(text) - {"\x1b", "\r"}
    assert "\x1b[31m\\" not in text
    assert "owned\x07" not in text
