"""The manifests for Kubernetes: valid for its API, and their containers do their work with few rights."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from integration import manifests
from integration.conftest import peer_required
from integration.manifests import Kubelet, NodeFiles, pod_of, resources
from integration.pages import section
from integration.rig import peers
from integration.rig.daemons import Containerd, Dockerd, Registry
from integration.rig.peers import NEWEST
from integration.rig.process import Process, ending, free_port, tcp_answers, wait_until
from integration.rig.publish import push
from integration.shell import Shell
from pyctrd.version import __version__
from tests.support import shapes
from tests.support.images import Graph

NAMES = ("base", "overlays/k3s", "overlays/rke2", "overlays/host-network")
NAMESPACE = "k8s.io"


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> str:
    with peer_required():
        return manifests.write_schemas(tmp_path_factory.mktemp("schemas"))


@pytest.mark.parametrize("name", NAMES)
def test_the_api_accepts_the_manifests(schemas: str, name: str) -> None:
    with peer_required():
        found = manifests.validate(manifests.build(name), schemas)
    assert {one["status"] for one in found} == {"statusValid"}, found
    kinds = [one["kind"] for one in found]
    assert sorted(kinds) == ["ConfigMap", "CronJob", "CronJob", "DaemonSet", "Namespace", "NetworkPolicy"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("readOnlyRootFilesystem:", "readOnlyRootFileSystem:"),
        ("parallelism: 3", "parallelism: three"),
        ("restartPolicy: Never", "restartPolicies: Never"),
    ],
)
def test_a_mistake_in_a_manifest_is_found(schemas: str, before: str, after: str) -> None:
    with peer_required():
        text = manifests.build("base")
        found = manifests.validate(text.replace(before, after), schemas)
    assert before in text
    assert "statusInvalid" in {one["status"] for one in found}


@pytest.mark.parametrize("name", NAMES)
def test_pods_get_the_socket_and_little_else(name: str) -> None:
    with peer_required():
        found = resources(name)
    containerd = "/run/k3s/containerd" if name.endswith(("k3s", "rke2")) else "/run/containerd"
    for key in ("DaemonSet/diagnose", "CronJob/ensure", "CronJob/prune"):
        pod = pod_of(found[key])
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostPID", "hostIPC", "serviceAccountName"} & set(pod)
        assert ("hostNetwork" in pod) == (name == "overlays/host-network" and key == "CronJob/ensure")
        mounts = [mount for one in pod["containers"] for mount in one.get("volumeMounts", ())]
        assert {mount["name"] for mount in mounts if not mount.get("readOnly")} <= {"textfile"}
        images = {one["image"] for one in (*pod["containers"], *pod.get("initContainers", ()))}
        assert images == {f"pyctrd:{__version__}"}
        (socket,) = (one["hostPath"] for one in pod["volumes"] if one["name"] == "containerd")
        assert socket["path"] == containerd


class Node(NamedTuple):
    """A node with two images, one without a layer."""

    kubelet: Kubelet
    shell: Shell
    textfile: Path
    whole: str
    broken: str
    graph: Graph

    @property
    def lost(self) -> str:
        """The digest of the missing layer."""
        digest: str = self.graph.document()["layers"][0]["digest"]
        return digest


@pytest.fixture
def node(dockerd: Dockerd, registry: Registry, repository: str, tmp_path: Path) -> Iterator[Node]:
    with peer_required(), Containerd(NEWEST, tmp_path / "containerd") as daemon:
        folders = {name: tmp_path / name for name in ("textfile", "certs.d", "scripts")}
        for folder in folders.values():
            folder.mkdir()
        for name, text in resources("base")[config_map()]["data"].items():
            (folders["scripts"] / name).write_text(text)
        files = NodeFiles(
            {
                "/run/containerd": daemon.address.parent,
                "/var/lib/node_exporter/textfile_collector": folders["textfile"],
                "/etc/containerd/certs.d": folders["certs.d"],
            },
            {config_map().partition("/")[2]: folders["scripts"]},
            {
                "CONTAINERD_ADDRESS": f"/run/containerd/{daemon.address.name}",
                "LEAST": "0",
                "MOST": "0",
            },
        )
        shell = Shell(daemon, NAMESPACE, tmp_path)
        graph = shapes.single(layers=2, salt=repository)
        broken = push(graph, registry, f"{repository}/broken")
        whole = push(shapes.single(salt=f"{repository}w"), registry, f"{repository}/whole")
        for image in (broken, whole):
            shell("pull", image)
        found = Node(
            Kubelet(dockerd, f"pyctrd:{__version__}", files), shell, folders["textfile"], whole, broken, graph
        )
        daemon.ctr("content", "rm", found.lost, namespace=NAMESPACE)
        registry.clear_requests()
        yield found


def exported(folder: Path) -> list[str]:
    """Return the lines that the real node-exporter makes of the text files in a folder."""
    port = free_port()
    command: list[str | Path] = [
        peers.tool("node-exporter"),
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={folder}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    process = Process(command, folder.parent / "node-exporter.log")
    with ending(process):
        process.wait_until(lambda: tcp_answers(port), 30)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
    process.stop()
    return list(lines)


def logs(dockerd: Dockerd, name: str) -> str:
    return dockerd.docker("logs", name).stderr.decode()


def config_map() -> str:
    (name,) = (one for one in resources("base") if one.startswith("ConfigMap/"))
    return name


def test_diagnose_writes_the_log_and_the_metrics(node: Node, registry: Registry, dockerd: Dockerd) -> None:
    pod = pod_of(resources("base")["DaemonSet/diagnose"])
    (container,) = pod["containers"]
    file = node.textfile / "pyctrd.prom"
    with node.kubelet.running(pod, container) as name:
        wait_until(file.exists, 60, lambda: True, lambda: logs(dockerd, name))
        dockerd.docker("stop", "--time", "60", name)
        code = dockerd.docker("inspect", "--format", "{{.State.ExitCode}}", name).stdout.decode().strip()
        log = dockerd.docker("logs", name).stdout.decode()
    assert code == "0"
    found = {one["image"]: one for one in map(json.loads, log.splitlines())}
    assert (found[node.whole]["complete"], found[node.broken]["complete"]) == (True, False)
    lines = file.read_text().splitlines()
    assert "pyctrd_diagnose_exit_code 4" in lines
    assert 'pyctrd_images{namespace="k8s.io",complete="true"} 1' in lines
    assert 'pyctrd_images{namespace="k8s.io",complete="false"} 1' in lines
    (missing,) = (line for line in lines if line.startswith("pyctrd_image_missing_bytes{"))
    assert f'image="{node.broken}"' in missing
    assert missing.endswith(f" {len(node.graph.blobs[node.lost])}")
    assert {"node_textfile_scrape_error 0", "pyctrd_diagnose_exit_code 4"} <= set(exported(node.textfile))
    assert set(re.findall(r"pyctrd_\w+", section("howto/fleet.md", "Kubernetes"))) <= {
        *re.findall(r"^pyctrd_\w+", "\n".join(lines), re.MULTILINE),
        "pyctrd_textfile",  # the script
    }
    assert list(node.textfile.iterdir()) == [file]
    assert registry.requests() == []


def test_ensure_fetches_only_what_is_missing(node: Node, registry: Registry) -> None:
    pod = pod_of(resources("overlays/host-network")["CronJob/ensure"])
    (jitter,), (ensure,) = pod["initContainers"], pod["containers"]
    assert node.kubelet.run(pod, jitter).returncode == 0
    done = node.kubelet.run(pod, ensure)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["complete"] == 1
    for line in done.stderr.splitlines():
        json.loads(line)
    (request,) = registry.requests()
    assert (request.method, request.path.rpartition("/")[2]) == ("GET", node.lost)
    assert set(node.graph.blobs) <= node.shell.have()

    again = node.kubelet.run(pod, ensure)
    assert (again.returncode, json.loads(again.stdout)["complete"]) == (0, 2)
    assert len(registry.requests()) == 1


def test_prune_removes_unused_images_but_not_young_ones(node: Node, registry: Registry) -> None:
    pod = pod_of(resources("base")["CronJob/prune"])
    (jitter,), (prune,) = pod["initContainers"], pod["containers"]
    assert node.kubelet.run(pod, jitter).returncode == 0
    done = node.kubelet.run(pod, prune)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["images"] == []

    of_any_age = [word for word in prune["args"] if word not in ("--older-than", "30d")]
    assert len(of_any_age) == len(prune["args"]) - 2
    done = node.kubelet.run(pod, {**prune, "args": of_any_age})
    assert done.returncode == 0, done.stderr.decode()
    assert node.shell.have() == set()
    assert registry.requests() == []


def test_prometheus_accepts_the_alerts(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", section("howto/fleet.md", "Kubernetes"), re.DOTALL)
    rules = tmp_path / "rules.yaml"
    rules.write_text(text)
    with peer_required():
        promtool = peers.tool("promtool")
    subprocess.run([promtool, "check", "rules", rules], check=True, timeout=60)
