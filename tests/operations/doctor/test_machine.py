"""What doctor finds out about the machine, its containerd, and the checks themselves."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable

import msgspec
import pytest

from pyctrd.errors import Cancelled, DaemonError, DaemonUnreachable, InvalidInput
from pyctrd.oci.resources import Lease
from pyctrd.operations.doctor import checks, known_codes
from pyctrd.operations.doctor.checks.release import ENDS
from pyctrd.operations.doctor.host import DiskSpace, Pitfall, ProcessFacts
from tests.operations.doctor.clinic import CONTENT, CRI, DAY, HOUR, NOW, OVERLAYFS, Clinic

UNREACHABLE = DaemonUnreachable(
    "cannot reach containerd at /run/c.sock: permission denied", hint="run as root"
)


# --- the socket -------------------------------------------------------------------------------------------


def test_a_containerd_that_does_not_answer() -> None:
    clinic = Clinic()
    clinic.found = msgspec.structs.replace(
        clinic.found, group="ops", others=(("k3s or rke2", "/run/k3s/containerd/containerd.sock"),)
    )
    report = clinic.report(unreachable=UNREACHABLE, skip=["socket-group"])
    (found,) = report.findings
    assert (found.code, found.severity, found.what) == ("socket-unreachable", "error", UNREACHABLE.message)
    assert found.evidence == (
        "/run/c.sock belongs to root:ops, with mode rw-rw----",
        "there is a socket of k3s or rke2 at /run/k3s/containerd/containerd.sock",
    )
    assert found.remedy.text == "run as root"
    assert found.remedy.commands == (
        ("pyctrd", "--address", "/run/k3s/containerd/containerd.sock", "doctor"),
    )
    assert report.checks == ("socket", "hosts")
    assert {item.reason for item in report.skipped} == {"containerd does not answer"}


def test_a_socket_for_everybody() -> None:
    clinic = Clinic()
    clinic.found = msgspec.structs.replace(clinic.found, mode=0o666)
    (found,) = clinic.findings("socket")
    assert (found.code, found.severity) == ("socket-open-to-all", "error")
    assert found.remedy.commands == (("chmod", "o-w", "/run/c.sock"),)


def test_a_socket_for_a_group() -> None:
    clinic = Clinic()
    clinic.found = msgspec.structs.replace(clinic.found, group="docker")
    (found,) = clinic.findings("socket")
    assert (found.code, found.severity) == ("socket-group", "info")
    assert found.remedy.commands == (("chgrp", "root", "/run/c.sock"),)


def test_sockets_that_only_root_can_use() -> None:
    clinic = Clinic()
    assert clinic.findings("socket") == ()
    clinic.found = msgspec.structs.replace(clinic.found, group="docker", mode=0o640)
    assert clinic.findings("socket") == ()
    clinic.found = msgspec.structs.replace(clinic.found, mode=0o666, is_open=False)
    assert clinic.findings("socket") == ()


# --- the release ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.6.20~ds1", "v1.7.24", "v2.1.9", "2.2.1"])
def test_a_release_at_its_end(version: str) -> None:
    clinic = Clinic()
    clinic.release = version
    (found,) = clinic.findings("release")
    assert (found.code, found.severity) == ("release-over", "warning")
    assert "to 2.3, which is maintained until 2028-04-30" in found.remedy.text
    assert found.evidence[0] == f"this is {version}"


@pytest.mark.parametrize("version", ["v2.0.4", "v2.3.7", "v2.4.2", "2.4.0-rc.1"])
def test_a_release_that_is_maintained(version: str) -> None:
    clinic = Clinic()
    clinic.release = version
    assert clinic.findings("release") == ()


def test_a_release_is_judged_by_the_day() -> None:
    clinic = Clinic()
    clinic.release = "v1.7.28"
    last = dt.datetime(2026, 9, 30, 23, tzinfo=dt.UTC)
    assert [item.code for item in clinic.findings("release", last)] == ["release-ends-soon"]
    assert [item.code for item in clinic.findings("release", last + HOUR)] == ["release-over"]
    assert clinic.findings("release", last - 91 * DAY) == ()


def test_no_release_to_recommend_once_all_are_over() -> None:
    clinic = Clinic()
    late = dt.datetime.combine(max(ENDS.values()), dt.time(), dt.UTC) + 2 * DAY
    (found,) = clinic.findings("release", late)
    assert found.remedy.text.startswith("upgrade to a newer release")


def test_an_unknown_release() -> None:
    clinic = Clinic()
    clinic.release = "v3.0.0"
    assert "containerd v3.0.0" in clinic.reason("release")


# --- the disk ---------------------------------------------------------------------------------------------

ROOT = CONTENT.exports["root"]


def space(free: int, inodes_free: int = 50, inodes: int = 100, device: int = 1) -> DiskSpace:
    return DiskSpace(
        bytes_total=100 << 30, bytes_free=free << 30, inodes=inodes, inodes_free=inodes_free, device=device
    )


@pytest.mark.parametrize(
    ("disk", "codes"),
    [
        (space(16), []),
        (space(14), ["disk-low"]),
        (space(4), ["disk-full"]),
        (space(50, 14), ["inodes-low"]),
        (space(4, 4), ["disk-full", "inodes-full"]),
        (space(50, 0, inodes=0), []),  # btrfs has no limit
    ],
)
def test_a_disk(disk: DiskSpace, codes: list[str]) -> None:
    clinic = Clinic()
    clinic.disks = {ROOT: disk}
    found = clinic.findings("disk")
    assert [item.code for item in found] == codes
    assert all(item.severity == ("error" if item.code.endswith("full") else "warning") for item in found)
    for item in found:
        policy = ("--until-free", "15%") if item.code.startswith("disk") else ("--unused",)
        assert item.remedy.commands == (("pyctrd", "-n", "default", "prune", *policy),)


def test_each_disk_is_reported_once() -> None:
    clinic = Clinic()
    clinic.disks = {folder: space(4) for folder in (ROOT, OVERLAYFS.exports["root"])}
    assert len(clinic.findings("disk")) == 1
    clinic.disks[OVERLAYFS.exports["root"]] = space(4, device=2)
    assert len(clinic.findings("disk")) == 2


def test_a_disk_that_cannot_be_seen() -> None:
    clinic = Clinic()
    assert clinic.reason("disk") == f"{ROOT} cannot be seen by this user"
    clinic.running = None
    assert clinic.reason("disk") == "containerd does not run on this machine"
    clinic.loaded = []
    assert clinic.reason("disk") == "containerd does not say where its data is"


# --- clocks -----------------------------------------------------------------------------------------------


def test_the_clock_of_a_containerd_on_this_machine_is_not_asked_for() -> None:
    assert Clinic().findings("clock") == ()


@pytest.mark.parametrize(("ahead", "word"), [(3.5 * HOUR, "3 hours ahead of"), (-3.5 * DAY, "3 days behind")])
def test_clocks_that_differ(ahead: dt.timedelta, word: str) -> None:
    now = dt.datetime.now(dt.UTC)
    clinic = Clinic(clock=now + ahead)
    clinic.running = None
    (found,) = clinic.findings("clock", now)
    assert (found.code, found.severity) == ("clock-skew", "warning")
    assert f"clock is {word} this machine's" in found.what
    assert found.remedy.commands == (("timedatectl", "set-ntp", "true"),)
    assert clinic.space.leases.made
    assert clinic.space.leases.held == {}


def test_clocks_that_agree() -> None:
    now = dt.datetime.now(dt.UTC)
    clinic = Clinic(clock=now)
    clinic.running = None
    assert clinic.findings("clock", now) == ()
    assert clinic.space.leases.held == {}


def test_a_clock_that_cannot_be_read() -> None:
    clinic = Clinic()
    clinic.running = None
    clinic.spaces["default"].clinic = clinic
    clinic.list = list  # type: ignore[method-assign]
    assert clinic.reason("clock") == "containerd has no namespace to create a lease in"


def test_records_from_the_future() -> None:
    clinic = Clinic()
    clinic.space.leases.held["early"] = (Lease(id="early", created_at=NOW + HOUR), [])
    clinic.space.leases.held["now"] = (Lease(id="now", created_at=NOW), [])
    (found,) = clinic.findings("clock")
    assert (found.code, found.severity) == ("clock-set-back", "warning")
    assert found.evidence == (
        "it is 2026-11-27T12:00:00Z here",
        "namespace default: lease early was created at 2026-11-27T13:00:00Z",
    )


# --- decompression ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "programs", "slow"),
    [
        ("v2.4.2", {"igzip"}, False),
        ("v2.4.2", {"unpigz"}, False),
        ("v2.4.2", set(), True),
        ("1.7.24", {"unpigz"}, False),
        ("1.7.24", {"igzip"}, True),  # which 1.x does not use
    ],
)
def test_programs_for_decompression(version: str, programs: set[str], slow: bool) -> None:
    clinic = Clinic()
    clinic.release = version
    clinic.programs = {f"/usr/bin/{name}" for name in programs}
    found = clinic.findings("decompression")
    assert [item.code for item in found] == ["slow-decompression"] * slow
    assert all(item.severity == "info" for item in found)
    package = "pigz" if version.startswith("1.") else "isal"
    assert all(item.remedy.commands == (("apt-get", "install", package),) for item in found)


def test_a_program_that_is_disabled() -> None:
    clinic = Clinic()
    clinic.running = ProcessFacts(pid=7, path=("/usr/bin",), environment={"CONTAINERD_DISABLE_IGZIP": "true"})
    (found,) = clinic.findings("decompression")
    assert found.evidence[1] == "CONTAINERD_DISABLE_IGZIP disables igzip"
    assert found.remedy.text.startswith("unset CONTAINERD_DISABLE_IGZIP in containerd's unit")
    assert found.remedy.commands == ()


def test_an_environment_that_cannot_be_read() -> None:
    clinic = Clinic()
    clinic.running = ProcessFacts(pid=7)
    assert "process 7, may be read only by root" in clinic.reason("decompression")
    clinic.running = None
    assert clinic.reason("decompression") == "containerd does not run on this machine"


# --- hosts ------------------------------------------------------------------------------------------------


def test_a_pitfall_is_a_finding() -> None:
    clinic = Clinic()
    assert clinic.findings("hosts") == ()
    clinic.wrong = [Pitfall(code="hosts-no-scheme", severity="warning", where="/c:3", text="no", advice="do")]
    (found,) = clinic.findings("hosts")
    assert (found.code, found.what, found.evidence) == ("hosts-no-scheme", "no", ("/c:3",))
    assert found.remedy.text == "do"


# --- the checks themselves --------------------------------------------------------------------------------


def test_a_healthy_machine() -> None:
    clinic = Clinic()
    clinic.disks = {ROOT: space(50)}
    report = clinic.report()
    assert (report.findings, report.skipped) == ((), ())
    assert report.checks == tuple(checks.CHECKS)
    assert not report.has_errors


def test_records_and_documents_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clinic = Clinic("default", "k8s.io")
    clinic.loaded.append(CRI)
    for space in clinic.spaces.values():
        targets = [space.manifest("linux/amd64", [f"{number}", "common"]) for number in range(20)]
        for number in range(100):
            space.name(targets[number % 20], f"registry.example/app:{number}")
        space.remove(space.below(targets[0])[1][1])
        space.unpack("0", "common")
    calls = Counter[str]()
    for space in clinic.spaces.values():
        for service, method in (("images", "list"), ("content", "list"), ("content", "read_all")):
            of = getattr(space, service)
            monkeypatch.setattr(of, method, _counted(calls, f"{service}.{method}", getattr(of, method)))
    found = {item.code for item in clinic.report().findings}
    assert {"layers-discarded", "name-repeated", "kubelet-image-invisible"} <= found
    assert (calls["images.list"], calls["content.list"]) == (2, 2)
    manifests = 20  # the same ones in both namespaces
    assert calls["content.read_all"] <= manifests + 2 * 100  # and configs of images without a layer


def _counted(calls: Counter[str], name: str, method: Callable[..., object]) -> Callable[..., object]:
    def call(*args: object, **named: object) -> object:
        calls[name] += 1
        return method(*args, **named)

    return call


def test_errors_come_first() -> None:
    clinic = Clinic()
    clinic.release = "v2.1.0"
    clinic.programs = set()
    clinic.disks = {ROOT: space(1)}
    report = clinic.report()
    assert [item.severity for item in report.findings] == ["error", "warning", "info"]
    assert report.has_errors


def test_a_check_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clinic = Clinic()
    clinic.programs = set()
    error = DaemonError("images: database closed")
    monkeypatch.setattr(clinic.space.images, "list", _raising(error))
    monkeypatch.setattr(clinic, "pitfalls", _raising(RuntimeError("a bug")))
    report = clinic.report()
    assert [item.code for item in report.findings] == ["slow-decompression"]
    reasons = {item.check: item.reason for item in report.skipped}
    assert reasons["leases"] == "images: database closed"
    assert reasons["hosts"] == "RuntimeError: a bug"
    assert set(report.checks) & set(reasons) == set()


def test_cancelling_ends_all_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    clinic = Clinic()
    monkeypatch.setattr(clinic.space.images, "list", _raising(Cancelled("stop")))
    with pytest.raises(Cancelled):
        clinic.report()


def test_chosen_checks() -> None:
    clinic = Clinic()
    clinic.release = "v2.1.0"
    clinic.programs = set()
    assert [item.code for item in clinic.report(only=["release-over"]).findings] == ["release-over"]
    assert clinic.report(only=["release", "hosts"]).checks == ("release", "hosts")
    assert "release" not in clinic.report(skip=["release"]).checks
    left = clinic.report(skip=["slow-decompression"])
    assert [item.code for item in left.findings] == ["release-over"]


def test_an_unknown_check() -> None:
    with pytest.raises(InvalidInput, match="unknown check 'relaese'") as caught:
        Clinic().report(skip=["relaese"])
    assert "release" in (caught.value.hint or "")


def test_codes_are_unique_and_in_kebab_case() -> None:
    codes = [code for check in checks.CHECKS.values() for code in check.codes]
    assert len(codes) == len(set(codes))
    assert all(name.replace("-", "").islower() for name in known_codes())


def _raising(error: Exception) -> Callable[..., object]:
    def call(*_args: object, **_named: object) -> object:
        raise error

    return call
