"""sync between two real containerds, through a real sshd: what is sent, what is left, and what fails how."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from integration import figures
from integration.conftest import chosen, run_required
from integration.killing import comes_true
from integration.rig.collector import bad_blobs, empty
from integration.rig.daemons import ISOLATED_CONTENT, OTHER_USER, Containerd, Registry, Sshd
from integration.rig.publish import push
from integration.rig.store import State, collect_garbage, snapshot_of
from integration.rig.throttle import Throttle
from integration.shell import Shell, layers_of
from pyctrd import (
    AsyncClient,
    Cancelled,
    Client,
    ClientClosed,
    DaemonUnreachable,
    Progress,
    RegistryOptions,
    SyncResult,
)
from tests.support import images, shapes
from tests.support.images import Graph

HERE, FOREIGN = "linux/amd64", "linux/arm64"
MIB = 1 << 20
# For what does not depend on the generation of containerd.
on_newest = pytest.mark.parametrize("generation", chosen()[-1:], indirect=True, scope="session")
SOURCE = "containerd.io/distribution.source."


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    with run_required(Sshd) as server:
        yield server


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """The other containerd, of the newest generation; its namespaces share no content."""
    folder = tmp_path_factory.mktemp("far")
    with run_required(lambda: Containerd(chosen()[-1], folder, config=ISOLATED_CONTENT)) as daemon:
        daemon.address.parent.chmod(0o711)  # as /run/containerd is: OTHER_USER may see the socket
        yield daemon


class Pair:
    """A namespace in each of two containerds, and the shell of a user of the first."""

    def __init__(
        self, near: Containerd, far: Containerd, sshd: Sshd, registry: Registry, folder: Path
    ) -> None:
        self.near, self.far, self.sshd, self.registry = near, far, sshd, registry
        self.namespace = f"sync-{uuid.uuid4().hex[:12]}"
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True)
        self.shell = Shell(near, self.namespace, folder)
        self.there = Shell(far, self.namespace, folder)
        self.shell.env["PATH"] = f"{sshd.bin_dir}:{os.environ['PATH']}"
        self.shell.env["TMPDIR"] = str(self.temporary)

    def address(self, port: int = 0, user: str = "") -> str:
        return f"ssh://{user}127.0.0.1:{port or self.sshd.port}{self.far.address}"

    def publish(self, graph: Graph) -> str:
        return push(graph, self.registry, f"sync/{uuid.uuid4().hex[:12]}")

    def pull(self, graph: Graph, *, far: bool = False, every: bool = False) -> str:
        """Publish an image and pull it with ctr, as users of that machine do."""
        name = self.publish(graph)
        daemon = self.far if far else self.near
        if every:
            daemon.ctr("content", "fetch", "--plain-http", "--all-platforms", name, namespace=self.namespace)
        else:
            daemon.ctr("images", "pull", "--plain-http", name, namespace=self.namespace)
        return name

    def state(self, *, far: bool) -> State:
        return snapshot_of(self.far if far else self.near, self.namespace)

    def check_no_process_is_left(self) -> None:
        """No ssh is running, and its folder is gone."""
        assert comes_true(lambda: not self.sshd.clients() and not list(self.temporary.iterdir()))

    def check_complete(self, name: str, graph: Graph, blobs: set[str], *, far: bool) -> None:
        """ctr calls the image complete, and the collector keeps exactly these blobs."""
        daemon = self.far if far else self.near
        collect_garbage(daemon, self.namespace)
        state = snapshot_of(daemon, self.namespace)
        assert state["images"][name]["target"]["digest"] == graph.digest
        assert set(state["content"]) == blobs
        assert (state["leases"], state["ingests"]) == ({}, {})
        assert bad_blobs(daemon, sorted(blobs)) == []
        lines = daemon.ctr("images", "check", namespace=self.namespace).stdout.decode().splitlines()
        assert [line for line in lines if name in line and " complete " in line], lines

    def drop_leases(self) -> None:
        """Delete the leases of killed clients, which would expire within a day."""
        for daemon in (self.near, self.far):
            for lease in snapshot_of(daemon, self.namespace)["leases"]:
                daemon.ctr("leases", "delete", lease, namespace=self.namespace)


@pytest.fixture
def pair(
    isolated_containerd: Containerd, far: Containerd, sshd: Sshd, registry: Registry, tmp_path: Path
) -> Iterator[Pair]:
    made = Pair(isolated_containerd, far, sshd, registry, tmp_path)
    yield made
    made.check_no_process_is_left()
    made.drop_leases()
    for daemon in (isolated_containerd, far):
        assert empty(daemon, made.namespace) == []


def big(salt: str, layers: int = 4, size: int = 4 * MIB) -> Graph:
    """An index of two platforms with some random layers each."""
    children = []
    for on in (HERE, FOREIGN):
        made = [
            images.random_layer(size, zlib.crc32(f"{salt}{on}{number}".encode())) for number in range(layers)
        ]
        children.append(images.manifest(images.config(made, on), made, on=on))
    return images.index(children)


def blobs_for(graph: Graph, *platforms: str) -> set[str]:
    """List the blobs of an index's platforms."""
    found = {graph.digest}
    for position, on in enumerate((HERE, FOREIGN)):
        if on in platforms:
            found |= set(images.reachable(graph.child(position)))
    return found


def size_of(graph: Graph, digests: set[str]) -> int:
    return sum(len(graph.blobs[digest]) for digest in digests)


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


def client(pair: Pair) -> Client:
    """A client of the first containerd in this process, which finds the right ssh."""
    return Client(pair.near.address, pair.namespace, registry=RegistryOptions(plain_http=True))


@pytest.fixture
def in_process(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> Pair:
    monkeypatch.setenv("PATH", pair.shell.env["PATH"])
    monkeypatch.setattr(tempfile, "tempdir", str(pair.temporary))
    return pair


class After:
    """Calls a function once so many bytes of layers have been sent."""

    def __init__(self, wanted: int, act: Callable[[], object]) -> None:
        self._wanted, self._act = wanted, act
        self._sent: dict[str, int] = {}
        self.acted = False

    def __call__(self, event: Progress) -> None:
        if event.action in ("uploading", "uploaded", "downloading", "downloaded") and event.descriptor:
            self._sent[event.descriptor.digest] = event.offset
        if not self.acted and sum(self._sent.values()) >= self._wanted:
            self.acted = True
            self._act()


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
    count = figures.runs(4)
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


def kept(state: State) -> int:
    """How much of an image a namespace has: its content, and the bytes of its unfinished writes."""
    sizes = [blob["size"] for blob in state["content"].values()]
    return sum(sizes) + sum(ingest["offset"] for ingest in state["ingests"].values())


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


# --- errors -----------------------------------------------------------------------------------------------


def failing(pair: Pair, name: str, address: str, code: int = 6) -> str:
    """Run a sync that must fail, in both directions; return what is printed."""
    words = pair.shell("sync", name, address, code=code).stderr.decode()
    assert pair.shell("sync", name, "--from", address, code=code).stderr.decode() == words
    pair.check_no_process_is_left()
    return words


@pytest.fixture
def there_is(pair: Pair) -> str:
    """The name of an image in the first containerd."""
    return pair.pull(shapes.single(salt=pair.namespace))


@on_newest
def test_no_ssh_server(pair: Pair, there_is: str) -> None:
    with Sshd() as server:
        pass
    words = failing(pair, there_is, f"ssh://127.0.0.1:{server.port}")
    assert f"cannot reach containerd at ssh://127.0.0.1:{server.port}: ssh: connect to host" in words
    assert "Connection refused" in words
    assert "hint: check the host and the port: no ssh server listens there" in words


@on_newest
def test_a_user_who_may_not_log_in(pair: Pair, there_is: str) -> None:
    words = failing(pair, there_is, pair.address(user="nobody-here@"))
    assert "nobody-here@127.0.0.1: Permission denied (publickey" in words
    assert f"hint: check that `ssh -p {pair.sshd.port} nobody-here@127.0.0.1` logs in" in words


@on_newest
def test_an_unknown_host_key(pair: Pair, there_is: str) -> None:
    with Throttle(pair.sshd.port) as line:
        words = failing(pair, there_is, f"ssh://{line.host}")
    assert "Host key verification failed." in words
    assert "hint: connect once with `ssh -p " in words


@on_newest
def test_a_host_that_does_not_exist(pair: Pair, there_is: str) -> None:
    words = failing(pair, there_is, "ssh://host.invalid/k8s.io")
    assert "ssh: Could not resolve hostname host.invalid" in words


@on_newest
def test_without_ssh(pair: Pair, there_is: str) -> None:
    pair.shell.env["PATH"] = str(pair.folder)
    words = failing(pair, there_is, pair.address())
    assert ": ssh: command not found\nhint: install OpenSSH's client\n" in words


@on_newest
def test_no_containerd_there(pair: Pair, there_is: str) -> None:
    words = failing(pair, there_is, f"ssh://{pair.sshd.host}/nonexistent/c.sock")
    assert (
        f"cannot reach containerd at ssh://{pair.sshd.host}/nonexistent/c.sock: /nonexistent/c.sock: no such "
        "file or directory (open failed: connect failed: open failed)\nhint: start containerd there, or add"
    ) in words


@on_newest
def test_a_socket_on_which_nobody_listens(pair: Pair, there_is: str) -> None:
    with tempfile.TemporaryDirectory(prefix="pc-", dir="/tmp") as folder:
        socket = Path(folder) / "c.sock"
        code = "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])"
        subprocess.run(["python3", "-c", code, socket], check=True)
        words = failing(pair, there_is, f"ssh://{pair.sshd.host}{socket}")
    assert f"{socket}: connection refused: nothing is listening on the socket (open failed: " in words
    assert "hint: start containerd there" in words


@on_newest
def test_a_user_who_may_not_use_the_socket(pair: Pair, there_is: str) -> None:
    words = failing(pair, there_is, pair.address(user=f"{OTHER_USER}@"))
    assert f"{pair.far.address}: permission denied (open failed: connect failed: open failed)" in words
    assert "hint: log in as a user who may use it: ssh://root@127.0.0.1" in words


@on_newest
@pytest.mark.parametrize("setting", ["AllowStreamLocalForwarding no", "DisableForwarding yes"])
def test_a_server_that_does_not_forward(pair: Pair, there_is: str, setting: str) -> None:
    with Sshd(setting) as server:
        pair.shell.env["PATH"] = f"{server.bin_dir}:{os.environ['PATH']}"
        words = failing(pair, there_is, pair.address(server.port))
        assert not server.clients()
    assert f"the ssh server does not forward {pair.far.address} (open failed: " in words
    assert "hint: its configuration has to allow it: AllowStreamLocalForwarding" in words


@on_newest
def test_a_server_that_neither_forwards_nor_runs_commands(pair: Pair, there_is: str) -> None:
    with Sshd("DisableForwarding yes\nForceCommand /bin/false") as server:
        pair.shell.env["PATH"] = f"{server.bin_dir}:{os.environ['PATH']}"
        words = failing(pair, there_is, pair.address(server.port))
    assert ": open failed: connect failed: open failed\nhint: there may be no containerd at " in words


@on_newest
def test_another_server_there(pair: Pair, there_is: str) -> None:
    agent = subprocess.run(["ssh-agent", "-s"], capture_output=True, check=True).stdout.decode()
    values = dict(line.split(";")[0].split("=") for line in agent.splitlines() if "=" in line)
    try:
        words = failing(pair, there_is, f"ssh://{pair.sshd.host}{values['SSH_AUTH_SOCK']}")
    finally:
        os.kill(int(values["SSH_AGENT_PID"]), signal.SIGTERM)
    assert f"cannot reach containerd at ssh://{pair.sshd.host}{values['SSH_AUTH_SOCK']}: " in words


@on_newest
def test_a_containerd_that_ends_meanwhile(
    in_process: Pair, generation: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    graph = big(in_process.namespace)
    name = in_process.pull(graph)
    folder = tmp_path_factory.mktemp("short-lived")
    with run_required(lambda: Containerd(generation, folder)) as daemon, client(in_process) as opened:
        address = f"ssh://{in_process.sshd.host}{daemon.address}"
        with pytest.raises(DaemonUnreachable, match=r"at ssh://.*: connection refused: nothing"):
            opened.images.sync(name, address, progress=After(4 * MIB, daemon.kill))


@on_newest
def test_an_incomplete_image_names_ensure(pair: Pair) -> None:
    graph = big(pair.namespace, layers=1)
    name = pair.pull(graph)
    lost = min(layers_of(graph, HERE))
    pair.near.ctr("content", "rm", lost, namespace=pair.namespace)
    words = pair.shell("sync", name, pair.address(), code=4).stderr.decode()
    assert f"content digest {lost}: not found" in words
    assert (
        f"hint: fetch what is missing: pyctrd -a {pair.near.address} -n {pair.namespace} ensure --platform"
        in words
    )
    assert pair.state(far=True)["content"] == {}
    words = pair.there("sync", "--from", f"unix://{pair.near.address}", name, code=4).stderr.decode()
    assert f"hint: on {pair.near.address}: fetch what is missing (`ensure`)" in words
    pair.shell("ensure", "--plain-http", name)
    pair.shell("sync", name, pair.address())


@on_newest
def test_an_image_of_another_namespace_is_found(pair: Pair, there_is: str) -> None:
    address = f"ssh://{pair.sshd.host}{pair.far.address}"
    pair.shell("sync", there_is, address)
    words = pair.shell("sync", there_is, "--from", f"{address}?namespace=elsewhere", code=3).stderr.decode()
    assert f"it is in the namespace {pair.namespace}: add ?namespace={pair.namespace} to the address" in words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("alpine",), "name one image or more, then the other containerd"),
        (("alpine", "edge1"), "invalid address 'edge1': neither an ssh:// address nor a socket"),
        (("ssh://edge1", "alpine"), "invalid address 'alpine'"),
        (("alpine", "ssh://-oProxyCommand=x"), "it has no valid host"),
        (("alpine", "ssh://me:secret@edge1"), "an ssh address must not contain a password"),
        (("alpine", "tcp://edge1"), "unsupported address"),
    ],
)
def test_usage(pair: Pair, arguments: Sequence[str], message: str) -> None:
    words = pair.shell("sync", *arguments, code=2).stderr.decode()
    assert message in words
    assert "secret" not in words
