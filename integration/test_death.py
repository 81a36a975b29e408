"""pyctrd is killed or fails: signals at random points of every command, closed streams, full disks.

Afterwards the store is consistent blob by blob, no partial file has the archive's name, the exit code is the
documented one (docs/cli.md), what is left behind expires, and the next run succeeds.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from integration import figures
from integration.conftest import chosen, run_required
from integration.dying import FOREIGN, HERE, PROGRESS, PULL, SIGNALS, Command, Scene, Victim, died_before_us
from integration.rig.collector import bad_blobs, empty
from integration.rig.containerd import ISOLATED_CONTENT
from integration.rig.daemons import Containerd, Registry
from integration.rig.publish import push
from integration.rig.store import snapshot_of
from integration.shell import Shell, archived
from tests.support import shapes
from tests.support.images import Graph

COMMANDS = {
    "pull": PULL,
    "pull all": Command(
        ("pull", "--all-platforms", *PROGRESS),
        pulls=True,
        resumable=True,
        fetches=shapes.PAUSE_PLATFORMS,
    ),
    "ensure": Command(("ensure", "--platform", FOREIGN, *PROGRESS), resumable=True, fetches=(HERE, FOREIGN)),
    "save": Command(
        ("save", "--platform", FOREIGN, *PROGRESS, "-o", "image.tar"),
        saves_to="image.tar",
        fetches=(HERE, FOREIGN),
    ),
    "save to a pipe": Command(("save", "--platform", FOREIGN, *PROGRESS), fetches=(HERE, FOREIGN)),
    "diagnose": Command(("diagnose",), fetches=(HERE,)),
    "images": Command(("images",), on_image=False, fetches=(HERE,)),
    "content": Command(("content", "ls"), on_image=False, fetches=(HERE,)),
}


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """One generation for tests that do not depend on containerd: streams, disks and permissions."""
    with run_required(
        lambda: Containerd(chosen()[-1], tmp_path_factory.mktemp("newest"), config=ISOLATED_CONTENT)
    ) as daemon:
        yield daemon


@pytest.mark.timeout(3600)
def test_killed_at_random_points(
    isolated_containerd: Containerd, registry: Registry, generation: str, tmp_path: Path
) -> None:
    """Every command and every signal in turn, at a random point of its progress or running time."""
    seed = f"{figures.seed()}-{generation}"
    chance = random.Random(seed)
    combinations = [(name, number) for name in COMMANDS for number in SIGNALS]
    count = figures.runs(6, generation)
    deaths = Counter[str]()
    chosen = [combinations[turn % len(combinations)] for turn in range(count * 2)]
    chance.shuffle(chosen)
    for turn, (name, number) in enumerate(chosen[:count]):
        command = COMMANDS[name]
        line = chance.randrange(0, 45) if "--progress" in command.arguments else 0
        seconds = chance.uniform(0, 0.5) if line == 0 else chance.uniform(0, 0.02)
        story = f"seed {seed}, turn {turn}: {name}, {number.name}, line {line}, {seconds:.3f} s"
        scene = Scene(isolated_containerd, registry, tmp_path / str(turn))
        scene.prepare(command)
        victim = Victim(scene.shell, scene.words(command))
        victim.live_until(line, seconds)
        code, words = victim.end(number)
        try:
            if not died_before_us(number, code, words):
                assert code in (0, 128 + number), words
                assert "Traceback" not in words
            scene.check_after(command, number, code)
            scene.check_next_run(command)
        except AssertionError as error:
            raise AssertionError(f"{story}: exit {code}\n{words}\n{error}") from error
        deaths["survived" if code == 0 else number.name] += 1
    figures.record(
        "killed by a signal",
        generation,
        runs=count,
        kills=count - deaths["survived"],
        ended_before_the_signal=deaths["survived"],
        **{name: times for name, times in sorted(deaths.items()) if name != "survived"},
        lost=0,
        left_over=0,
    )


# --- streams ----------------------------------------------------------------------------------------------

STREAMS = ("pull", "save", "save to a pipe", "images")
PRINTING = ("pull", "save to a pipe", "images")


def run(scene: Scene, command: Command, redirection: str) -> tuple[int, str]:
    """Run by a shell with a redirection; return the exit code and stderr."""
    line = f'exec "$0" -m pyctrd "$@" {redirection}'
    done = subprocess.run(
        ["sh", "-c", line, sys.executable, *scene.words(command)],
        env=scene.shell.env,
        cwd=scene.shell.folder,
        capture_output=True,
        timeout=60,
        check=False,
    )
    words = done.stderr.decode()
    assert "Traceback" not in words
    assert "internal error" not in words
    return done.returncode, words


def check_after(scene: Scene, command: Command, code: int) -> None:
    """As after a signal; the operation may be complete if only its output could not be written."""
    state = snapshot_of(scene.daemon, scene.shell.namespace)
    assert state["leases"] == {}
    if scene.name in state["images"]:
        assert scene.wanted(COMMANDS["pull"]) <= set(state["content"])
    assert bad_blobs(scene.daemon, list(state["content"])) == []
    if command.fetches != (HERE,) or command.pulls:
        scene.check_next_run(command)


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(newest: Containerd, registry: Registry, tmp_path: Path, redirection: str) -> None:
    """A result that cannot be printed is an error (1); a closed stderr or stdin is not.

    Nothing may be written to a file or socket that has the file descriptor of a closed stream.
    """
    for name in STREAMS:
        scene = Scene(newest, registry, tmp_path / name.replace(" ", "-"))
        command = COMMANDS[name]
        scene.prepare(command)
        code, words = run(scene, command, redirection)
        unheard = (">&-" in redirection.replace("2>&-", "") or "full" in redirection) and name in PRINTING
        assert code == (1 if unheard else 0), (name, words)
        if unheard and "2>&-" not in redirection:
            reason = "No space left on device" if "full" in redirection else "Bad file descriptor"
            assert reason in words.splitlines()[-1] or reason in words.splitlines()[-2], (name, words)
        check_after(scene, command, code)


@pytest.mark.parametrize("which", ["stdout", "stderr", "both"])
def test_closed_pipes(newest: Containerd, registry: Registry, tmp_path: Path, which: str) -> None:
    """Like SIGPIPE: exit 1, or 0 if nothing had to be written to the closed pipe."""
    for name in STREAMS:
        scene = Scene(newest, registry, tmp_path / name.replace(" ", "-"))
        command = COMMANDS[name]
        scene.prepare(command)
        with readerless() as gone, Path(os.devnull).open("wb") as null:
            streams = {
                "stdout": gone if which != "stderr" else null,
                "stderr": gone if which != "stdout" else null,
            }
            code = scene.shell.start(*scene.words(command), **streams).wait(60)
        silent = name == ("save" if which == "stdout" else "images")
        assert code == (0 if silent and which != "both" else 1), name
        check_after(scene, command, code)


@contextmanager
def readerless() -> Iterator[IO[bytes]]:
    """A pipe whose reader has been closed."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        yield pipe


def test_a_pipe_that_is_closed_within_an_archive(
    newest: Containerd, registry: Registry, tmp_path: Path
) -> None:
    """The reader closes the pipe at random places of archives of 8 MiB."""
    chance = random.Random(figures.seed())
    graph = shapes.big(8 << 20)
    name = push(graph, registry, f"pipe/{uuid.uuid4().hex[:8]}")
    shell = Shell(newest, f"pipe-{uuid.uuid4().hex[:8]}", tmp_path)
    shell("pull", "--no-unpack", name)
    for _ in range(3):
        place = chance.randrange(8 << 20)
        process = shell.start("save", name, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(place)) == place
        process.stdout.close()
        with process.stderr as stream:
            words = stream.read().decode()
        assert process.wait(60) == 1, (place, words)
        assert "Broken pipe: the reader closed the pipe after" in words, place
        assert snapshot_of(newest, shell.namespace)["leases"] == {}
    shell("save", "-o", "whole.tar", name)
    assert archived(tmp_path / "whole.tar") == set(graph.blobs)


# --- disks and permissions --------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A small file system."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def big_image(registry: Registry) -> tuple[Graph, str]:
    graph = shapes.big(4 << 20)
    return graph, push(graph, registry, f"big/{uuid.uuid4().hex[:8]}")


def test_a_full_output_disk(newest: Containerd, registry: Registry, tmp_path: Path) -> None:
    """No partial file is left, an existing archive is unchanged, and with more space the save succeeds."""
    graph, name = big_image(registry)
    shell = Shell(newest, f"full-{uuid.uuid4().hex[:8]}", tmp_path)
    shell("pull", "--no-unpack", name)
    with small_disk(tmp_path / "disk", "1m") as disk:
        old = disk / "image.tar"
        old.write_bytes(b"an older archive")
        done = shell("save", "-o", str(old), name, code=1)
        assert "cannot write the archive: No space left on device: " in done.stderr.decode()
        assert "hint: free some space" in done.stderr.decode()
        assert [place.name for place in disk.iterdir()] == ["image.tar"]
        assert old.read_bytes() == b"an older archive"
        line = f'exec "$0" -m pyctrd save {name} >{disk}/redirected.tar'
        command = ["sh", "-c", line, sys.executable]
        redirected = subprocess.run(command, env=shell.env, capture_output=True, timeout=60, check=False)
        assert redirected.returncode == 1, redirected.stderr
        (disk / "redirected.tar").unlink()
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        shell("save", "-o", str(old), name)
        assert archived(old) == set(graph.blobs)
    assert snapshot_of(newest, shell.namespace)["leases"] == {}
    assert empty(newest, shell.namespace) == []


def without_privilege(shell: Shell, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run without root's right to ignore permissions; another user may not be able to read Python."""
    rights = "-dac_override,-dac_read_search,-fowner"
    command = ["setpriv", f"--bounding-set={rights}", "--inh-caps=-all", sys.executable, "-m", "pyctrd"]
    done = subprocess.run(
        [*command, *arguments],
        env=shell.env,
        cwd=shell.folder,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert b"Traceback" not in done.stderr
    return done


def test_a_folder_without_permissions(newest: Containerd, registry: Registry, tmp_path: Path) -> None:
    graph, name = big_image(registry)
    shell = Shell(newest, f"denied-{uuid.uuid4().hex[:8]}", tmp_path)
    shell("pull", "--no-unpack", name)
    folder = tmp_path / "denied"
    folder.mkdir(mode=0o500)
    done = without_privilege(shell, "save", "-o", f"{folder}/image.tar", name)
    assert done.returncode == 1
    assert f"cannot write {folder}/image.tar: Permission denied" in done.stderr.decode()
    assert list(folder.iterdir()) == []
    assert snapshot_of(newest, shell.namespace)["leases"] == {}
    folder.chmod(0o700)
    assert without_privilege(shell, "save", "-o", f"{folder}/image.tar", name).returncode == 0
    assert archived(folder / "image.tar") == set(graph.blobs)


def test_a_socket_without_permissions(registry: Registry, tmp_path: Path) -> None:
    """Every command says so, with the documented code, before it changes anything."""
    with Containerd(chosen()[-1], tmp_path / "containerd") as daemon:
        scene = Scene(daemon, registry, tmp_path / "scene")
        os.chown(daemon.address, 65534, 65534)
        daemon.address.chmod(0o600)
        for name, command in COMMANDS.items():
            done = without_privilege(scene.shell, *scene.words(command))
            assert done.returncode == 6, name
            assert "permission denied" in done.stderr.decode()
        assert list(scene.shell.folder.iterdir()) == []
        daemon.address.chmod(0o666)
        assert without_privilege(scene.shell, "pull", "--no-unpack", scene.name).returncode == 0
