"""Fixtures for pytest: a containerd for the tests, clients, and images that need no registry.

In a `conftest.py`:

    pytest_plugins = ["pyctrd.pytest_plugin"]

Needs root, and containerd on PATH or as `--containerd PROGRAM`; tests that use the fixtures are skipped
without it, or fail with `--containerd-required`. Nothing of the host's containerd is used.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, NoReturn, Protocol

import pytest

from pyctrd.client import Client
from pyctrd.errors import FailedPrecondition, PyctrdError
from pyctrd.oci import platforms
from pyctrd.oci.model import ImageRecord

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 10.0
# Services for Kubernetes, and snapshotters that need a setup of their own.
_CONFIG: Final = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{folder}/containerd.sock"
"""
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_NAMED: Final = "io.containerd.image.name"


class ImageFactory(Protocol):
    """Makes images; see the fixture `pyctrd_image`."""

    def __call__(
        self,
        name: str = ...,
        *layers: Mapping[str, bytes],
        platform: str = ...,
        labels: Mapping[str, str] | None = ...,
    ) -> ImageRecord:
        """Make an image, and load it into the namespace of the test."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("pyctrd")
    group.addoption("--containerd", metavar="PROGRAM", help="containerd to start (default: the one on PATH)")
    group.addoption(
        "--containerd-required", action="store_true", help="fail instead of skipping without containerd"
    )


@pytest.fixture(scope="session")
def pyctrd_containerd(request: pytest.FixtureRequest) -> str:
    """Return the path of the containerd to start. A conftest may replace this fixture."""
    chosen = request.config.getoption("--containerd")
    found = shutil.which(chosen or "containerd")
    if found is None and chosen:
        pytest.fail(f"--containerd {chosen}: there is no such program")
    if found is None:
        _give_up(request, "no containerd on PATH: pass --containerd")
    return str(found)


def _give_up(request: pytest.FixtureRequest, reason: str) -> NoReturn:
    if request.config.getoption("--containerd-required"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def pyctrd_address(request: pytest.FixtureRequest, pyctrd_containerd: str) -> Iterator[str]:
    """Start a containerd with a temporary folder; return the path of its socket."""
    if os.geteuid():
        _give_up(request, "containerd needs root")
    folder = Path(tempfile.mkdtemp(prefix="pyctrd-", dir=_short_folder()))
    try:
        (folder / "config.toml").write_text(_CONFIG.format(folder=folder))
        with ExitStack() as stack:
            log = stack.enter_context((folder / "log").open("wb"))
            command = [pyctrd_containerd, "--config", str(folder / "config.toml")]
            process = subprocess.Popen(command, stdout=log, stderr=log)
            stack.callback(_stop, process)
            _wait_until_ready(process, folder)
            yield str(folder / "containerd.sock")
    finally:
        shutil.rmtree(folder)


def _short_folder() -> str | None:
    """Return /tmp if the usual folder is too deep: the path of a socket has at most 107 bytes."""
    longest = f"{tempfile.gettempdir()}/pyctrd-12345678/containerd.sock.ttrpc"
    return "/tmp" if len(os.fsencode(longest)) > 107 else None  # noqa: S108 - mkdtemp makes a folder in it


def _wait_until_ready(process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with Client(folder / "containerd.sock") as client:
                client.version()
        except PyctrdError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                log = (folder / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"containerd did not start: {error.message}\n{log}") from error
            time.sleep(0.05)
        else:
            return


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture
def pyctrd_client(pyctrd_address: str) -> Iterator[Client]:
    """Return a client for a namespace of the test's own, which is removed at the end.

    A container or a snapshot that other programs have made keeps the namespace until containerd ends.
    """
    with Client(pyctrd_address, f"test-{uuid.uuid4().hex[:12]}") as client:
        client.namespaces.create(client.namespace)
        try:
            yield client
        finally:
            _remove(client)


def _remove(client: Client) -> None:
    """Remove the client's namespace, and what a test has left in it."""
    client.content.abort(everything=True, force=True)
    if leases := [lease.id for lease in client.leases.list()]:
        client.leases.remove(leases, force=True)
    if images := [image.name for image in client.images.list()]:
        client.images.remove(images, force=True)
    with suppress(FailedPrecondition):
        client.namespaces.remove(client.namespace)


@pytest.fixture
def pyctrd_image(pyctrd_client: Client) -> ImageFactory:
    """Return a function that makes an image of the files of its layers, and loads it.

    `platform` is that of the host by default; `labels` are those of the image's config.

        def test_mine(pyctrd_client, pyctrd_image):
            pyctrd_image("registry.example/app:1", {"etc/motd": b"hello"}, {"bin/app": b"..."})
    """

    def make(
        name: str = "registry.example/image:latest",
        *layers: Mapping[str, bytes],
        platform: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> ImageRecord:
        archive = image_archive(name, *layers, platform=platform, labels=labels)
        loaded = pyctrd_client.images.load(io.BytesIO(archive), platforms="all")
        return pyctrd_client.images.get(loaded.images[0].name)

    return make


def image_archive(
    name: str,
    *layers: Mapping[str, bytes],
    platform: str = "",
    labels: Mapping[str, str] | None = None,
) -> bytes:
    """Return the OCI archive of an image with the given files in each layer; the same files give the same."""
    on = platforms.parse(platform) if platform else platforms.host()
    blobs: dict[str, bytes] = {}

    def blob(media_type: str, data: bytes) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        blobs[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    packed = [_tar(files) for files in layers or ({"empty": b""},)]
    described = [blob("application/vnd.oci.image.layer.v1.tar", data) for data in packed]
    system = {"os": on.os, "architecture": on.architecture, **({"variant": on.variant} if on.variant else {})}
    config = {
        **system,
        "config": {"Labels": dict(labels or {})},
        "rootfs": {"type": "layers", "diff_ids": [one["digest"] for one in described]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": blob("application/vnd.oci.image.config.v1+json", _json(config)),
        "layers": described,
    }
    root = {**blob(_MANIFEST, _json(manifest)), "platform": system, "annotations": {_NAMED: name}}
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [root]}
    files = {f"blobs/{digest.replace(':', '/')}": data for digest, data in blobs.items()}
    return _tar({**files, "index.json": _json(index), "oci-layout": _json({"imageLayoutVersion": "1.0.0"})})


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
