"""How containerd's socket is found, and the errors if it is unusable. The problems are real, not mocked."""

from __future__ import annotations

import http.server
import os
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import pytest

from pyctrd.containerd import Daemon, address, version
from pyctrd.errors import DaemonUnreachable, InvalidInput
from tests.containerd.fake import FakeDaemon, fault, new_server, serve

NOBODY = 65534


def listening(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path.parent.mkdir(parents=True, exist_ok=True)
    server.bind(str(path))
    server.listen()
    return server


def failure(path: Path, environ: dict[str, str] | None = None) -> DaemonUnreachable:
    with pytest.raises(DaemonUnreachable) as caught:
        Daemon.connect(str(path), environ=environ or {})
    assert str(path) in caught.value.message
    return caught.value


@contextmanager
def http_server(path: Path, name: str) -> Iterator[None]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def version_string(self) -> str:
            return name

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def address_string(self) -> str:
            return "unix"

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a gRPC client hangs up when it is answered in HTTP/1

    server = Server(str(path), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("flag", "environ", "path"),
    [
        (None, {}, "/run/containerd/containerd.sock"),
        (None, {"CONTAINERD_ADDRESS": ""}, "/run/containerd/containerd.sock"),
        (None, {"CONTAINERD_ADDRESS": "/env.sock"}, "/env.sock"),
        ("/flag.sock", {"CONTAINERD_ADDRESS": "/env.sock"}, "/flag.sock"),
        ("unix:///flag.sock", {}, "/flag.sock"),
        ("unix:/flag.sock", {}, "/flag.sock"),
    ],
)
def test_the_flag_overrides_the_environment_and_the_environment_the_default_address(
    flag: str | None, environ: dict[str, str], path: str
) -> None:
    assert address.resolve_address(flag, environ) == path


def test_a_relative_address_is_made_absolute() -> None:
    assert address.resolve_address("a.sock", {}) == str(Path.cwd() / "a.sock")


def test_other_url_schemes_are_refused() -> None:
    with pytest.raises(InvalidInput, match="unsupported address") as caught:
        address.resolve_address("tcp://1.2.3.4:5", {})
    assert caught.value.exit_code == 2


def test_flags_override_the_environment_for_namespace_and_snapshotter() -> None:
    environ = {"CONTAINERD_NAMESPACE": "k8s.io", "CONTAINERD_SNAPSHOTTER": "native"}
    assert address.resolve_namespace(None, {}) == "default"
    assert address.resolve_namespace(None, environ) == "k8s.io"
    assert address.resolve_namespace("mine", environ) == "mine"
    assert address.resolve_snapshotter(None, {}) == ""
    assert address.resolve_snapshotter(None, environ) == "native"
    assert address.resolve_snapshotter("zfs", environ) == "zfs"


@pytest.mark.parametrize("name", ["a b", "a--b", "-a", "ä", "a" * 77, "a/b", "a\n"])
def test_an_invalid_namespace_is_refused_before_any_call(name: str) -> None:
    with pytest.raises(InvalidInput, match="invalid namespace"):
        address.resolve_namespace(name, {})


def test_sockets_of_other_products_are_found(tmp_path: Path, sockets: Path) -> None:
    runtime = sockets / "run/user/7/containerd-rootless"
    runtime.mkdir(parents=True)
    (runtime / "child_pid").write_text("123\n")
    paths = [
        "run/k3s/containerd/containerd.sock",
        "run/docker/containerd/containerd.sock",
        "run/k0s/containerd.sock",
        "var/snap/microk8s/common/run/containerd.sock",
        "proc/123/root/run/containerd/containerd.sock",
    ]
    held = [listening(sockets / path) for path in paths]
    (sockets / "run/containerd").mkdir()
    (sockets / "run/containerd/containerd.sock").touch()  # not a socket, so not found
    try:
        found = address.find_sockets({"XDG_RUNTIME_DIR": "/run/user/7"}, sockets)
    finally:
        for server in held:
            server.close()
    assert found == tuple(
        address.FoundSocket(owner, str(sockets / path))
        for owner, path in zip(["k3s or rke2", "docker", "k0s", "microk8s", "rootless"], paths, strict=True)
    )


def test_a_socket_with_two_names_is_found_once(sockets: Path) -> None:
    with closing(listening(sockets / "run/docker/containerd/containerd.sock")):
        (sockets / "var").mkdir()
        (sockets / "var/run").symlink_to("../run")
        assert len(address.find_sockets({}, sockets)) == 1


def test_a_missing_socket(sockets: Path) -> None:
    error = failure(sockets / "none.sock")
    assert error.message.endswith("none.sock: no such file or directory")
    assert "systemctl start containerd" in (error.hint or "")
    assert error.exit_code == 6


def test_the_hint_names_other_sockets(sockets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = address.FoundSocket("k3s or rke2", "/run/k3s/containerd/containerd.sock")
    monkeypatch.setattr(address, "find_sockets", lambda _environ: (other,))
    error = failure(sockets / "none.sock")
    assert "/run/k3s/containerd/containerd.sock (k3s or rke2)" in (error.hint or "")


def test_not_a_socket(sockets: Path) -> None:
    (sockets / "file").touch()
    assert failure(sockets / "file").message.endswith("it is not a socket")
    assert failure(sockets).message.endswith("it is not a socket")


def test_a_socket_without_a_server(sockets: Path) -> None:
    listening(sockets / "left.sock").close()
    error = failure(sockets / "left.sock")
    assert "connection refused" in error.message
    assert "start containerd" in (error.hint or "")


def test_a_datagram_socket(sockets: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as server:
        server.bind(str(sockets / "log.sock"))
        assert "not a stream socket" in failure(sockets / "log.sock").message


def test_a_path_that_is_too_long_for_a_socket(sockets: Path) -> None:
    long = sockets / ("x" * 120)
    server = listening(sockets / "s")
    (sockets / "s").rename(long)
    with closing(server):
        assert "too long" in failure(long).message


def test_no_permission(sockets: Path) -> None:
    path = sockets / "root.sock"
    sockets.chmod(0o755)
    with closing(listening(path)):
        path.chmod(0o600 if os.geteuid() == 0 else 0)
        was = os.geteuid()
        if was == 0:
            os.seteuid(NOBODY)  # root is not subject to permissions
        try:
            error = failure(path)
        finally:
            os.seteuid(was)
    assert error.message.endswith("permission denied")
    assert error.hint == "run as root"


@pytest.mark.parametrize(
    ("server", "text"),
    [("Docker/27.3.1 (linux)", "this is Docker's API"), ("nginx", "an HTTP server (nginx) answers there")],
)
def test_an_http_server(sockets: Path, server: str, text: str) -> None:
    with http_server(sockets / "http.sock", server):
        assert text in failure(sockets / "http.sock").message


def test_another_grpc_server(sockets: Path) -> None:
    server = new_server(sockets / "other.sock")
    server.start()
    try:
        assert "another gRPC server answers there" in failure(sockets / "other.sock").message
    finally:
        server.stop(grace=None).wait()


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b""])
def test_a_grpc_server_with_an_invalid_version(sockets: Path, garbage: bytes) -> None:
    answer: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(lambda *_: garbage)
    handler = grpc.method_handlers_generic_handler(
        "containerd.services.version.v1.Version", {"Version": answer}
    )
    server = new_server(sockets / "other.sock")
    server.add_generic_rpc_handlers((handler,))
    server.start()
    try:
        assert "its response to a version call is" in failure(sockets / "other.sock").message
    finally:
        server.stop(grace=None).wait()


def test_a_server_that_closes_connections(sockets: Path) -> None:
    def hang_up(server: socket.socket) -> None:
        while True:
            try:
                server.accept()[0].close()
            except OSError:
                return

    server = listening(sockets / "bad.sock")
    thread = threading.Thread(target=hang_up, args=(server,))
    thread.start()
    try:
        assert failure(sockets / "bad.sock").exit_code == 6
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def test_a_server_that_never_responds(sockets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(address, "_PROBE_SECONDS", 0.1)
    with closing(listening(sockets / "mute.sock")):
        error = failure(sockets / "mute.sock")
    assert "no answer within" in error.message


def test_a_containerd_that_refuses_the_version_call(sockets: Path) -> None:
    fake = FakeDaemon()
    fake.faults["Version"] = fault(grpc.StatusCode.PERMISSION_DENIED, "not for you")
    server = serve(sockets / "c.sock", fake)
    try:
        assert "PERMISSION_DENIED: not for you" in failure(sockets / "c.sock").message
    finally:
        server.stop(grace=None).wait()


def test_unusual_characters_in_the_path(sockets: Path) -> None:
    path = sockets / "a b%20?#ü.sock"
    fake = FakeDaemon()
    server = serve(sockets / "plain.sock", fake)
    (sockets / "plain.sock").rename(path)
    try:
        with Daemon.connect(str(path), environ={}) as daemon:
            assert daemon.version().version == "0.0.0-fake"
            assert daemon.address == str(path)
    finally:
        server.stop(grace=None).wait()
