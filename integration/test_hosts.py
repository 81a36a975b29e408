"""Host configuration of registries, with the command line and real registries.

One containerd is enough: hosts do not depend on it. Each image has its own layers: namespaces share content.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme

from integration.conftest import peer_required
from integration.rig.daemons import Containerd
from integration.rig.peers import NEWEST
from integration.rig.proxy import Fault
from integration.rig.publish import push
from integration.rig.registry import HTPASSWD, PASSWORD, USER, Registry, basic
from integration.rig.tokens import TokenService
from integration.shell import REPOSITORY_ROOT, Shell
from tests.support import shapes
from tests.support.images import Graph

MIB = 1 << 20
NAME = "registry.test"
"""A registry that can be reached only with hosts.toml: the name does not exist."""
REFERENCE = f"{NAME}/team/app:latest"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    with peer_required(), Containerd(NEWEST, tmp_path_factory.mktemp("containerd")) as running:
        yield running


@pytest.fixture
def shell(daemon: Containerd, namespace: str, tmp_path: Path) -> Shell:
    return Shell(daemon, namespace, tmp_path)


@pytest.fixture
def graph(request: pytest.FixtureRequest) -> Graph:
    return image(request, 64 << 10)


def image(request: pytest.FixtureRequest, size: int) -> Graph:
    """Return an image of two layers that no other test uses."""
    return shapes.big(size, layers=2, seed=zlib.crc32(request.node.name.encode()))


class Start:
    """Starts registries with the test's image, and stops them after the test."""

    def __init__(self, graph: Graph, folder: Path, stack: ExitStack) -> None:
        self._graph = graph
        self._folder = folder
        self._stack = stack

    def __call__(self, name: str, graph: Graph | None = None, *, empty: bool = False, **how: Any) -> Registry:
        root = self._folder / name
        with peer_required():
            if "tls:" in str(how.get("config")) and not empty:
                with Registry(root) as plain:  # images are published over plain http
                    push(graph or self._graph, plain, "team/app")
                empty = True
            registry = self._stack.enter_context(Registry(root, **how))
            if not empty:
                push(graph or self._graph, registry, "team/app")
                registry.clear_requests()
        return registry


@pytest.fixture
def start(graph: Graph, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:
        yield Start(graph, tmp_path, stack)


class Certs(NamedTuple):
    """A --hosts-dir."""

    folder: Path

    def write(self, text: str, name: str = NAME) -> Path:
        here = self.folder / name
        here.mkdir(parents=True, exist_ok=True)
        (here / "hosts.toml").write_text(text)
        return here


@pytest.fixture
def certs(tmp_path: Path) -> Certs:
    return Certs(tmp_path / "certs.d")


def log_in(shell: Shell, host: str, password: str = PASSWORD) -> None:
    """Write Docker's config.json as `docker login` does."""
    folder = shell.folder / "docker"
    folder.mkdir(exist_ok=True)
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    shell.env["DOCKER_CONFIG"] = str(folder)


def pull(shell: Shell, certs: Certs, *more: str, code: int = 0) -> str:
    done = shell("pull", REFERENCE, "--hosts-dir", str(certs.folder), *more, code=code)
    return done.stderr.decode()


def assert_complete(shell: Shell, graph: Graph) -> None:
    assert set(graph.blobs) <= shell.have()
    check = shell.containerd.ctr("images", "check", namespace=shell.namespace).stdout.decode()
    assert f"{REFERENCE} " in check
    assert " complete " in check


def layers(graph: Graph) -> list[str]:
    return [entry["digest"] for entry in json.loads(graph.blobs[graph.digest])["layers"]]


# --- one registry -----------------------------------------------------------------------------------------


def test_plain_http(shell: Shell, certs: Certs, start: Start, graph: Graph) -> None:
    registry = start("plain")
    where = certs.write(f'server = "{registry.url}"\nskip-verify = false\n')
    words = pull(shell, certs)
    assert_complete(shell, graph)
    assert words.count(f"{where}/hosts.toml:2: unknown key 'skip-verify' has no effect") == 1
    assert {one.query for one in registry.requests()} == {f"ns={NAME}"}
    assert len(registry.requests()) == 1 + len(graph.blobs)


def test_basic_authentication(shell: Shell, certs: Certs, start: Start, graph: Graph) -> None:
    registry = start("locked", auth=HTPASSWD)
    certs.write(f'server = "{registry.url}"\n')
    log_in(shell, registry.host)
    pull(shell, certs)
    assert_complete(shell, graph)
    assert [one.status for one in registry.requests()] == [401] + [200] * (1 + len(graph.blobs))


@pytest.mark.parametrize("how", ["-u", "config"])
def test_credentials_of_a_registry_are_not_sent_to_its_configured_server(
    shell: Shell, certs: Certs, start: Start, how: str
) -> None:
    registry = start("locked", auth=HTPASSWD)
    certs.write(f'server = "{registry.url}"\n')
    log_in(shell, NAME)
    words = pull(shell, certs, *(["-u", f"{USER}:{PASSWORD}"] if how == "-u" else []), code=5)
    assert f"{registry.host}: no basic auth credentials" in words
    assert not any("authorization" in one.headers for one in registry.requests())


def test_a_token_server(shell: Shell, certs: Certs, start: Start, tmp_path: Path, graph: Graph) -> None:
    registry = start("tokens", config=TokenService(tmp_path / "keys", anonymous=False))
    certs.write(f'server = "{registry.url}"\n')
    words = pull(shell, certs, code=5)
    assert "incorrect username or password" in words
    log_in(shell, registry.host)
    registry.clear_requests()
    pull(shell, certs)
    assert_complete(shell, graph)
    asked = [one.path for one in registry.requests()]
    assert asked.count("/token") == 1


class Pems(NamedTuple):
    """The files of a private authority, a server and a client."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


@pytest.fixture
def pems(tmp_path: Path) -> Pems:
    authority = trustme.CA()
    files = Pems(*(tmp_path / f"{name}.pem" for name in Pems._fields))
    authority.cert_pem.write_to_path(files.authority)
    for issued, certificate, key in (
        (authority.issue_cert("127.0.0.1"), files.server, files.server_key),
        (authority.issue_cert("client@example.org"), files.client, files.client_key),
    ):
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
    return files


def require_clients(pems: Pems) -> str:
    """Configure docker-registry's own TLS, with client certificates required."""
    return f"""\
  tls:
    certificate: {pems.server}
    key: {pems.server_key}
    clientcas:
      - {pems.authority}
"""


@pytest.mark.parametrize("layout", ["pair", "one file", "docker"])
def test_tls_of_a_private_ca_with_client_certificates(
    shell: Shell, certs: Certs, start: Start, pems: Pems, graph: Graph, layout: str
) -> None:
    registry = start("secure", config=require_clients(pems))
    url = f"https://{registry.direct_host}"
    if layout == "docker":
        folder = certs.folder / registry.direct_host  # Docker's files apply to the registry itself
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(pems.authority.read_bytes())
        (folder / "client.cert").write_bytes(pems.client.read_bytes())
        (folder / "client.key").write_bytes(pems.client_key.read_bytes())
        name = f"{registry.direct_host}/team/app:latest"
        shell("pull", name, "--hosts-dir", str(certs.folder))
        assert set(graph.blobs) <= shell.have()
        return
    both = pems.client.with_name("both.pem")
    both.write_bytes(pems.client.read_bytes() + pems.client_key.read_bytes())
    client = f'[["{pems.client}", "{pems.client_key}"]]' if layout == "pair" else f'"{both}"'
    certs.write(f'server = "{url}"\nca = "{pems.authority}"\nclient = {client}\n')
    pull(shell, certs)
    assert_complete(shell, graph)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "certificate signed by unknown authority"),
        ('ca = "{authority}"', "certificate required"),
        ("skip_verify = true", "certificate required"),
    ],
)
def test_tls_without_the_required_settings(
    shell: Shell, certs: Certs, start: Start, pems: Pems, lines: str, message: str
) -> None:
    registry = start("secure", config=require_clients(pems), empty=True)
    text = lines.format(**pems._asdict())
    certs.write(f'server = "https://{registry.direct_host}"\n{text}\n')
    words = pull(shell, certs, code=5)
    assert message in words
    assert registry.direct_host in words
    assert shell.have() == set()


@pytest.mark.parametrize("spoken", ["https", "http"])
def test_an_http_url_with_tls_settings(
    shell: Shell, certs: Certs, start: Start, pems: Pems, graph: Graph, spoken: str
) -> None:
    """An http URL with TLS settings works with TLS and without."""
    tls = require_clients(pems).partition("    clientcas")[0] if spoken == "https" else ""
    registry = start("registry", config=tls)
    certs.write(f'server = "http://{registry.direct_host}"\nskip_verify = true\n')
    pull(shell, certs)
    assert_complete(shell, graph)


# --- mirrors ----------------------------------------------------------------------------------------------


def test_a_pull_through_mirror(shell: Shell, certs: Certs, start: Start, graph: Graph) -> None:
    upstream = start("upstream")
    mirror = start("mirror", empty=True, config=f"proxy:\n  remoteurl: {upstream.url}\n")
    certs.write(f'server = "{upstream.url}"\n[host."{mirror.url}"]\ncapabilities = ["pull", "resolve"]\n')
    pull(shell, certs)
    assert_complete(shell, graph)
    ours = [one for one in upstream.requests() if one.headers["user-agent"].startswith("pyctrd/")]
    assert ours == []
    assert upstream.fetched() >= set(layers(graph))
    assert {one.query for one in mirror.requests()} == {f"ns={NAME}"}
    assert len(mirror.requests()) == 1 + len(graph.blobs)


def test_a_mirror_that_may_not_resolve(shell: Shell, certs: Certs, start: Start, graph: Graph) -> None:
    upstream, mirror = start("upstream"), start("mirror")
    certs.write(f'server = "{upstream.url}"\n[host."{mirror.url}"]\ncapabilities = ["pull"]\n')
    pull(shell, certs)
    assert_complete(shell, graph)
    assert [one.method for one in upstream.requests()] == ["HEAD"]
    assert mirror.fetched() == set(graph.blobs)


def test_a_mirror_killed_half_way_through_a_layer(
    shell: Shell, certs: Certs, start: Start, request: pytest.FixtureRequest
) -> None:
    """The next host continues the layer at the byte reached, and serves the other layer completely."""
    graph = image(request, 40 * MIB)  # data in the sockets' buffers still arrives
    upstream, mirror = start("upstream", graph), start("mirror", graph)
    certs.write(f'server = "{upstream.url}"\n[host."{mirror.url}"]\n')
    stopped, after = layers(graph)
    fault = mirror.add_fault(Fault(f"/blobs/{stopped}", stall_after=2 * MIB))
    arguments = ("--max-concurrent-downloads", "1", "--hosts-dir", str(certs.folder))
    process = shell.start("pull", REFERENCE, *arguments, stderr=subprocess.PIPE)
    assert fault.stalled.wait(60)
    mirror.kill()
    _out, words = process.communicate(timeout=60)
    assert process.returncode == 0, words.decode()
    assert_complete(shell, graph)
    asked = [(one.path.rpartition("/")[2], one.range) for one in upstream.requests()]
    ranges = [text for digest, text in asked if digest == stopped]
    assert len(ranges) == 1
    start_byte = int(ranges[0].removeprefix("bytes=").removesuffix("-"))
    assert 2 * MIB <= start_byte < len(graph.blobs[stopped])
    assert (after, "") in asked or after in mirror.fetched()


def test_a_mirror_that_is_interrupted_again_and_again(
    shell: Shell, certs: Certs, start: Start, request: pytest.FixtureRequest
) -> None:
    """After two interruptions the next host continues; no byte is requested twice."""
    graph = image(request, 6 * MIB)
    upstream, mirror = start("upstream", graph), start("mirror", graph)
    certs.write(f'server = "{upstream.url}"\n[host."{mirror.url}"]\n')
    first, second = layers(graph)
    mirror.add_fault(Fault("/blobs/", cut_after=MIB))
    pull(shell, certs, "--max-concurrent-downloads", "1")
    assert_complete(shell, graph)
    for digest in (first, second):
        at_mirror = [one.range for one in mirror.requests() if one.path.endswith(digest)]
        at_upstream = [one.range for one in upstream.requests() if one.path.endswith(digest)]
        assert at_mirror == ["", f"bytes={MIB}-"]
        assert at_upstream == [f"bytes={2 * MIB}-"]


def test_a_mirror_and_the_registry_each_get_their_own_credentials(
    shell: Shell, certs: Certs, start: Start, graph: Graph
) -> None:
    """`-u` is for the reference's registry; the mirror has a password of its own, in config.json."""
    registry, mirror = start("registry", auth=HTPASSWD), start("mirror", auth=HTPASSWD)
    name = f"{registry.host}/team/app:latest"
    certs.write(f'server = "{registry.url}"\n[host."{mirror.url}"]\ncapabilities = ["pull"]\n', registry.host)
    log_in(shell, mirror.host)
    shell("pull", name, "--hosts-dir", str(certs.folder), "-u", f"{USER}:{PASSWORD}")
    assert set(graph.blobs) <= shell.have()
    assert mirror.fetched() == set(graph.blobs)
    log_in(shell, mirror.host, "wrong")
    mirror.clear_requests()
    shell(
        "pull",
        name,
        "--hosts-dir",
        str(certs.folder),
        "-u",
        f"{USER}:{PASSWORD}",
        "-n",
        f"{shell.namespace}-2",
    )
    given = {one.headers.get("authorization") for one in mirror.requests()}
    assert given <= {None, basic(USER, "wrong")}


# --- compared with ctr ------------------------------------------------------------------------------------

EVERYTHING = [Fault("/v2/", methods=("GET", "HEAD"), status=404)]
ORACLE: Mapping[str, tuple[str, list[Fault]]] = {
    "a good mirror": ("", []),
    "a mirror that may only pull": ('capabilities = ["pull"]', []),
    "a mirror without the image": ("", EVERYTHING),
    "a mirror without the layers": ("", [Fault("/blobs/", status=404)]),
    "a mirror that is broken": ("", [Fault("/v2/", methods=("GET", "HEAD"), status=500)]),
    "a mirror that refuses": ("", [Fault("/v2/", methods=("GET", "HEAD"), status=403)]),
    "a mirror that has a path": ("override_path = true", []),
    "headers": ('header = {x-one = "1", x-two = ["2", "3"]}', []),
}


@pytest.mark.parametrize("case", ORACLE)
def test_every_host_gets_the_same_requests_as_from_ctr(
    shell: Shell, certs: Certs, start: Start, daemon: Containerd, tmp_path: Path, case: str
) -> None:
    lines, faults = ORACLE[case]
    upstream, mirror = start("upstream"), start("mirror")
    url = f"{mirror.url}/v2" if "override" in lines else mirror.url
    certs.write(f'server = "{upstream.url}"\n[host."{url}"]\n{lines}\n')
    for fault in faults:
        mirror.add_fault(fault)

    def seen() -> list[set[tuple[str, str, str, str, bool]]]:
        found = [
            {
                (one.method, one.path, one.query, one.headers.get("x-one", ""), "x-two" in one.headers)
                for one in registry.requests()
            }
            for registry in (upstream, mirror)
        ]
        upstream.clear_requests()
        mirror.clear_requests()
        return found

    with Containerd(NEWEST, tmp_path / "other") as other:  # namespaces share content, daemons do not
        other.ctr("images", "pull", "--local", "--hosts-dir", certs.folder, REFERENCE, namespace="ctr")
    theirs = seen()
    pull(shell, certs)
    ours = seen()
    assert ours == theirs


# --- the default directories ------------------------------------------------------------------------------

# Only this process sees the files: in a mount namespace, an overlay adds the configuration to /etc.
WITH_ETC = 'mount -t overlay overlay -o "lowerdir=$0:/etc" /etc && exec "$@"'


def with_etc(folder: Path, *command: str) -> list[str]:
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", WITH_ETC, str(folder), *command]


@pytest.mark.parametrize("tool", ["containerd", "docker"])
def test_the_default_directories(shell: Shell, start: Start, tmp_path: Path, graph: Graph, tool: str) -> None:
    registry = start("plain")
    etc = tmp_path / "etc"
    Certs(etc / tool / "certs.d").write(f'server = "{registry.url}"\n')
    if tool == "containerd":  # the second directory is then not used
        Certs(etc / "docker" / "certs.d").write('server = "http://127.0.0.1:1"\n')
    command = with_etc(etc, sys.executable, "-m", "pyctrd", "pull", REFERENCE)
    done = subprocess.run(command, env=shell.env, check=False, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert_complete(shell, graph)


# Only root may be able to read Python and the sources, so modules are imported before the user is changed.
AS_NOBODY = """
import importlib, os, pkgutil, sys
import ctypes, difflib, encodings.idna, tomllib
import pyctrd
for module in pkgutil.walk_packages(pyctrd.__path__, "pyctrd."):  # Python may be in a folder of root's
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
from pyctrd.cli import main
sys.argv = ["pyctrd", *sys.argv[1:]]
main()
"""


def explain(etc: Path, *options: str, user: str = "", **environ: str) -> Any:
    program = ["-c", AS_NOBODY] if user else ["-m", "pyctrd"]
    words = [sys.executable, *program, "registry", "explain", REFERENCE, "--format", "json", *options]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY_ROOT), "HOME": "/nonexistent", **environ}
    done = subprocess.run(with_etc(etc, *words), env=env, check=False, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A world-readable directory: pytest's are readable only for their owner."""
    with tempfile.TemporaryDirectory(prefix="pyctrd-hosts-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_directories_of_the_user_precede_those_of_the_system(open_folder: Path) -> None:
    etc, home = open_folder / "etc", open_folder / "home"
    system = ["/etc/containerd/certs.d", "/etc/docker/certs.d"]
    own = [f"{home}/.config/containerd/certs.d", f"{home}/.config/docker/certs.d"]
    Certs(etc / "containerd" / "certs.d").write('server = "https://of-the-system"\n')
    found = explain(etc, HOME=str(home))
    assert [item["path"] for item in found["directories"]] == system
    found = explain(etc, user="nobody", HOME=str(home))
    assert [item["path"] for item in found["directories"]] == [*own, *system]
    assert [item["state"] for item in found["directories"]] == ["absent", "absent", "used", "not reached"]
    assert found["hosts"][0]["origin"] == "/etc/containerd/certs.d/registry.test/hosts.toml:1"
    Certs(home / ".config" / "docker" / "certs.d").write('server = "https://of-mine"\n')
    found = explain(etc, user="nobody", HOME=str(home))
    assert [item["url"] for item in found["hosts"]] == ["https://of-mine/v2"]
    # A system directory that the user may not read is skipped, with a warning.
    (home / ".config" / "docker" / "certs.d" / NAME / "hosts.toml").unlink()
    (home / ".config" / "docker" / "certs.d" / NAME).rmdir()
    (etc / "containerd" / "certs.d").chmod(0o700)
    found = explain(etc, user="nobody", HOME=str(home))
    assert found["directories"][2]["state"] == "not readable"
    assert "permission denied" in found["notices"][0]


def test_explain_needs_no_containerd_and_no_network(tmp_path: Path, certs: Certs) -> None:
    """In a network namespace where even the loopback device is down."""
    certs.write('server = "https://10.0.0.1"\n[host."http://127.0.0.1:5000"]\n')
    words = [sys.executable, "-m", "pyctrd", "-a", "/nonexistent.sock", "registry", "explain", REFERENCE]
    done = subprocess.run(
        ["unshare", "--net", *words, "--hosts-dir", str(certs.folder)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY_ROOT), "HOME": str(tmp_path)},
        check=True,
        capture_output=True,
        timeout=60,
    )
    text = done.stdout.decode()
    assert "\n1. http://127.0.0.1:5000/v2  (for registry.test)\n" in text
    assert "\n2. https://10.0.0.1/v2  (for registry.test)\n" in text
