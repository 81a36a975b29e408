"""The settings of the process."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

import grpc
import pytest

from pyctrd.cli import process

# Opens a channel, for which gRPC reads the names of its experiments.
CONNECT: Final = """
import os
from pyctrd.cli import process
process.tune_grpc()
import grpc
from pyctrd import Client
with Client("/nowhere/containerd.sock") as client:
    try:
        client.version()
    except Exception as error:
        print(type(error).__name__)
channel = grpc.insecure_channel("unix:/nowhere/containerd.sock")
channel.close()
"""


def test_the_release_is_found_without_importing_grpc() -> None:
    assert process.grpc_release() == tuple(map(int, grpc.__version__.split(".")[:2]))
    code = "import sys; from pyctrd.cli import process; process.tune_grpc(); assert 'grpc' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_grpc_knows_the_experiment() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "GRPC_EXPERIMENTS"}
    done = subprocess.run(
        [sys.executable, "-c", CONNECT], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("DaemonUnreachable\n", "")


@pytest.mark.parametrize("release", [(), (1, 999), (2, 0)])
def test_an_unknown_release_is_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch, release: tuple[int, ...]
) -> None:
    monkeypatch.delenv("GRPC_EXPERIMENTS", raising=False)
    monkeypatch.setattr(process, "grpc_release", lambda: release)
    process.tune_grpc()
    assert "GRPC_EXPERIMENTS" not in os.environ


def test_the_choice_of_the_user_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "grpc_release", lambda: (1, 80))
    monkeypatch.setenv("GRPC_EXPERIMENTS", "tcp_frame_size_tuning")
    process.tune_grpc()
    assert os.environ["GRPC_EXPERIMENTS"] == "tcp_frame_size_tuning"
