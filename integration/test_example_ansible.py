"""examples/ansible: the module, run by ansible-playbook on a real containerd."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from integration.bench import Bench
from integration.conftest import peer_required
from integration.rig import publish
from integration.rig.cache import entry
from integration.rig.debs import run
from integration.rig.peers import NEWEST
from integration.shell import REPOSITORY_ROOT
from tests.support import shapes

pytestmark = [
    pytest.mark.parametrize("generation", [NEWEST], indirect=True),
    pytest.mark.timeout(400),  # the first run downloads Ansible
]

FOLDER = REPOSITORY_ROOT / "examples" / "ansible"


def ansible() -> Path:
    """Return the folder of ansible-core, downloaded once."""

    def fill(folder: Path) -> None:
        run([sys.executable, "-m", "pip", "install", "-q", "--target", folder, "ansible-core>=2.17"])

    return entry(f"ansible/{sys.version_info[0]}.{sys.version_info[1]}", fill)


class Node:
    """Runs the playbook on this machine."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        with peer_required():
            self._program = ansible()
        self._folder = folder
        self._variables = {
            "address": str(bench.containerd.address),
            "containerd_namespace": bench.namespace,
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
        }

    def play(self, image: str, *options: str, code: int = 0, **variables: object) -> dict[str, Any]:
        """Return the result of the module."""
        values = json.dumps({**self._variables, "image": image, **variables})
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "ansible",
                "playbook",
                "-i",
                "node,",
                "-e",
                values,
                *options,
                FOLDER / "playbook.yml",
            ],
            cwd=self._folder,
            env={
                **os.environ,
                "PYTHONPATH": f"{self._program}:{REPOSITORY_ROOT}",
                "HOME": str(self._folder),
                "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_DEPRECATION_WARNINGS": "false",
                "LC_ALL": "C.UTF-8",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        output = done.stdout + done.stderr
        assert done.returncode == code, output
        if code:
            return {"output": output}
        (shown,) = re.findall(r"^ok: \[node\] => (\{$.*?^\})", done.stdout, re.MULTILINE | re.DOTALL)
        found: dict[str, Any] = json.loads(shown)["result"]
        return found


def test_the_module(bench: Bench, tmp_path: Path) -> None:
    node = Node(bench, tmp_path)
    graph = shapes.five_platform()
    name = publish.push(graph, bench.registry, bench.repository)

    def images() -> str:
        return bench.ctr("images", "ls", "-q").stdout.decode()

    assert node.play(name, "--check")["changed"]
    assert images() == ""
    first = node.play(name)
    assert (first["changed"], first["image"], first["digest"]) == (True, name, graph.digest)
    assert first["bytes"] > 0
    again = node.play(name)
    assert (again["changed"], again["missing_bytes"]) == (False, 0)

    layers = graph.child(0).document()["layers"]
    for layer in layers:
        bench.ctr("content", "rm", layer["digest"])
    assert node.play(name, "--check")["missing_bytes"] == sum(layer["size"] for layer in layers)
    completed = node.play(name)
    assert completed["changed"]
    assert completed["causes"]
    assert completed["bytes"] == completed["missing_bytes"] > 0

    assert node.play(name, platforms=["linux/arm64"])["bytes"] > 0
    assert not node.play(name, platforms=["linux/arm64"])["changed"]
    assert "has no plan9/amd64" in node.play(name, "--check", code=2, platforms=["plan9/amd64"])["output"]

    assert node.play(name, "--check", state="absent")["bytes"] > 0
    assert images() == f"{name}\n"
    assert node.play(name, state="absent")["changed"]
    assert images() == ""
    assert not node.play(name, state="absent")["changed"]

    failed = node.play(f"{name}-absent", code=2)
    assert "not found" in failed["output"]
