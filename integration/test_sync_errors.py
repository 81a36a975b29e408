"""sync fails: every way in which ssh, sshd or the other containerd can refuse, as users see it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from integration.conftest import chosen, run_required
from integration.rig.daemons import OTHER_USER, Containerd, Sshd
from integration.rig.throttle import Throttle
from integration.shell import layers_of
from integration.syncing import HERE, MIB, After, Pair, big, client
from pyctrd import DaemonUnreachable
from tests.support import shapes

# For what does not depend on the generation of containerd.
on_newest = pytest.mark.parametrize("generation", chosen()[-1:], indirect=True, scope="session")


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
def test_no_socket_on_this_machine(pair: Pair, there_is: str) -> None:
    words = failing(pair, there_is, "unix:///nonexistent/c.sock")
    assert "cannot reach containerd at /nonexistent/c.sock: no such file or directory\n" in words
    assert "or pass its socket as the address to sync with" in words


@on_newest
def test_a_socket_without_a_listener(pair: Pair, there_is: str) -> None:
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
