"""The programs in examples/, run as users run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from integration.conftest import peer_required
from integration.rig import peers
from integration.rig.peers import NEWEST
from integration.shell import REPOSITORY_ROOT

EXAMPLES = REPOSITORY_ROOT / "examples"


def run_pytest(
    folder: Path, *options: str, path: str = os.environ["PATH"]
) -> subprocess.CompletedProcess[str]:
    """Run the tests of the plugin's example."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        os.devnull,
        "-p",
        "no:cacheprovider",
        "-rs",
        *options,
    ]
    return subprocess.run(
        [*command, str(EXAMPLES / "pytest")],
        cwd=folder,
        env={
            **os.environ,
            "PATH": path,
            "TMPDIR": str(folder),
            "PYTHONPATH": str(REPOSITORY_ROOT),
            "PYTEST_ADDOPTS": "",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.mark.parametrize("depth", [0, 60])
def test_the_plugin_of_pytest(tmp_path: Path, depth: int) -> None:
    """Also where the folder for temporary files is too deep for a socket."""
    with peer_required():
        peer = peers.containerd(NEWEST)
    folder = tmp_path / ("d" * depth)
    folder.mkdir(exist_ok=True)
    done = run_pytest(
        folder,
        f"--containerd={peer.containerd}",
        "--containerd-required",
        path=peers.tool_environment(peer.bin_dir)["PATH"],
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
    assert not list(folder.glob("pyctrd-*"))


def test_the_plugin_without_a_containerd(tmp_path: Path) -> None:
    skipped = run_pytest(tmp_path, path=str(tmp_path))
    assert skipped.returncode == 0
    assert "4 skipped" in skipped.stdout
    assert "no containerd on PATH: pass --containerd" in skipped.stdout
    failed = run_pytest(tmp_path, "--containerd-required", path=str(tmp_path))
    assert failed.returncode == 1
    assert "4 errors" in failed.stdout


@pytest.mark.parametrize("program", ["/bin/false", "/nowhere/containerd"])
def test_the_plugin_says_why_containerd_does_not_start(tmp_path: Path, program: str) -> None:
    failed = run_pytest(tmp_path, f"--containerd={program}", "-x")
    assert failed.returncode == 1
    assert "containerd did not start" in failed.stdout or "there is no such program" in failed.stdout
