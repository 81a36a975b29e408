"""Every printed command works in a shell as it is, and fixes the problem."""

from __future__ import annotations

import json
import lzma
import os
import re
import stat
import subprocess
import sys
import uuid
from pathlib import Path

import msgspec
import pytest

from integration.rig.daemons import Containerd, Registry
from integration.rig.publish import push
from integration.shell import REPOSITORY_ROOT, Pause, Shell, archived, layers_of
from pyctrd.containerd import Daemon
from pyctrd.oci.platforms import host, to_string
from tests.support import shapes

pytestmark = pytest.mark.two_generations

HOST = to_string(host())
FOREIGN = "linux/s390x"


@pytest.fixture
def shell(containerd: Containerd, namespace: str, tmp_path: Path) -> Shell:
    """A shell with an empty environment: printed commands must have the options of the run."""
    made = Shell(containerd, namespace, tmp_path)
    del made.env["CONTAINERD_ADDRESS"], made.env["CONTAINERD_NAMESPACE"]
    programs = tmp_path / "bin"
    programs.mkdir()
    script = programs / "pyctrd"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m pyctrd "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (programs / "ctr").symlink_to(containerd.peer.ctr)
    made.env["PATH"] = f"{programs}:{os.environ['PATH']}"
    made.env["PYTHONPATH"] = str(REPOSITORY_ROOT)
    return made


@pytest.fixture
def pause(registry: Registry, repository: str) -> Pause:
    graph = shapes.five_platform(2, salt=uuid.uuid4().hex)
    return Pause(graph, push(graph, registry, repository))


def told(shell: Shell, *arguments: str, code: int) -> str:
    """Run in the test's namespace; return the output."""
    done = shell("-a", str(shell.containerd.address), "-n", shell.namespace, *arguments, code=code)
    return (done.stdout + done.stderr).decode()


def commands(text: str) -> list[str]:
    """Find the printed commands: at the end of a hint, or on a line of their own."""
    return re.findall(r"(?:^hint: (?:.*: )?|^ +\$ )((?:pyctrd|ctr) .*)$", text, re.MULTILINE)


def run(shell: Shell, command: str, *, code: int = 0) -> str:
    done = subprocess.run(
        ["bash", "--norc", "-c", command],
        env=shell.env,
        cwd=shell.folder,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == code, f"{command}\n{done.stderr.decode()}"
    return done.stdout.decode()


def only(text: str) -> str:
    found = commands(text)
    assert len(found) == 1, text
    return found[0]


def test_the_ensure_command_of_a_diagnosis(shell: Shell, pause: Pause) -> None:
    told(shell, "pull", "-q", pause.name, code=0)
    for form in ("table", "markdown", "json"):
        text = told(shell, "diagnose", "--platform", FOREIGN, "--format", form, pause.name, code=4)
        found = commands(text)
        if form == "json":
            found = [cause["remedy"] for cause in json.loads(text)["causes"]]
        elif form == "markdown":
            found = re.findall(r"^ +(pyctrd .*)$", text, re.MULTILINE)
        assert found
        assert all(f"-n {shell.namespace} ensure" in command for command in found)
    run(shell, next(command for command in found if FOREIGN in command))
    assert layers_of(pause.graph, FOREIGN) <= shell.have()
    told(shell, "diagnose", "--platform", FOREIGN, pause.name, code=0)


def test_the_ensure_command_of_an_offline_save_and_of_a_push(shell: Shell, pause: Pause) -> None:
    told(shell, "pull", "-q", pause.name, code=0)
    save = ("save", "-o", "x.tar", "--offline", "--platform", FOREIGN, pause.name)
    run(shell, only(told(shell, *save, code=4)))
    told(shell, *save, code=0)
    run(shell, only(told(shell, "push", pause.name, code=4)))
    told(shell, "push", pause.name, code=0)


def test_the_save_command_for_an_available_platform(shell: Shell, pause: Pause) -> None:
    told(shell, "pull", "-q", pause.name, code=0)
    text = told(shell, "save", "-o", "it's.tar", "--platform", "linux/riscv64", pause.name, code=3)
    run(shell, only(text))
    assert layers_of(pause.graph, HOST) <= archived(shell.folder / "it's.tar")


def test_the_platform_option_of_a_pull(shell: Shell, pause: Pause) -> None:
    text = told(shell, "pull", "--platform", "linux/riscv64", pause.name, code=3)
    option = re.search(r"^hint: .*: (--platform \S+)$", text, re.MULTILINE)
    assert option
    told(shell, "pull", "-q", *option[1].split(), pause.name, code=0)


def test_the_pull_and_list_commands_for_an_unknown_image(shell: Shell, pause: Pause) -> None:
    run(shell, only(told(shell, "diagnose", pause.name, code=3)))
    assert run(shell, only(told(shell, "diagnose", "0123456789ab", code=3))).count(pause.name) == 1


def test_the_repair_command_for_damaged_content(
    fresh_containerd: Containerd, shell: Shell, pause: Pause, registry: Registry, repository: str
) -> None:
    shell.containerd = fresh_containerd
    told(shell, "pull", "-q", "--no-unpack", pause.name, code=0)
    layer = min(layers_of(pause.graph, HOST))
    blobs = fresh_containerd.root / "root/io.containerd.content.v1.content/blobs/sha256"
    file = blobs / layer.removeprefix("sha256:")

    # Another name of the registry's host, so that blobs cannot be mounted.
    elsewhere = f"localhost:{registry.host.rpartition(':')[2]}/{repository}-copy"

    def damage() -> None:
        data = file.read_bytes()
        file.chmod(0o644)
        file.write_bytes(bytes([data[0] ^ 1]) + data[1:])

    for arguments, code in (
        (("save", "-o", "x.tar", pause.name), 1),
        (("push", pause.name, elsewhere, "--platform", HOST), 1),
        (("verify", pause.name), 4),
        (("verify",), 4),
    ):
        damage()
        command = only(told(shell, *arguments, code=code))
        assert " verify --repair" in command
        run(shell, command)
        told(shell, "verify", pause.name, code=0)


def test_the_command_to_remove_damaged_content_without_an_image(
    fresh_containerd: Containerd, shell: Shell, pause: Pause
) -> None:
    shell.containerd = fresh_containerd
    blobs = fresh_containerd.root / "root/io.containerd.content.v1.content/blobs/sha256"
    fresh_containerd.ctr(
        *("content", "ingest", "--expected-size", "5", "orphan"), namespace=shell.namespace, stdin=b"alone"
    )
    (orphan,) = shell.have()
    file = blobs / orphan.removeprefix("sha256:")
    file.chmod(0o644)
    file.write_bytes(b"other")
    run(shell, only(told(shell, "verify", code=4)))
    assert shell.have() == set()


def test_the_commands_that_list_what_was_meant(shell: Shell, pause: Pause) -> None:
    told(shell, "pull", pause.name, code=0)
    layer = min(layers_of(pause.graph, HOST))
    snapshot = told(shell, "snapshots", "ls", "-q", code=0).split()[0]
    cases = (
        (("content", "info", "nothing"), 2, pause.graph.digest),
        (("content", "info", "sha256:0123456789abcdef"), 3, pause.graph.digest),
        (("leases", "rm", "nothing"), 3, "ID"),
        (("ingests", "abort", "nothing"), 3, "REF"),
        (("namespaces", "rm", "nothing"), 3, shell.namespace),
        (("namespaces", "rm", shell.namespace), 1, pause.name),
        (("snapshots", "mounts", snapshot), 1, snapshot),
    )
    for arguments, code, shown in cases:
        assert shown in run(shell, only(told(shell, *arguments, code=code))), arguments
    assert only(told(shell, "content", "read", layer, code=1)).endswith(f"content get {layer}")


def test_the_command_for_the_namespace_that_has_the_image(shell: Shell, pause: Pause) -> None:
    address = ("-a", str(shell.containerd.address))
    empty = f"{shell.namespace}-empty"
    told(shell, "pull", "-q", pause.name, code=0)
    for name in (pause.name, pause.name.rpartition(":")[0]):
        done = shell(*address, "-n", empty, "diagnose", name, code=3)
        words = done.stderr.decode()
        assert f"it is in the namespace {shell.namespace}: -n {shell.namespace}\n" in words
        assert shell(*address, *words.split()[-2:], "diagnose", name).returncode == 0
    done = shell(*address, "-n", empty, "images")
    words = done.stderr.decode()
    assert f"no images in namespace {empty}" in words
    assert shell.namespace in words
    assert run(shell, only(words))
    assert shell(*address, "-n", empty, "images", "-q").stderr == b""


@pytest.mark.parametrize("ending", ["tar.xz", "TAR.XZ"])
def test_an_archive_that_would_not_be_compressed(shell: Shell, pause: Pause, ending: str) -> None:
    told(shell, "pull", "-q", pause.name, code=0)
    text = told(shell, "save", "-o", f"a b.{ending}", pause.name, code=0)
    assert f"a b.{ending} will be an uncompressed tar" in text
    archive = shell.folder / f"a b.{ending}"
    plain = archive.read_bytes()
    run(shell, only(text))
    assert lzma.decompress(archive.read_bytes()) == plain


def test_a_hostile_name_is_not_executed(shell: Shell, pause: Pause) -> None:
    told(shell, "pull", "-q", pause.name, code=0)
    hostile = "zz/$(touch pwned)\u200b`id`;'x"
    with Daemon.connect(str(shell.containerd.address), shell.namespace) as daemon:
        daemon.images.create(msgspec.structs.replace(daemon.images.get(pause.name), name=hostile))
    save = ("save", "-o", "x.tar", "--offline", "--platform", FOREIGN, hostile)
    run(shell, only(told(shell, *save, code=4)))
    assert layers_of(pause.graph, FOREIGN) <= shell.have()
    assert not list(shell.folder.rglob("pwned"))
