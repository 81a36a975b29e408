"""`pyctrd doctor` on a real containerd: what it finds, and that what it advises helps."""

from __future__ import annotations

import datetime as dt
import json
import os
import shlex
import subprocess
import tarfile
from pathlib import Path

import pytest

from integration.conftest import chosen
from integration.rig.containerd import Containerd
from integration.rig.cri import NAMESPACE, Node
from integration.rig.daemons import Registry
from integration.rig.publish import push
from integration.rig.relay import Relay
from integration.shell import Shell
from pyctrd.containerd import Daemon
from pyctrd.hostfacts import HostFacts
from pyctrd.oci.resources import LeaseResource
from pyctrd.operations.doctor import doctor
from pyctrd.operations.doctor.model import DoctorFinding
from tests.support import shapes

# What doctor looks at is the same on all generations; what it reads from the machine is tried on two.
newest = pytest.mark.parametrize("generation", [chosen()[-1]], indirect=True, scope="session")
GC_LAYER = "containerd.io/gc.ref.content.l.0"
DAY = dt.timedelta(days=1)


class Patient:
    """A containerd with a registry, examined in this process and treated by the command line."""

    def __init__(self, containerd: Containerd, registry: Registry, repository: str, folder: Path) -> None:
        self.containerd = containerd
        self.registry = registry
        self.repository = repository
        self.shell = Shell(containerd, "default", folder)

    def pull(self, namespace: str = "default", salt: str = "") -> str:
        """Pull an image with two layers from the registry."""
        name = push(shapes.single(salt=f"{self.repository}{salt}"), self.registry, self.repository)
        self.shell("-n", namespace, "pull", name)
        return name

    def daemon(self, namespace: str = "default") -> Daemon:
        return Daemon.connect(str(self.containerd.address), namespace)

    def look(
        self, check: str, *, ahead: dt.timedelta = dt.timedelta(), address: Path | None = None
    ) -> tuple[DoctorFinding, ...]:
        """Make one check, which must be possible, at a time that may be in the future."""
        path = str(address or self.containerd.address)
        with Daemon.connect(path, "default") as daemon:
            now = dt.datetime.now(dt.UTC) + ahead
            report = doctor(daemon, HostFacts(path, dict(os.environ)), now=now, only=[check])
        assert report.skipped == ()
        return report.findings

    def treat(self, finding: DoctorFinding) -> None:
        """Run the command that a finding advises."""
        assert finding.remedy.commands
        data = b""
        for words in finding.remedy.commands:
            if words[0] == "pyctrd":
                data = self._pyctrd(words[1:], data)
            else:
                subprocess.run(words, check=True)

    def _pyctrd(self, words: tuple[str, ...], data: bytes) -> bytes:
        source = self.shell.folder / "input"
        source.write_bytes(data)
        with source.open("rb") as stdin:
            return self.shell(*words, stdin=stdin).stdout


@pytest.fixture
def patient(fresh_containerd: Containerd, registry: Registry, repository: str, tmp_path: Path) -> Patient:
    return Patient(fresh_containerd, registry, repository, tmp_path)


# --- records ----------------------------------------------------------------------------------------------


@newest
def test_leases_that_nobody_needs(patient: Patient) -> None:
    soon = (dt.datetime.now(dt.UTC) + DAY / 2).strftime("%Y-%m-%dT%H:%M:%SZ")
    with patient.daemon() as daemon:
        daemon.leases.create("over", {"containerd.io/gc.expire": soon})
        daemon.leases.create("forever", {})
    assert patient.look("leases") == ()
    endless, expired = patient.look("leases", ahead=2 * DAY)
    assert (endless.code, expired.code) == ("lease-without-expiry", "lease-expired")
    patient.treat(endless)
    patient.treat(expired)
    assert patient.look("leases", ahead=2 * DAY) == ()


@newest
def test_a_write_that_nobody_continues(patient: Patient) -> None:
    with patient.daemon() as daemon, daemon.content.open_ingest("half", digest=None, size=10) as ingest:
        ingest.write(b"half")
    assert patient.look("ingests") == ()
    (found,) = patient.look("ingests", ahead=DAY / 2)
    assert found.evidence[0].startswith("half: 4 B")
    patient.treat(found)
    assert patient.look("ingests", ahead=DAY / 2) == ()


@pytest.mark.two_generations
def test_a_lost_gc_label(patient: Patient) -> None:
    name = patient.pull()
    assert patient.look("gc-labels") == ()
    with patient.daemon() as daemon:
        target = daemon.images.get(name).target.digest
        layer = daemon.content.info(target).labels[GC_LAYER]
        daemon.leases.create("keep", {})  # or the garbage collector may be faster than the test
        daemon.leases.add("keep", LeaseResource(type="content", id=layer))
        daemon.content.set_labels(target, {GC_LAYER: ""})
        (found,) = patient.look("gc-labels")
        assert (found.code, found.evidence[0]) == ("gc-label-lost", f"without a gc label: {layer}")
        patient.treat(found)
        assert daemon.content.info(target).labels[GC_LAYER] == layer
        daemon.leases.delete("keep", sync=True)
    assert patient.look("gc-labels") == ()


@newest
def test_layers_that_were_discarded(patient: Patient) -> None:
    name = patient.pull()
    assert patient.look("discarded-layers") == ()
    with patient.daemon() as daemon:
        labels = daemon.content.info(daemon.images.get(name).target.digest).labels
        daemon.content.delete(type(daemon.images.get(name).target.digest)(labels[GC_LAYER]))
    (found,) = patient.look("discarded-layers")
    assert (found.code, found.evidence) == ("layers-discarded", (f"{name}: 1 layer absent",))
    patient.treat(found)
    assert patient.look("discarded-layers") == ()


@newest
def test_a_name_in_two_namespaces(patient: Patient) -> None:
    name = patient.pull("one")
    assert patient.look("namespaces") == ()
    patient.pull("two", salt="again")
    (differs,) = patient.look("namespaces")
    assert differs.code == "name-differs"
    patient.treat(differs)
    (repeated,) = patient.look("namespaces")
    assert (repeated.code, repeated.evidence[0]) == ("name-repeated", name)
    patient.treat(repeated)
    assert patient.look("namespaces") == ()


@newest
def test_images_that_the_kubelet_would_not_see(patient: Patient) -> None:
    name = patient.pull(NAMESPACE)
    (found,) = patient.look("kubelet")
    assert found.evidence == (f"{name} has no label io.cri-containerd.image=managed",)
    patient.treat(found)
    assert patient.look("kubelet") == ()
    with patient.daemon(NAMESPACE) as daemon:
        for image in daemon.images.list():
            if image.name != name:
                daemon.images.delete(image.name)
    (found,) = patient.look("kubelet")
    assert found.evidence == (f"{name} has no record of its id and its digest",)
    patient.treat(found)
    assert patient.look("kubelet") == ()


# --- the machine ------------------------------------------------------------------------------------------


@newest
def test_the_rights_of_the_socket(patient: Patient) -> None:
    address = patient.containerd.address
    assert patient.look("socket") == ()
    address.parent.chmod(0o711)
    address.chmod(0o666)
    os.chown(address, -1, 1)
    (found,) = patient.look("socket")
    assert found.code == "socket-open-to-all"
    patient.treat(found)
    (found,) = patient.look("socket")
    assert found.code == "socket-group"
    patient.treat(found)
    assert patient.look("socket") == ()


@pytest.mark.two_generations
def test_facts_about_the_process_and_its_disk(patient: Patient) -> None:
    facts = HostFacts(str(patient.containerd.address), {})
    process = facts.process()
    assert process is not None
    assert process.pid == patient.containerd.pid
    assert process.path is not None
    assert str(patient.containerd.peer.bin_dir) in process.path
    config = facts.config()
    assert config.path == str(patient.containerd.root / "config.toml")
    assert config.settings["root"] == str(patient.containerd.root / "root")
    for check in ("disk", "decompression", "clock", "release"):
        patient.look(check)


@newest
def test_the_clock_of_another_machine(patient: Patient) -> None:
    patient.pull()
    with Relay(patient.containerd.address, patient.containerd.address.parent / "r", 1 << 40) as relay:
        assert HostFacts(str(relay.path), {}).process() is None
        assert patient.look("clock", address=relay.path) == ()
    with patient.daemon() as daemon:
        assert daemon.leases.list() == ()


@pytest.mark.two_generations
def test_the_whole_command(patient: Patient) -> None:
    patient.pull()
    shell = patient.shell
    quiet = ["--skip", "disk", "--skip", "release", "--skip", "decompression", "--skip", "hosts"]
    assert shell("doctor", *quiet).stdout.decode() == "Nothing found by 9 checks.\n"
    with patient.daemon() as daemon:
        before = (daemon.images.list(), daemon.leases.list(), sorted(daemon.content.list(), key=str))
        document = shell.json("doctor", "--skip", "disk", "--skip", "hosts")
        assert before == (daemon.images.list(), daemon.leases.list(), sorted(daemon.content.list(), key=str))
    assert {tuple(item) for item in document["findings"]} <= {
        ("code", "severity", "what", "evidence", "remedy")
    }
    assert document["skipped"] == []
    patient.containerd.stop()
    document = shell.json("doctor", "--skip", "hosts", code=1)
    assert [item["code"] for item in document["findings"]] == ["socket-unreachable"]
    patient.containerd.start()


@newest
def test_a_bug_report_has_no_secret(patient: Patient) -> None:
    name = patient.pull()
    shell, output, certs = (
        patient.shell,
        patient.shell.folder / "report.tar.gz",
        patient.shell.folder / "certs",
    )
    (certs / "registry.example").mkdir(parents=True)
    (certs / "registry.example" / "hosts.toml").write_text('[header]\nAuthorization = "Bearer planted"\n')
    shell.env["HTTPS_PROXY"] = "http://bob:planted@127.0.0.1:1"
    words = ["doctor", "--bundle", str(output), "--hosts-dir", str(certs)]
    printed = shell(*words).stdout.decode()
    with tarfile.open(output) as archive:
        files = {member.name: archive.extractfile(member) for member in archive}
        texts = {Path(path).name: file.read().decode() for path, file in files.items() if file}
    assert all(path in printed for path in files)
    assert "planted" not in "".join(texts.values())
    found = json.loads(texts["containerd.json"])
    assert found["version"]["version"].lstrip("v").startswith(patient.containerd.peer.version)
    assert {"type": "io.containerd.content.v1", "id": "content", "status": "ok", "error": ""} in found[
        "plugins"
    ]
    assert json.loads(texts["config.json"])["settings"]["root"] == str(patient.containerd.root / "root")
    assert json.loads(texts["registries.json"])["hosts"][0]["registries"][0]["hosts"][0]["headers"] == [
        "Authorization"
    ]
    assert name not in texts["containerd.json"]
    patient.containerd.stop()
    assert b"report.tar.gz exists" in shell(*words, code=1).stderr
    shell(*words, "--force")
    patient.containerd.start()


# --- the kubelet's node -----------------------------------------------------------------------------------


@newest
def test_an_absent_sandbox_image(node: Node, on_node: Shell) -> None:
    def look() -> list[dict[str, str]]:
        found: list[dict[str, str]] = on_node.json("doctor", "--check", "sandbox")["findings"]
        return found

    with Daemon.connect(str(node.containerd.address), NAMESPACE) as daemon:
        for image in daemon.images.list():
            if image.name.rpartition(":")[0].endswith("/pause"):
                daemon.images.delete(image.name)
    (absent,) = look()
    assert absent["code"] == "sandbox-image-absent"
    on_node(*shlex.split(absent["remedy"])[1:])
    node.wait_until(lambda _crictl: look() == [])  # containerd pins it, as soon as it has seen it
