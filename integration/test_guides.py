"""The pages of docs/howto/ and docs/explanation/: what they show is run on a real containerd and registry."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import docker
import pytest
import trustme
import yaml

import pyctrd
from integration.conftest import peer_required, run_required
from integration.guides import Machine, shows, steps
from integration.killing import SECONDS, comes_true
from integration.rig import peers
from integration.rig.containerd import Containerd
from integration.rig.cri import Node
from integration.rig.daemons import Certificate, Dockerd, Fault, Registry
from integration.rig.peers import NEWEST
from integration.rig.publish import push
from pyctrd import Client
from tests.support import images
from tests.support.images import Graph
from tests.support.pages import DOCS, FOLLOW, RUN_BY, Block, blocks, run_by

HOST: Final = "registry.example.com"
APP, API = f"{HOST}/team/app:1.4", f"{HOST}/team/api:2.1"
PAGES: Final = [page for page in RUN_BY if any(run_by(block) == FOLLOW for block in blocks(page))]
K3S: Final = "/run/k3s/containerd/containerd.sock"

pytestmark = pytest.mark.parametrize("generation", [NEWEST], indirect=True)


def image(seed: int) -> Graph:
    """Return an image of three platforms, each with layers of 8 and 1 MiB."""
    children = []
    for number, on in enumerate(("linux/amd64", "linux/arm64", "linux/arm/v7")):
        layers = [images.random_layer(mib << 20, seed=100 * seed + 10 * number + mib) for mib in (8, 1)]
        children.append(images.manifest(images.config(layers, on), layers, on=on))
    return images.index(children)


@pytest.fixture(scope="module")
def own_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with the two images of the pages, under their names."""
    with run_required(lambda: Registry(tmp_path_factory.mktemp("registry"))) as registry:
        push(image(1), registry, "team/app", "1.4")
        push(image(2), registry, "team/api", "2.1")
        yield registry


@pytest.fixture
def machine(fresh_containerd: Containerd, own_registry: Registry, tmp_path: Path) -> Machine:
    real = {HOST: own_registry.host, K3S: str(fresh_containerd.address)}
    machine = Machine(fresh_containerd, tmp_path, real)
    machine.real["/usr/local/bin/"] = f"{machine.programs}/"
    return machine


def pull(machine: Machine, name: str, namespace: str = "k8s.io") -> None:
    machine.run(f"pyctrd -n {namespace} pull -q {name}")


def pull_incomplete(machine: Machine, name: str, namespace: str = "k8s.io") -> None:
    """Pull the image of the API, and remove the layers that are unpacked."""
    pull(machine, name, namespace)
    layers = image(2).child(0).document()["layers"]
    for layer in layers:
        machine.containerd.ctr("content", "rm", layer["digest"], namespace=namespace)


def a_node(machine: Machine) -> None:
    """A node with a complete image and an incomplete one."""
    pull(machine, APP)
    pull_incomplete(machine, API)


def nerdctl(machine: Machine, version: str, name: str = "nerdctl") -> None:
    """Add a nerdctl to the machine."""
    with peer_required():
        program = peers.nerdctl(version)
    settings = machine.write("nerdctl.toml", f'data_root = "{machine.folder}/nerdctl"\n')
    machine.program(name, f'NERDCTL_TOML={settings} exec {program} "$@"')


def old_nerdctls(machine: Machine) -> None:
    for version in ("2.0.3", "2.0.4"):
        nerdctl(machine, version, f"nerdctl-{version}")


def a_node_of_k3s(machine: Machine) -> None:
    """The same with the registries' folder of k3s, which has no file for the registry."""
    a_node(machine)
    folder = machine.folder / "k3s"
    folder.mkdir()
    machine.real["/var/lib/rancher/k3s/agent/etc/containerd/certs.d"] = str(folder)


def an_image_of_kubernetes(machine: Machine) -> None:
    """The images of the page, which are another one here, and a place for their copies."""
    machine.real = {
        "docker.io/library/alpine:3.20": APP,
        "registry.k8s.io/pause:3.10": APP,
        "registry.example/": f"{HOST}/",
        **machine.real,
    }
    for namespace in ("default", "k8s.io"):
        pull(machine, APP, namespace)
        pull(machine, f"--all-platforms {APP}", namespace)


def a_node_without_a_terminal(machine: Machine) -> None:
    """Nobody answers what `prune` asks, so that it has to be given `--force`."""
    a_node(machine)
    command = f"exec {shlex.quote(sys.executable)} -m pyctrd"
    machine.program(
        "pyctrd", f'case "$*" in *--force* | *--dry-run*) {command} "$@" ;; esac\n{command} "$@" --force'
    )


def a_layer_to_remove(machine: Machine) -> None:
    """The digest of the layer that the reader removes."""
    layer = image(1).child(0).document()["layers"][0]["digest"]
    machine.real["sha256:f5588a497d4e"] = layer


# What has to be there before the commands of a page are run.
SETUPS: Final[Mapping[str, Callable[[Machine], None]]] = {
    "../README.md": a_node,
    "explanation/platforms.md": old_nerdctls,
    "howto/cron.md": a_node,
    "howto/migrate.md": a_node,
    "howto/nodes.md": a_node_of_k3s,
    "prune.md": a_node_without_a_terminal,
    "push.md": an_image_of_kubernetes,
    "start.md": a_layer_to_remove,
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_what_happens(machine: Machine, page: str) -> None:
    if prepare := SETUPS.get(page):
        prepare(machine)
    machine.follow(page)


def test_the_python_of_the_page_about_archives(machine: Machine) -> None:
    """docs/airgap.md: what a save since an archive, and a check for a machine with an inventory, do."""
    update = APP.replace(":1.4", ":1.5")
    pull(machine, APP, "default")
    machine.run(f"pyctrd copy -q {API} {update} && pyctrd pull -q {update}")
    machine.run(f"pyctrd save -q -o app.tar {APP} && pyctrd inventory --format json > edge1.json")
    since, check = [block.text for block in blocks("airgap.md") if block.language == "python"][:2]
    for text in (since, check):
        machine.write("program.py", f"import pyctrd\n{text}")
        assert machine.run("python3 program.py")


@pytest.mark.parametrize(
    ("page", "real", "same"),
    [
        ("sha256:c06e…  9 s", "sha256:c06ed498 1 min\n", True),
        ("fetched 2 blobs", "fetched 3 blobs\n", False),
        ("first\n…\nlast", "first\n1\n2\nlast\n", True),
        ("first\n…\nlast", "first\n1\n2\n", False),
        ("one … three", "one two three\n", True),
        ("one", "one\ntwo\n", False),
        ("one\ntwo", "one\n", False),
    ],
)
def test_a_page_is_compared(page: str, real: str, same: bool, generation: str) -> None:
    assert shows(tuple(page.splitlines()), real) is same


# --- explanation/pull.md ----------------------------------------------------------------------------------


def block_with(page: str, command: str) -> Block:
    """Return the console block of a page that has a command."""
    (found,) = (block for block in blocks(page) if f"$ {command}\n" in block.text and block.reason)
    return found


def test_while_a_pull_runs(machine: Machine, own_registry: Registry) -> None:
    base, _ = image(1).child(0).document()["layers"]
    fault = own_registry.add_fault(Fault(f"blobs/{base['digest']}", stall_after=4 << 20, times=1))
    with Client(str(machine.containerd.address)) as client, ThreadPoolExecutor(1) as pool:
        pulling = pool.submit(client.images.pull, machine.to_real(APP))
        try:
            assert fault.stalled.wait(SECONDS)
            # The blobs that are not stalled have been written, and one of them is being unpacked.
            assert comes_true(lambda: len(client.content.list()) == 8 and len(client.snapshots.list()) == 1)
            assert comes_true(lambda: [one.offset for one in client.content.ingests()] == [4 << 20])
            machine.check(block_with("explanation/pull.md", "pyctrd leases ls"))
        finally:
            fault.release.set()
        pulling.result(SECONDS)


def test_the_events_of_a_pull(machine: Machine) -> None:
    with Client(str(machine.containerd.address)) as client:
        with client.events.stream("topic~=^/(content|snapshot|images)/") as stream:
            client.images.pull(machine.to_real(APP))
            events = []
            for event in stream:
                events.append(event)
                if event.kind == "image":
                    break
        sizes = {str(blob.digest): blob.size for blob in client.content.list()}
    real = [f"{event.kind} {event.action}" for event in events]
    (step,) = steps(block_with("explanation/pull.md", "pyctrd events").text)
    page = [" ".join(line.split()[2:4]) for line in step.output]
    assert sorted(real) == sorted(page)
    # As the page says: the index, manifests, then their children; the record last.
    written = [str(event.payload["digest"]) for event in events if event.kind == "content" and event.payload]
    graph = image(1)
    manifests = [child["digest"] for child in graph.document()["manifests"]]
    assert written[0] == graph.digest
    assert set(written[1:4]) == set(manifests)
    assert set(written) == sizes.keys()
    assert real[-1] == "image create"
    assert [name for name in real if name == "snapshot commit"] == ["snapshot commit"] * 2


# --- the tables of howto/migrate.md -----------------------------------------------------------------------


NAMES: Final = {"REF": APP, "NAME": f"{HOST}/team/app:test", "REPO": f"{HOST}/team/app"}


def lines(tool: str) -> tuple[list[str], list[str]]:
    """Return the lines of a tool, and ours, of a table of the page."""
    text = (DOCS / "howto" / "migrate.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {tool}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    pairs = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", section, re.MULTILINE)
    assert len(pairs) == len(re.findall(r"^\| `", section, re.MULTILINE)) > 3, tool

    def full(line: str) -> str:
        return re.sub("|".join(NAMES), lambda found: NAMES[found[0]], line)

    if tool == "docker-py":
        return [theirs for theirs, _ in pairs], [ours for _, ours in pairs]
    return [full(theirs) for theirs, _ in pairs], [full(ours) for _, ours in pairs]


@pytest.mark.parametrize("tool", ["ctr", "nerdctl", "crictl"])
def test_lines_for_our_command_line(machine: Machine, tool: str) -> None:
    _, ours = lines(tool)
    for line in ours:
        assert line.startswith("pyctrd ")
        machine.run(line)


def test_lines_of_ctr(machine: Machine) -> None:
    for line in lines("ctr")[0]:
        machine.run(line)


def test_lines_of_nerdctl(machine: Machine) -> None:
    nerdctl(machine, "2.3.5")
    for line in lines("nerdctl")[0]:
        machine.run(line)


def test_lines_of_crictl(node: Node, own_registry: Registry) -> None:
    for line in lines("crictl")[0]:
        program, *words = shlex.split(line.replace(HOST, own_registry.host))
        assert program == "crictl"
        node.crictl(*words)


def test_lines_of_skopeo_and_tar(machine: Machine, own_registry: Registry) -> None:
    with peer_required():
        program = peers.tool("skopeo")
    insecure = machine.write("registries.conf", f'[[registry]]\nlocation = "{HOST}"\ninsecure = true\n')
    machine.program("skopeo", f'exec {program} --registries-conf {insecure} "$@"')
    pull(machine, APP, "default")
    machine.run(f"pyctrd save --index prune -o app.tar {APP}")
    theirs, ours = lines("skopeo and tar")
    for line in (*theirs, *ours):
        machine.run(line)


def test_lines_of_docker_and_docker_py(machine: Machine, dockerd: Dockerd) -> None:
    with peer_required():
        machine.program("docker", f'DOCKER_HOST={dockerd.address} exec {peers.tool("docker")} "$@"')
    theirs, ours = lines("docker")
    for line in (*theirs, *ours):
        machine.run(line)
    theirs, ours = lines("docker-py")
    with closing(docker.DockerClient(dockerd.address)) as client:
        evaluate(machine, theirs, {"client": client, "docker": docker})
    with Client(str(machine.containerd.address), "docker-py") as ours_client:
        evaluate(machine, ours, {"client": ours_client, "pyctrd": pyctrd})


def evaluate(machine: Machine, programs: list[str], names: dict[str, Any]) -> None:
    names |= {name: machine.to_real(value) for name, value in NAMES.items()}
    for line in programs:
        exec(line.replace("app.tar", str(machine.folder / "app.tar")), names)


# --- files that pages show --------------------------------------------------------------------------------


def files(page: str, language: str) -> dict[str, str]:
    """Return the files of a page, by their paths, which are in the first line of each."""
    found = [block.text for block in blocks(page) if block.language == language]
    return {text.splitlines()[0].removeprefix("# "): text for text in found}


def test_the_line_of_cron(machine: Machine) -> None:
    a_node(machine)
    line = files("howto/cron.md", "text")["/etc/cron.d/pyctrd"].splitlines()[-1]
    *when, user, command = line.split(maxsplit=6)
    assert (len(when), user) == (5, "root")
    assert machine.run(command, code=4) == f"{API}\n"
    machine.run("pyctrd -n k8s.io ensure --all")
    assert machine.run(command) == "", "no mail"


def test_the_units_of_systemd(machine: Machine) -> None:
    a_node(machine)
    units = {Path(path).name: text for path, text in files("howto/cron.md", "ini").items()}
    for name, text in units.items():
        machine.write(name, text)
    service = ConfigParser()
    service.read_string(units["pyctrd-check.service"])
    environment, command = service["Service"]["environment"], service["Service"]["execstart"]
    assert "pyctrd -n k8s.io ensure --all\n" in machine.run(f"{environment} {command}", code=4)
    if shutil.which("systemd-analyze"):
        machine.run(f"systemd-analyze verify --man=no ./{' ./'.join(units)}")


def test_the_pipelines(machine: Machine) -> None:
    github, gitlab = (
        yaml.safe_load(block.text) for block in blocks("howto/ci.md") if block.language == "yaml"
    )
    steps = [step["run"] for step in github["jobs"]["promote"]["steps"] if "run" in step]
    for script in (steps, gitlab["promote"]["script"]):
        install, command = script
        assert install.startswith("pip install ")
        machine.run(command)
        assert machine.run(f"pyctrd registry tags {HOST}/prod/app") == "1.4\n"


# --- howto/mirrors.md -------------------------------------------------------------------------------------


CERTS: Final = "/etc/containerd/certs.d"


def hosts_toml(machine: Machine, number: int) -> None:
    """Write one of the files of the page, where pyctrd finds it instead of those of this machine."""
    path, text = [
        (block.text.splitlines()[0].removeprefix("# "), block.text)
        for block in blocks("howto/mirrors.md")
        if block.language == "toml"
    ][number]
    folder = machine.folder / "certs.d"
    machine.real[CERTS] = str(folder)
    file = Path(machine.to_real(path))
    file.parent.mkdir(parents=True)
    file.write_text(machine.to_real(text))
    machine.program(
        "pyctrd", f'exec {shlex.quote(sys.executable)} -m pyctrd "$@" --hosts-dir {shlex.quote(str(folder))}'
    )


@pytest.fixture
def mirrored(machine: Machine, own_registry: Registry, tmp_path: Path) -> Iterator[Registry]:
    """A mirror that has the images, while the names of the images are those of the page."""
    with run_required(lambda: Registry(tmp_path / "mirror")) as mirror:
        push(image(1), mirror, "team/app", "1.4")
        machine.real = {f"https://{HOST}": own_registry.url, "https://mirror.example.com": mirror.url}
        own_registry.clear_requests()
        mirror.clear_requests()
        yield mirror


def test_a_mirror(machine: Machine, own_registry: Registry, mirrored: Registry) -> None:
    hosts_toml(machine, 0)
    machine.check(block_with("howto/mirrors.md", f"pyctrd registry explain {APP}"))
    assert len(mirrored.fetched()) == 9
    assert own_registry.requests() == []


def test_a_mirror_for_all_registries(machine: Machine, own_registry: Registry, mirrored: Registry) -> None:
    hosts_toml(machine, 1)
    machine.run(f"pyctrd pull -q {APP}")
    assert mirrored.fetched()
    assert own_registry.requests() == []


def test_only_the_mirror(machine: Machine, own_registry: Registry, mirrored: Registry) -> None:
    hosts_toml(machine, 2)
    machine.run(f"pyctrd pull -q {APP}")
    machine.run(f"pyctrd pull -q {API}", code=3)
    assert own_registry.requests() == []


def test_a_private_ca(machine: Machine, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    issued.private_key_pem.write_to_path(tmp_path / "server.key")
    certificate = Certificate(tmp_path / "server.pem", tmp_path / "server.key")
    with run_required(lambda: Registry(tmp_path / "registry", tls=certificate)) as registry:
        push(image(1), registry, "team/app", "1.4")
        machine.real = {HOST: registry.host}
        hosts_toml(machine, 3)
        file = Path(machine.to_real(f"{CERTS}/{HOST}/hosts.toml"))
        text = file.read_text()
        file.write_text(text.replace('ca = "ca.pem"\n', ""))
        machine.check(block_with("howto/mirrors.md", f"pyctrd pull {APP}    # exits with 5"))
        file.write_text(text)
        authority.cert_pem.write_to_path(file.with_name("ca.pem"))
        machine.run(f"pyctrd pull -q {APP}")
