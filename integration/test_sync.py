"""sync between two real containerds, through a real sshd: what is sent, and what is left."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import pytest

from integration import figures
from integration.conftest import chosen
from integration.killing import comes_true
from integration.pages import commands, run
from integration.rig.collector import empty
from integration.rig.daemons import Containerd, Registry
from integration.rig.store import State, snapshot_of
from integration.rig.throttle import Throttle
from integration.syncing import (
    FOREIGN,
    HERE,
    MIB,
    After,
    Pair,
    Terminal,
    big,
    blobs_for,
    client,
    kept,
    size_of,
)
from pyctrd import (
    AsyncClient,
    Cancelled,
    Client,
    ClientClosed,
    Progress,
    SyncResult,
)
from tests.support import shapes

# For what does not depend on the generation of containerd.
on_newest = pytest.mark.parametrize("generation", chosen()[-1:], indirect=True, scope="session")
SOURCE = "containerd.io/distribution.source."


def sources(state: State) -> dict[str, dict[str, str]]:
    """Return the source labels of each blob."""
    return {
        digest: {key: value for key, value in blob["labels"].items() if key.startswith(SOURCE)}
        for digest, blob in state["content"].items()
    }


def parents(state: State) -> dict[str, dict[str, str]]:
    """Return the parent of each snapshot, by snapshotter; ctr of 2.x gives some of them labels."""
    return {
        snapshotter: {name: one["parent"] for name, one in found.items()}
        for snapshotter, found in state["snapshots"].items()
    }


# --- what is sent -----------------------------------------------------------------------------------------


@pytest.mark.every_generation
@pytest.mark.parametrize("backwards", [False, True], ids=["to", "from"])
def test_what_is_missing_is_sent_once(pair: Pair, backwards: bool) -> None:
    """From 1.6 to 2.4 and back: bytes on the line, blobs, labels, records, and snapshots."""
    graph = big(pair.namespace)
    name = pair.pull(graph, far=backwards)
    wanted = blobs_for(graph, HERE)
    total = size_of(graph, wanted)
    with Throttle(pair.sshd.port) as line:
        port = int(line.host.rpartition(":")[2])
        pair.sshd.know_host(port)
        other = pair.address(port)
        arguments = ["sync", name, *(["--from", other] if backwards else [other])]
        planned = pair.shell.json(*arguments, "--dry-run")
        begun = line.sent, line.received
        result = pair.shell.json(*arguments)
        moved = (line.sent - begun[0]) if backwards else (line.received - begun[1])
        begun = line.sent, line.received
        again = pair.shell.json(*arguments)
        idle = max(line.sent - begun[0], line.received - begun[1])
    assert result["images"] == [{"name": name, "target": result["images"][0]["target"]}]
    assert result["images"][0]["target"]["digest"] == graph.digest
    assert (result["bytes_sent"], result["blobs_sent"], result["blobs_present"]) == (total, len(wanted), 0)
    assert (planned["bytes_sent"], planned["blobs_sent"]) == (total, len(wanted))
    assert total <= moved <= 1.02 * total, f"{moved - total} bytes more than are missing"
    assert (again["bytes_sent"], again["blobs_sent"], again["blobs_present"]) == (0, 0, len(wanted))
    assert idle < 100_000
    pair.check_complete(name, graph, wanted, far=not backwards)
    receiver, sender = pair.state(far=not backwards), pair.state(far=backwards)
    assert sources(receiver) == {digest: sources(sender)[digest] for digest in wanted}
    assert all(sources(receiver).values())
    assert parents(receiver) == parents(sender)
    assert sender["leases"] == {}
    figures.record("sync", pair.near.generation, bytes_missing=total, bytes_on_the_line=moved)


@on_newest
def test_the_commands_of_the_page(pair: Pair) -> None:
    """Those of docs/airgap.md, with another host and socket."""
    graph = big(pair.namespace, layers=1)
    name = pair.pull(graph)
    real = {
        "registry.k8s.io/pause:3.10": name,
        "-n k8s.io": f"-n {pair.namespace}",
        "ssh://root@edge1/run/k3s/containerd/containerd.sock": pair.address(),
        "ssh://root@edge1": pair.address(),
    }
    found = commands("airgap.md", "Straight into another containerd", real)
    assert len(found) == 3
    for command in found:
        if "--from" in command:
            pair.near.ctr("images", "rm", "--sync", name, namespace=pair.namespace)
        run(pair.shell, command)
        pair.check_complete(name, graph, blobs_for(graph, HERE), far="--from" not in command)


@pytest.mark.every_generation
def test_only_the_missing_platform_is_sent_afterwards(pair: Pair) -> None:
    graph = big(pair.namespace, layers=1)
    name = pair.pull(graph)
    pair.shell("ensure", "--all-platforms", "--plain-http", name)
    pair.shell("sync", name, pair.address())
    result = pair.shell.json("sync", name, pair.address(), "--all-platforms")
    assert result["bytes_sent"] == size_of(graph, set(graph.blobs) - blobs_for(graph, HERE))
    assert result["blobs_present"] == len(blobs_for(graph, HERE))
    assert result["unpacked"] == []
    pair.check_complete(name, graph, set(graph.blobs), far=True)


@on_newest
def test_ensure_there_finds_the_registry(pair: Pair) -> None:
    """The labels say where the content came from, so the other machine can complete the image."""
    graph = big(pair.namespace, layers=1)
    name = pair.pull(graph)
    pair.shell("sync", name, pair.address())
    pair.there("ensure", "--plain-http", "--platform", FOREIGN, name)
    assert set(pair.state(far=True)["content"]) == set(graph.blobs)


@on_newest
def test_through_a_socket_of_this_machine_and_into_another_namespace(pair: Pair) -> None:
    """The same as through ssh; and within one containerd that shares its content nothing is sent."""
    graph = big(pair.namespace, layers=1)
    name = pair.pull(graph)
    result = pair.shell.json("sync", name, f"unix://{pair.far.address}")
    assert result["bytes_sent"] == size_of(graph, blobs_for(graph, HERE))
    pair.check_complete(name, graph, blobs_for(graph, HERE), far=True)
    other = f"{pair.namespace}-other"
    pair.shell("sync", "--no-unpack", name, f"unix://{pair.near.address}?namespace={other}")
    assert set(snapshot_of(pair.near, other)["content"]) == blobs_for(graph, HERE)
    assert empty(pair.near, other) == []
    words = pair.shell("sync", name, f"unix://{pair.near.address}", code=2).stderr.decode()
    assert f"is this containerd and its namespace {pair.namespace}" in words


@on_newest
def test_content_of_another_namespace_is_not_sent(
    pair: Pair, fresh_containerd: Containerd, registry: Registry
) -> None:
    graph = big(pair.namespace, layers=1)
    name = pair.pull(graph)
    fresh_containerd.ctr("content", "fetch", "--plain-http", name, namespace="first")
    result = pair.shell.json("sync", name, f"unix://{fresh_containerd.address}?namespace=second")
    assert (result["bytes_sent"], result["blobs_present"]) == (0, len(blobs_for(graph, HERE)))
    assert set(snapshot_of(fresh_containerd, "second")["content"]) == blobs_for(graph, HERE)


@on_newest
def test_what_is_printed(pair: Pair) -> None:
    graph = big(pair.namespace, layers=1)
    name = pair.pull(graph)
    planned = pair.shell("sync", "--dry-run", name, pair.address()).stdout.decode()
    assert f"{name}\n" in planned
    assert "would send" in planned
    done = pair.shell("sync", name, pair.address())
    text = done.stdout.decode()
    assert "unpacked" in text
    assert HERE in text
    assert "uploaded" in done.stderr.decode()
    assert "nothing, already complete" in pair.shell("sync", name, pair.address()).stdout.decode()
    assert pair.shell("sync", "-q", name, pair.address()).stdout.decode() == f"{name}\n"


# --- cut, killed and cancelled ----------------------------------------------------------------------------


VICTIMS: Sequence[str | signal.Signals] = (
    "ssh",
    "sshd",
    signal.SIGKILL,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
)


@pytest.mark.every_generation
@pytest.mark.timeout(3600)
def test_cut_at_random_points_and_resumed(pair: Pair) -> None:
    """ssh, the connection or pyctrd is killed; nothing is left, and the next run sends only the rest."""
    seed = f"{figures.seed()}-{pair.near.generation}"
    chance = random.Random(seed)
    count = figures.runs(4, pair.near.generation)
    graph = big(f"{pair.namespace}{seed}", layers=6)
    name = pair.pull(graph)
    wanted = blobs_for(graph, HERE)
    total = size_of(graph, wanted)
    cuts = 0
    victims = chance.sample(VICTIMS, len(VICTIMS))
    for turn in range(count):
        victim = victims[turn % len(victims)]
        after = chance.randrange(0, total)
        story = f"seed {seed}, turn {turn}: {victim} after {after} of {total} bytes"
        code, words = cut(pair, name, victim, after)
        if isinstance(victim, signal.Signals):
            assert code in (0, 128 + victim), f"{story}: exit {code}, {words}"
        else:
            assert code in (0, 6), f"{story}: exit {code}, {words}"
            assert code == 0 or "cannot reach containerd at ssh://127.0.0.1:" in words, f"{story}: {words}"
        assert "Traceback" not in words, story
        cuts += code != 0
        pair.check_no_process_is_left()
        state = pair.state(far=True)
        assert code == 0 or name not in state["images"] or wanted <= set(state["content"]), story
        had = kept(state)
        result = pair.shell.json("sync", name, pair.address())
        assert result["bytes_sent"] <= total - had, f"{story}: {result['bytes_sent']} of {total - had} bytes"
        assert result["bytes_sent"] + result["bytes_resumed"] <= total
        pair.drop_leases()
        pair.check_complete(name, graph, wanted, far=True)
        pair.far.ctr("images", "rm", "--sync", name, namespace=pair.namespace)
        assert pair.state(far=True)["content"] == {}
    figures.record("sync cut", pair.near.generation, runs=count, cut=cuts, lost=0, left_over=0)


def cut(pair: Pair, name: str, victim: str | signal.Signals, after: int) -> tuple[int, str]:
    """Run a sync, and cut it once a containerd has so many bytes; return the exit code and stderr."""
    arguments = ("sync", "--progress", "none", name, pair.address())
    with pair.shell.start(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while process.poll() is None and kept(pair.state(far=True)) < after:
            time.sleep(0.005)
        if victim == "ssh":
            pair.sshd.kill_clients()
        elif victim == "sshd":
            pair.sshd.kill_sessions()
        else:
            assert isinstance(victim, signal.Signals)
            process.send_signal(victim)
        words = process.communicate()[1].decode(errors="replace")
    code = process.returncode
    return (128 - code if code < 0 else code), words


@on_newest
@pytest.mark.parametrize("backwards", [False, True], ids=["to", "from"])
@pytest.mark.parametrize("how", ["event", "cancel", "close"])
def test_a_call_is_ended(in_process: Pair, how: str, backwards: bool) -> None:
    graph = big(in_process.namespace)
    name = in_process.pull(graph, far=backwards)
    cancel = threading.Event()
    other = in_process.address()
    to, source = (None, other) if backwards else (other, None)
    with client(in_process) as opened:
        actions = {"event": cancel.set, "cancel": opened.cancel, "close": opened.close}

        def act() -> None:
            # In a thread: `cancel` waits for the call, which reports its progress here.
            threading.Thread(target=actions[how]).start()
            assert comes_true(lambda: how != "event" or cancel.is_set())

        progress = After(5 * MIB, act)
        with pytest.raises(ClientClosed if how == "close" else Cancelled):
            slow_sync(opened, name, to, source, progress, cancel)
        assert progress.acted
    in_process.check_no_process_is_left()
    assert in_process.state(far=not backwards)["images"] == {}
    with client(in_process) as opened:
        result = opened.images.sync(name, to, source=source)
    assert result.bytes_sent < size_of(graph, blobs_for(graph, HERE))
    in_process.drop_leases()
    in_process.check_complete(name, graph, blobs_for(graph, HERE), far=not backwards)


def slow_sync(
    opened: Client,
    name: str,
    to: str | None,
    source: str | None,
    progress: After,
    cancel: threading.Event,
) -> SyncResult:
    """A sync that waits a little with each MiB, so that it is not over before it is cancelled."""

    def slowly(event: Progress) -> None:
        progress(event)
        time.sleep(0.2 if progress.acted else 0)

    return opened.images.sync(name, to, source=source, progress=slowly, cancel=cancel)


@on_newest
async def test_a_cancelled_task_leaves_nothing(in_process: Pair) -> None:
    graph = big(in_process.namespace)
    name = in_process.pull(graph)
    begun = asyncio.Event()

    def note(event: Progress) -> None:
        if event.action == "uploading":
            begun.set()

    async with AsyncClient(in_process.near.address, in_process.namespace) as opened:
        task = asyncio.create_task(
            opened.images.sync(name, in_process.address(), progress=note, concurrency=1)
        )
        await begun.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    in_process.check_no_process_is_left()
    in_process.drop_leases()


# --- on a terminal ----------------------------------------------------------------------------------------


@on_newest
@pytest.mark.parametrize(
    ("keys", "code", "words"),
    [("yes\n", 0, "unpacked"), ("no\n", 6, "Host key verification failed"), ("\x03", 130, "")],
)
def test_ssh_asks_on_the_terminal(pair: Pair, keys: str, code: int, words: str) -> None:
    name = pair.pull(shapes.single(salt=pair.namespace))
    with Throttle(pair.sshd.port) as line:
        terminal = Terminal(pair, name, f"ssh://{line.host}{pair.far.address}")
        terminal.read_until("(yes/no/[fingerprint])?")
        terminal.type(keys)
        assert terminal.end() == code, terminal.text
    assert words in terminal.text
    assert "Traceback" not in terminal.text


@on_newest
def test_ctrl_c_on_the_terminal(pair: Pair) -> None:
    """It reaches every process there, but ssh goes on until pyctrd has cleaned up through it."""
    graph = big(pair.namespace)
    name = pair.pull(graph)
    with Throttle(pair.sshd.port, from_client=4 * MIB) as line:
        pair.sshd.know_host(int(line.host.rpartition(":")[2]))
        terminal = Terminal(pair, "--progress", "plain", name, f"ssh://{line.host}{pair.far.address}")
        terminal.read_until("layer")
        assert comes_true(lambda: kept(pair.state(far=True)) > MIB)
        terminal.type("\x03")
        assert terminal.end() == 130, terminal.text
    assert "what was copied is kept for a day: run the same command again to resume" in terminal.text
    pair.check_no_process_is_left()
    state = pair.state(far=True)
    assert len(state["leases"]) == 1
    assert state["images"] == {}
    assert not any(
        snapshot["kind"] == "Active" for one in state["snapshots"].values() for snapshot in one.values()
    )
