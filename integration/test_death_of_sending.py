"""pyctrd is killed during push, copy and verify --repair, at random points."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from integration import figures
from integration.dying import HERE, PROGRESS, SIGNALS, Command, Scene, Victim, died_before_us
from integration.rig.collector import bad_blobs, empty
from integration.rig.daemons import Containerd, Registry
from integration.rig.store import snapshot_of
from integration.shell import Shell, layers_of
from integration.spoiling import altered, spoil
from integration.uploads import stored

SENDING = {
    "push": Command(("push", "--platform", HERE, *PROGRESS), sends=True, fetches=(HERE,)),
    "copy": Command(("copy", *PROGRESS), sends=True, fetches=(HERE,)),
}
MENDING = Command(("verify", "--repair", *PROGRESS), fetches=(HERE,))
Check = Callable[[int, int], None]


def hit(chance: random.Random, scene: Scene, command: Command, turn: int, check: Check) -> None:
    """Kill a command by one of the signals at a random point of its progress, then check."""
    number = SIGNALS[turn % len(SIGNALS)]
    line = chance.randrange(0, 30)
    seconds = chance.uniform(0, 0.5 if line == 0 else 0.02)
    victim = Victim(scene.shell, scene.words(command))
    victim.live_until(line, seconds)
    code, words = victim.end(number)
    story = f"turn {turn}: {command.arguments[0]}, {number.name}, line {line}, {seconds:.3f} s: exit {code}"
    story = f"{story}\n{words}"
    if not died_before_us(number, code, words):
        assert code in (0, 128 + number), story
        assert "Traceback" not in words, story
    try:
        check(number, code)
    except AssertionError as error:
        raise AssertionError(f"{story}\n{error}") from error


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SENDING)
def test_a_killed_push_leaves_a_complete_image_or_none(
    isolated_containerd: Containerd, registry: Registry, generation: str, tmp_path: Path, name: str
) -> None:
    """The tag is set last: a pull gets the complete image, and the next run sets the tag."""
    chance = random.Random(f"{figures.seed()}-{generation}-{name}")
    command = SENDING[name]
    for turn in range(figures.runs(4, generation)):
        scene = Scene(isolated_containerd, registry, tmp_path / str(turn))
        scene.prepare(command)

        def check(number: int, code: int, scene: Scene = scene) -> None:
            scene.check_after(command, number, code)
            tagged = bool(stored(registry, scene.target_repository).tags)
            assert tagged or code != 0
            if tagged:
                check_pull(scene)
            scene.shell(*scene.words(command))
            check_pull(scene)
            scene.check_next_run(command)

        hit(chance, scene, command, turn, check)


def check_pull(scene: Scene) -> None:
    """Pull the pushed image into a new namespace."""
    shell = Shell(scene.daemon, f"{scene.shell.namespace}-pulled", scene.shell.folder)
    shell("pull", "--no-unpack", "--platform", HERE, scene.target)
    assert layers_of(scene.graph, HERE) <= shell.have()
    assert empty(scene.daemon, shell.namespace) == []


@pytest.mark.timeout(1800)
def test_a_killed_repair_is_completed_by_the_next_run(
    isolated_containerd: Containerd, registry: Registry, generation: str, tmp_path: Path
) -> None:
    """The damaged copy may already be deleted when the process dies: the next run fetches a good one."""
    chance = random.Random(f"{figures.seed()}-{generation}-repair")
    for turn in range(figures.runs(4, generation)):
        scene = Scene(isolated_containerd, registry, tmp_path / str(turn))
        scene.prepare(MENDING)
        spoil(scene.daemon, max(layers_of(scene.graph, HERE)), altered)

        def check(_number: int, _code: int, scene: Scene = scene) -> None:
            scene.shell(*scene.words(MENDING))
            scene.shell("verify", scene.name)
            state = snapshot_of(scene.daemon, scene.shell.namespace)
            assert scene.wanted(MENDING) <= set(state["content"])
            assert bad_blobs(scene.daemon, list(state["content"])) == []
            assert list(scene.shell.folder.iterdir()) == []
            scene.check_next_run(MENDING)

        hit(chance, scene, MENDING, turn, check)
