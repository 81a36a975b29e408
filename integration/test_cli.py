"""The command line as a separate process, on a real containerd and a registry."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from integration.rig.daemons import Containerd, Registry
from integration.rig.proxy import Fault
from integration.rig.publish import push
from integration.rig.store import snapshot_of
from integration.shell import Pause, Shell, archived, layers_of, on_a_terminal
from pyctrd import Client
from pyctrd.oci.platforms import host, to_string
from tests.support import shapes

pytestmark = pytest.mark.two_generations

PLATFORM_COUNT = 5
LAYER_COUNT = 2
FOREIGN = "linux/s390x"


@pytest.fixture
def shell(containerd: Containerd, namespace: str, tmp_path: Path) -> Shell:
    return Shell(containerd, namespace, tmp_path)


@pytest.fixture
def pause(registry: Registry, repository: str) -> Pause:
    graph = shapes.five_platform(LAYER_COUNT, salt=uuid.uuid4().hex)
    return Pause(graph, push(graph, registry, repository))


# --- pull -------------------------------------------------------------------------------------------------


def test_pull_stores_what_it_reports(shell: Shell, pause: Pause) -> None:
    result = shell.json("pull", pause.name)
    here = shell.have()
    assert result["image"] == pause.name
    assert result["target"]["digest"] == pause.graph.digest
    assert {item["digest"] for item in result["fetched"]} == here
    assert result["bytes"] == sum(len(pause.graph.blobs[digest]) for digest in here)
    assert len(here) == 1 + 2 * PLATFORM_COUNT + LAYER_COUNT
    assert result["unpacked"] == [to_string(host())]
    assert shell.json("pull", pause.name)["fetched"] == []


def test_pull_options_are_used(shell: Shell, pause: Pause) -> None:
    shell(
        "pull", "--metadata", "selected", "--no-unpack", "--platform", FOREIGN, "--label", "a=b", pause.name
    )
    assert len(shell.have()) == 1 + 2 + LAYER_COUNT
    state = snapshot_of(shell.containerd, shell.namespace)
    assert state["images"][pause.name]["labels"]["a"] == "b"
    shell("pull", "--metadata-only", pause.name)
    assert len(shell.have()) == 1 + 2 * PLATFORM_COUNT + LAYER_COUNT
    shell("pull", "--all-platforms", pause.name)
    assert shell.have() == set(pause.graph.blobs)


def test_quiet_pull_prints_only_the_name(shell: Shell, pause: Pause) -> None:
    done = shell("pull", "-q", pause.name)
    assert (done.stdout.decode(), done.stderr) == (f"{pause.name}\n", b"")


@pytest.mark.parametrize("mode", ["plain", "json"])
def test_progress_is_printed_as_lines_on_stderr(shell: Shell, pause: Pause, mode: str) -> None:
    done = shell("pull", "--progress", mode, "--no-unpack", "--platform", FOREIGN, pause.name)
    lines = done.stderr.decode().splitlines()
    if mode == "json":
        lines = [json.loads(line)["action"] for line in lines]
    assert sum("downloaded" in line for line in lines) == len(shell.have())
    assert "downloaded" not in done.stdout.decode()


def test_a_terminal_gets_bars(shell: Shell, pause: Pause) -> None:
    shell.env |= {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    code, text = on_a_terminal(shell, "pull", pause.name)
    assert code == 0
    assert "━" in text
    assert f"fetched {len(shell.have())}/{len(shell.have())} blobs" in text


# --- diagnose, ensure, save -------------------------------------------------------------------------------


def test_pull_diagnose_ensure_and_save(shell: Shell, pause: Pause, registry: Registry) -> None:
    """After a pull like ctr's: diagnose reports, save is offline, and other platforms are fetched."""
    shell("pull", pause.name)
    registry.clear_requests()
    here = shell.json("diagnose", pause.name)
    assert here["complete"]
    assert [row["complete"] for row in here["platforms"]].count(True) == 1
    assert here["tools"]["pyctrd_save"]["fetch"] == []
    shell("save", "-o", "host.tar", pause.name)
    assert archived(shell.folder / "host.tar") <= shell.have()
    assert registry.requests() == []

    there = shell.json("diagnose", "--platform", FOREIGN, pause.name, code=4)
    wanted = layers_of(pause.graph, FOREIGN)
    row = next(row for row in there["platforms"] if row["platform"] == FOREIGN)
    assert {item["digest"] for item in row["missing"]} == wanted
    assert set(there["tools"]["pyctrd_save"]["fetch"]) == wanted
    assert registry.requests() == []

    everything = shell.json("diagnose", "--all-platforms", pause.name, code=4)
    assert (everything["targets"], everything["complete"]) == (["all"], False)
    assert all(row["target"] for row in everything["platforms"])

    plan = shell.json("ensure", "--dry-run", "--platform", FOREIGN, pause.name)
    assert {item["digest"] for item in plan["fetch"]} == wanted
    assert registry.requests() == []
    done = shell.json("ensure", "--platform", FOREIGN, pause.name)
    assert {item["digest"] for item in done["fetched"]} == wanted == registry.fetched()
    assert done["bytes"] == plan["bytes"] == sum(len(pause.graph.blobs[digest]) for digest in wanted)
    assert shell.json("diagnose", "--platform", FOREIGN, pause.name)["complete"]
    nothing = {"fetched": [], "bytes": 0, "resumed": [], "bytes_resumed": 0}
    assert shell.json("ensure", "--platform", FOREIGN, pause.name) == nothing


def test_dry_run_of_save_predicts_the_save(shell: Shell, pause: Pause, registry: Registry) -> None:
    shell("pull", pause.name)
    before = shell.have()
    registry.clear_requests()
    arguments = ("save", "--platform", f"{FOREIGN},{to_string(host())}", pause.name)
    plan = shell.json(*arguments, "--dry-run")
    assert (shell.have(), registry.requests()) == (before, [])
    text = shell(*arguments, "--dry-run").stdout.decode()
    assert all(item["digest"] in text for item in plan["fetch"])
    result = shell.json(*arguments, "-o", "both.tar")
    assert result["fetched"] == plan["fetch"]
    assert result["bytes_written"] == plan["archive_bytes"] == (shell.folder / "both.tar").stat().st_size
    assert archived(shell.folder / "both.tar") == set(plan["write"])


def test_ensure_all_fetches_what_old_nerdctl_fetches(shell: Shell, pause: Pause) -> None:
    shell("pull", pause.name)
    before = shell.have()
    predicted = shell.json("diagnose", pause.name)["tools"]["nerdctl_save_2_0_3"]["fetch"]
    shell("save", "--ensure", "all", "-o", "x.tar", pause.name)
    assert shell.have() == set(pause.graph.blobs)
    assert shell.have() - before == set(predicted)


def test_save_to_a_pipe(shell: Shell, pause: Pause) -> None:
    shell("pull", pause.name)
    done = shell("save", pause.name)
    shell("save", "-o", "file.tar", pause.name)
    assert done.stdout == (shell.folder / "file.tar").read_bytes()
    assert archived(done.stdout) <= shell.have()


def test_save_of_several_images_is_one_archive(shell: Shell, pause: Pause, registry: Registry) -> None:
    other = push(pause.graph, registry, f"other/{uuid.uuid4().hex[:8]}")
    for name in (pause.name, other):
        shell("pull", name)
    assert shell.json("save", "-o", "two.tar", pause.name, other)["images"] == [pause.name, other]
    with tarfile.open(shell.folder / "two.tar") as archive:
        index = archive.extractfile("index.json")
        assert index is not None
        listed = json.load(index)["manifests"]
    assert [item["annotations"]["io.containerd.image.name"] for item in listed] == [pause.name, other]


def test_ctr_loads_what_was_saved(shell: Shell, pause: Pause, namespace: str) -> None:
    shell("pull", pause.name)
    archive = shell.folder / "image.tar"
    shell("save", "-o", str(archive), pause.name)
    shell.containerd.ctr(
        "images", "import", "--platform", to_string(host()), archive, namespace=f"{namespace}-loaded"
    )
    loaded = Shell(shell.containerd, f"{namespace}-loaded", shell.folder)
    assert loaded.json("diagnose", pause.name)["complete"]


def test_offline_never_connects(shell: Shell, pause: Pause, registry: Registry) -> None:
    shell("pull", pause.name)
    before = shell.have()
    registry.clear_requests()
    for flags in (("--offline",), ("--ensure", "none")):
        done = shell("save", *flags, "--platform", FOREIGN, "-o", "x.tar", pause.name, code=4)
        words = done.stderr.decode()
        assert any(f"content digest {layer}: not found" in words for layer in layers_of(pause.graph, FOREIGN))
        assert f"missing: {FOREIGN}: {LAYER_COUNT} blobs, " in words
        assert "hint: " in done.stderr.decode()
    assert list(shell.folder.iterdir()) == []
    assert (shell.have(), registry.requests()) == (before, [])
    shell("save", "--offline", "-o", "x.tar", pause.name)
    assert registry.requests() == []


def test_a_terminal_gets_no_archive(shell: Shell, pause: Pause) -> None:
    shell("pull", pause.name)
    code, text = on_a_terminal(shell, "save", pause.name)
    assert code == 2
    assert "cowardly refusing to save to a terminal. Use the -o flag or redirect" in text


def test_a_closed_pipe_ends_a_save(shell: Shell, pause: Pause) -> None:
    shell("pull", pause.name)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = shell("save", pause.name, code=1, stdout=pipe, stderr=subprocess.PIPE)
    assert "Broken pipe" in done.stderr.decode()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("what", ["pull", "save"])
def test_an_interrupt_leaves_nothing_unfinished(
    shell: Shell, pause: Pause, registry: Registry, what: str, number: signal.Signals, code: int
) -> None:
    """The signal arrives while the registry stalls within a layer."""
    stuck = min(layers_of(pause.graph, FOREIGN))
    if what == "save":
        shell("pull", "--metadata-only", pause.name)
    fault = registry.add_fault(Fault(f"blobs/{stuck}", stall_after=10))
    arguments = {"pull": ("--no-unpack",), "save": ("-o", "x.tar")}[what]
    process = shell.start(what, *arguments, "--platform", FOREIGN, pause.name, stderr=subprocess.PIPE)
    try:
        assert fault.stalled.wait(30)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()  # has no effect if the process has ended
        process.communicate()
        fault.release.set()
    assert process.returncode == code, stderr.decode()
    assert "Traceback" not in stderr.decode()
    if number == signal.SIGINT:
        assert "run the same command again to resume" in stderr.decode()
    state = snapshot_of(shell.containerd, shell.namespace)
    if what == "pull":  # received data is kept for the next pull, for a day (test_kill.py)
        (lease,) = state["leases"].values()
        assert "containerd.io/gc.expire" in lease["labels"]
    else:
        assert state["leases"] == {}
    assert list(shell.folder.iterdir()) == []
    if what == "pull":
        assert state["images"] == {}


# --- lists ------------------------------------------------------------------------------------------------


def test_images_and_content_are_listed(shell: Shell, pause: Pause) -> None:
    assert shell("images", "-q").stdout == b""
    shell("pull", pause.name)
    state = snapshot_of(shell.containerd, shell.namespace)
    assert shell("images", "-q").stdout.decode().split() == [pause.name]
    assert shell("content", "ls", "-q").stdout.decode().split() == sorted(shell.have())
    [image] = shell.json("images")
    assert (image["name"], image["target"]["digest"]) == (pause.name, pause.graph.digest)
    assert image["labels"] == state["images"][pause.name]["labels"]
    blobs = {blob["digest"]: blob for blob in shell.json("content", "ls")}
    assert {digest: blob["labels"] for digest, blob in blobs.items()} == {
        digest: info["labels"] for digest, info in state["content"].items()
    }
    assert all(blob["size"] == len(pause.graph.blobs[digest]) for digest, blob in blobs.items())
    assert pause.graph.digest in shell("images", "--format", "wide").stdout.decode()
    assert pause.name in shell("images").stdout.decode()
    assert all(digest in shell("content", "ls").stdout.decode() for digest in blobs)


def test_images_are_found_by_digest(shell: Shell, pause: Pause) -> None:
    shell("pull", pause.name)
    encoded = pause.graph.digest.removeprefix("sha256:")
    for text in (pause.graph.digest, encoded, encoded[:12]):
        assert shell.json("diagnose", text)["image"] == pause.name


def test_version(shell: Shell) -> None:
    versions = shell.json("version")
    own = shell.containerd.ctr("version").stdout.decode()
    assert versions["containerd"]["version"] in own
    assert versions["pyctrd"] in shell("version").stdout.decode()


def test_completion_of_images_and_namespaces(shell: Shell, pause: Pause) -> None:
    shell("pull", pause.name)

    def complete(line: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", "from pyctrd.cli import main; main()"],
            env=shell.env
            | {"_PYCTRD_COMPLETE": "bash_complete", "COMP_LINE": line, "COMP_COMMAND": "pyctrd"},
            capture_output=True,
            check=True,
        )
        return done.stdout.decode().split()

    assert complete(f"pyctrd diagnose {pause.name[:5]}") == [f"plain,{pause.name}"]
    assert complete(f"pyctrd -n nothing-here diagnose {pause.name[:5]}") == []
    assert f"plain,{shell.namespace}" in complete("pyctrd images -n ")
    assert "plain,overlayfs" in complete("pyctrd pull --snapshotter over")


# --- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("images", "-a", "/nonexistent/c.sock"), 6, "/nonexistent/c.sock: no such file or directory"),
        (("diagnose", "not-here"), 3, 'image "not-here": not found'),
        (("ensure", "not-here"), 3, 'image "not-here": not found'),
        (("save", "-o", "x.tar", "not-here"), 3, 'image "not-here": not found'),
        (("pull", "in valid"), 2, "invalid reference format"),
        (("diagnose", "in valid"), 2, "invalid reference format"),
        (("pull", "--platform", "no/such/plat/form", "alpine"), 2, "cannot parse platform specifier"),
        (("images", "-n", "in valid"), 2, "invalid namespace"),
        (("pull", "127.0.0.1:1/nobody/there"), 5, "connection refused"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_errors_have_a_message_and_an_exit_code(
    shell: Shell, arguments: Sequence[str], code: int, words: str
) -> None:
    done = shell(*arguments, code=code)
    assert words in done.stderr.decode()
    assert done.stderr.decode().startswith("pyctrd: ")
    assert done.stdout == b""
    assert list(shell.folder.iterdir()) == []


def test_an_image_unknown_to_the_registry_exits_with_3(shell: Shell, registry: Registry) -> None:
    done = shell("pull", f"{registry.host}/never/pushed", code=3)
    assert "not found" in done.stderr.decode()


def test_a_registry_that_refuses_access_exits_with_5(shell: Shell, pause: Pause, registry: Registry) -> None:
    registry.add_fault(Fault("manifests/", methods=("GET", "HEAD"), status=401))
    shell("pull", pause.name, code=5)
    assert snapshot_of(shell.containerd, shell.namespace)["images"] == {}


def test_a_platform_that_the_image_lacks_exits_with_3(shell: Shell, pause: Pause) -> None:
    shell("pull", "--platform", "linux/riscv64", pause.name, code=3)
    assert shell("images", "-q").stdout == b""
    shell("pull", pause.name)
    for command in (["ensure"], ["ensure", "--dry-run"], ["save", "-o", "x.tar"], ["save", "--dry-run"]):
        done = shell(*command, "--platform", "linux/riscv64", pause.name, code=3)
        assert "linux/riscv64" in done.stderr.decode()
    shell("diagnose", "--platform", "linux/riscv64", pause.name, code=4)
    assert list(shell.folder.iterdir()) == []


# --- the library ------------------------------------------------------------------------------------------


def test_the_library_behaves_like_the_command_line(shell: Shell, pause: Pause) -> None:
    actions = set[str]()
    with Client(str(shell.containerd.address), shell.namespace) as client:
        pulled = client.images.pull(pause.name, progress=lambda event: actions.add(event.action))
        assert client.images.list() == (pulled.image,)
        assert client.images.get(pause.name) == pulled.image
        assert {info.digest for info in client.content.list()} == shell.have()
        assert not client.images.diagnose(pause.name, platforms=[FOREIGN]).complete
        plan = client.images.ensure(pause.name, platforms=[FOREIGN], dry_run=True)
        assert {item.digest for item in plan.fetched} == layers_of(pause.graph, FOREIGN)
        assert client.images.ensure(pause.name, platforms=[FOREIGN]).fetched == plan.fetched
        with (shell.folder / "x.tar").open("wb") as stream:
            written = client.images.save([pause.name], stream, platforms=["local"]).bytes_written
        planned = client.images.save([pause.name], platforms=["local"], dry_run=True)
        assert written == planned.bytes_written == (shell.folder / "x.tar").stat().st_size
        assert len(planned.platforms) == 2
    assert {"resolved", "downloading", "downloaded", "unpacked", "done"} <= actions
