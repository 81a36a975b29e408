"""The purpose of each capability of the container: without it, unpacking fails or damages a layer."""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from integration.conftest import peer_required
from integration.killing import client
from integration.rig.contained import ContainerdInDocker
from integration.rig.daemons import Dockerd, Registry
from integration.rig.debian_image import CAPABILITIES
from integration.rig.publish import push
from integration.shell import Shell
from pyctrd.oci.platforms import parse
from tests.support import images
from tests.support.images import Graph

pytestmark = pytest.mark.two_generations

USER = 1000
_CAP_NET_BIND = "\x01\x00\x00\x02\x00\x04" + "\x00" * 14  # struct vfs_cap_data, revision 2, effective


def demanding() -> Graph:
    """Owners, modes, a device, file capabilities, and a second layer with whiteouts."""
    first, second = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=first, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, "home", type=tarfile.DIRTYPE, mode=0o700, uid=USER)
        _add(tar, "home/private", mode=0o400, uid=USER)
        _add(tar, "home/setgid", mode=0o2755, uid=USER)
        _add(tar, "capable", mode=0o755, pax_headers={"SCHILY.xattr.security.capability": _CAP_NET_BIND})
        _add(tar, "null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)
        _add(tar, "opaque", type=tarfile.DIRTYPE, mode=0o755)
    with tarfile.open(fileobj=second, mode="w") as tar:
        _add(tar, "home", type=tarfile.DIRTYPE, mode=0o700, uid=USER)
        _add(tar, "home/.wh.private")
        _add(tar, "opaque", type=tarfile.DIRTYPE, mode=0o755)
        _add(tar, "opaque/.wh..wh..opq")
    layers = [
        images.Layer(data, images.OCI_LAYER, diff_id=images.digest_of(data))
        for data in (first.getvalue(), second.getvalue())
    ]
    return images.manifest(images.config(layers), layers)


def _add(tar: tarfile.TarFile, name: str, **members: object) -> None:
    entry = tarfile.TarInfo(name)
    for key, value in {"gid": members.get("uid", 0), **members}.items():
        setattr(entry, key, value)
    tar.addfile(entry)


@pytest.fixture
def container(
    generation: str, dockerd: Dockerd, tmp_path: Path, capabilities: Sequence[str]
) -> Iterator[ContainerdInDocker]:
    with ExitStack() as stack:
        with peer_required():
            daemon = ContainerdInDocker(dockerd, generation, tmp_path / "data", capabilities=capabilities)
            stack.enter_context(daemon)
        yield daemon


def setgid_is_kept(daemon: ContainerdInDocker) -> bool:
    (file,) = (daemon.root / "root/io.containerd.snapshotter.v1.overlayfs").glob("snapshots/*/fs/home/setgid")
    return bool(file.stat().st_mode & stat.S_ISGID)


@pytest.mark.parametrize("capabilities", [list(CAPABILITIES)], ids=["all"])
def test_the_documented_capabilities_are_sufficient(
    container: ContainerdInDocker, registry: Registry, repository: str, namespace: str, tmp_path: Path
) -> None:
    name = push(demanding(), registry, repository)
    with client(Shell(container, namespace, tmp_path)) as ours:
        assert ours.images.pull(name).unpacked == (parse("linux/amd64"),)
    assert setgid_is_kept(container)
    status = Path(f"/proc/{container.pid}/status").read_text()
    assert "\nSeccomp:\t2\n" in status, "Docker's own seccomp profile is in force"
    assert "\nNoNewPrivs:\t1\n" in status


def _without(right: str) -> list[str]:
    return [one for one in CAPABILITIES if one != right]


@pytest.mark.parametrize("capabilities", [_without(one) for one in CAPABILITIES], ids=list(CAPABILITIES))
def test_each_capability_is_needed_and_only_for_unpacking(
    container: ContainerdInDocker,
    capabilities: Sequence[str],
    registry: Registry,
    repository: str,
    namespace: str,
    tmp_path: Path,
) -> None:
    name = push(demanding(), registry, repository)
    shell = Shell(container, namespace, tmp_path)
    if "FSETID" in capabilities:
        words = shell("pull", name, code=1).stderr.decode()
        assert "operation not permitted" in words or "permission denied" in words
        shell("pull", "--no-unpack", name)
    else:
        shell("pull", name)
        assert not setgid_is_kept(container)
    with client(shell) as ours:
        ours.images.save([name], tmp_path / "image.tar", ensure="none")
