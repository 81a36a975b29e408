"""Run every command that prints JSON on a real containerd; the shell compares its output with the schema."""

from __future__ import annotations

import json
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from integration.bench import Bench
from integration.rig.peers import NEWEST
from integration.shell import Shell
from pyctrd.containerd import Daemon
from tests.support import schemas, shapes

pytestmark = pytest.mark.parametrize("generation", [NEWEST], indirect=True)


class Recorder:
    """Runs commands with `--format json` or `jsonl`, and remembers whose output matched a schema."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self.checked: set[str] = set()

    def __call__(self, command: str, *arguments: str, code: int = 0, also_lines: bool = False) -> str:
        words = command.split()
        name = "-".join(words)
        done = self._shell(*words, *arguments, "--format", "json", code=code).stdout.decode()
        schemas.check(name, json.loads(done))
        self.checked.add(name)
        if also_lines:
            lines = self._shell(*words, *arguments, "--format", "jsonl", code=code).stdout.splitlines()
            assert lines
            for line in lines:
                schemas.check(f"{name}.line", json.loads(line))
            self.checked.add(f"{name}.line")
        return done


def test_the_output_of_every_command_matches_its_schema(bench: Bench, shell: Shell, target: str) -> None:
    run = Recorder(shell)
    graph = shapes.five_platform(2, salt=uuid.uuid4().hex)
    name = bench.pull(graph)
    missing = json.loads(graph.blobs[graph.digest])["manifests"][1]["digest"]
    pushed = f"{name.partition('/')[0]}/{target}"
    images_of(run, shell, name)
    archives_of(run, shell, name)
    run("push", "--dry-run", name, pushed)
    run("push", name, pushed)
    run("copy", "--dry-run", name, f"{pushed}-copied")
    run("copy", name, f"{pushed}-copied")
    run("registry explain", name)
    run("registry tags", name.rpartition(":")[0])
    run("registry referrers", name)
    content_of(run, shell, name, graph.digest)
    run("sync", name, f"unix://{bench.containerd.address}?namespace={bench.namespace}-other")
    records_of(run, shell, name)
    events_of(run, shell, name)
    run("plugins", also_lines=True)
    run("version")
    run("doctor", code=_doctor(shell))
    run("content rm", "--force", missing)
    run("diagnose", "--all-platforms", name, code=4)
    run("ensure", "--all", "--all-platforms", "--dry-run")
    run("ensure", "--all", "--all-platforms")
    run("rm", "--dry-run", "--force", name)
    run("prune", "--unused", "--dry-run")
    run("unpin", name)
    run("rm", "--force", name)
    # A finding of doctor depends on the machine; tests/cli/test_doctor.py prints some.
    assert set(schemas.names()) - run.checked == {"doctor.line"}


def _doctor(shell: Shell) -> int:
    """Return the exit code of doctor: 1 if this machine has a problem."""
    with shell.start("doctor", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        return process.wait()


def images_of(run: Recorder, shell: Shell, name: str) -> None:
    """Run what changes and shows images, and the progress of it."""
    done = shell("pull", "--all-platforms", "--progress", "json", "--format", "json", name)
    for line in done.stderr.splitlines():
        schemas.check("progress.line", json.loads(line))
    assert done.stderr
    run.checked.add("progress.line")
    run("pull", name)
    run("unpack", name)
    run("tag", name, "example.test/new:1")
    run("pin", name)
    run("label", name, "a=b")
    run("diagnose", also_lines=True)
    run("diagnose", name, also_lines=True)
    run("ensure", name)
    run("ensure", "--dry-run", name)
    run("inspect", name)
    run("history", name, also_lines=True)
    run("inventory")
    run("verify", name)
    run("images", also_lines=True)
    run("why", name)
    run("usage", also_lines=True)


def archives_of(run: Recorder, shell: Shell, name: str) -> None:
    """Run what writes and reads archives."""
    file = str(shell.folder / "a.tar")
    run("save", "--dry-run", name)
    run("save", name, "-o", file)
    run("verify", file)
    run("inspect", file)
    run("load", "--dry-run", "-i", file)
    run("load", "-i", file)


def content_of(run: Recorder, shell: Shell, name: str, digest: str) -> None:
    """Run what handles blobs, unfinished writes and snapshots."""
    run("content fetch", name)
    run("content info", digest)
    run("content label", digest, "a=b")
    run("content ls", also_lines=True)
    tree = json.loads(run("snapshots tree", also_lines=True))
    run("snapshots ls", also_lines=True)
    run("snapshots usage", also_lines=True)
    top = tree[-1]["key"]
    shell.containerd.ctr("snapshots", "prepare", "spare", top, namespace=shell.namespace)
    run("snapshots mounts", "spare")
    run("snapshots rm", "spare")


def records_of(run: Recorder, shell: Shell, name: str) -> None:
    """Run what handles leases, unfinished writes and namespaces."""
    run("leases create", "--id", "spare")
    run("leases inspect", "spare")
    run("leases ls", also_lines=True)
    run("leases rm", "spare")
    other = f"{shell.namespace}-spare"
    run("namespaces create", other)
    run("namespaces label", other, "a=b")
    run("namespaces ls", also_lines=True)
    run("namespaces rm", other)
    with (
        Daemon.connect(str(shell.containerd.address), shell.namespace) as daemon,
        daemon.content.open_ingest("spare", digest=None, size=9) as ingest,
    ):
        ingest.write(b"1234")
    run("ingests ls", also_lines=True)
    run("ingests abort", "--all")


def events_of(run: Recorder, shell: Shell, name: str) -> None:
    """Cause events until one is printed: those from before the stream is open are not."""
    with (
        shell.start("events", "--format", "json", stdout=subprocess.PIPE) as process,
        ThreadPoolExecutor() as pool,
    ):
        assert process.stdout
        line = pool.submit(process.stdout.readline)
        while not line.done():
            shell("label", name, f"n={uuid.uuid4().hex}")
        process.terminate()
    schemas.check("events.line", json.loads(line.result()))
    run.checked.add("events.line")
