"""Write an image as an archive for Docker and containerd: Debian's Python, a wheel, and what it needs."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from integration.rig.debs import closure
from integration.rig.pythons import python
from pyctrd.oci import platforms
from pyctrd.version import __version__

RELEASE, PYTHON = "trixie", "3.13"
HOME: Final = "opt/pyctrd"
NOT_IN_IMAGE: Final = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "var")
COMMAND: Final = "#!/usr/bin/python3\nfrom pyctrd.cli import main\n\nmain()\n"
CONFIG: Final = {
    "Env": [
        "PATH=/usr/local/bin:/usr/bin",
        f"PYTHONPATH=/{HOME}",
        "PYTHONDONTWRITEBYTECODE=1",
        "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
    ],
    "Entrypoint": ["pyctrd"],
    "Labels": {
        "org.opencontainers.image.title": "pyctrd",
        "org.opencontainers.image.version": __version__,
        "org.opencontainers.image.licenses": "Apache-2.0",
    },
}


def fill(root: Path, wheel: Path) -> None:
    """Lay out the image's files."""
    shutil.copytree(closure(RELEASE, "python3", "ca-certificates", "libstdc++6"), root, symlinks=True)
    for name in NOT_IN_IMAGE:
        shutil.rmtree(root / name, ignore_errors=True)
    # Its package would write it when it is installed.
    authorities = sorted((root / "usr/share/ca-certificates/mozilla").glob("*.crt"))
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_text("".join(path.read_text() for path in authorities))
    command = root / "usr/local/bin/pyctrd"
    command.parent.mkdir(parents=True, exist_ok=True)
    command.write_text(COMMAND)
    command.chmod(0o755)
    (root / "tmp").mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    interpreter = python(PYTHON)
    pip = [str(Path(sys.executable).parent / "pip"), "--python", str(interpreter)]
    install = ["install", "-q", "--no-compile", "--only-binary", ":all:", "--target", str(root / HOME)]
    subprocess.run([*pip, *install, str(wheel)], check=True)
    # Nothing is compiled at start-up, when the root may be read-only.
    compiled = [str(root / HOME), str(root / f"usr/lib/python{PYTHON}")]
    how = ["-q", "-s", str(root), "-p", "/", "--invalidation-mode", "unchecked-hash"]
    subprocess.run([interpreter, "-m", "compileall", *how, *compiled], check=True)


def write(root: Path, file: Path) -> None:
    """Write the archive: an OCI layout, with the list that `docker load` reads."""
    with tempfile.TemporaryDirectory() as work:
        layer = Path(work) / "layer.tar"
        with tarfile.open(layer, "w", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(root.rglob("*")):
                tar.add(path, str(path.relative_to(root)), recursive=False, filter=_plain)
        data = layer.read_bytes()
    blobs: dict[str, bytes] = {}

    def blob(kind: str, content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        media_type = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    host = platforms.host()
    system = {"os": host.os, "architecture": host.architecture}
    config = {
        **system,
        "config": CONFIG,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(data).hexdigest()}"]},
    }
    layer_blob = blob("layer.v1.tar+gzip", gzip.compress(data, 9, mtime=0))
    config_blob = blob("config.v1+json", _json(config))
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config_blob,
        "layers": [layer_blob],
    }
    name = f"pyctrd:{__version__}"
    names = {
        "io.containerd.image.name": f"docker.io/library/{name}",
        "org.opencontainers.image.ref.name": __version__,
    }
    root_blob = {**blob("manifest.v1+json", _json(manifest)), "platform": system, "annotations": names}
    paths = [
        f"blobs/sha256/{str(item['digest']).removeprefix('sha256:')}" for item in (config_blob, layer_blob)
    ]
    members: Mapping[str, bytes] = {
        **blobs,
        "index.json": _json({"schemaVersion": 2, "manifests": [root_blob]}),
        "manifest.json": _json([{"Config": paths[0], "RepoTags": [name], "Layers": paths[1:]}]),
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
    }
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as tar:
        for path, content in sorted(members.items()):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    return entry


def main(wheel: str, folder: str) -> None:
    """Build the image into a folder."""
    with tempfile.TemporaryDirectory() as work:
        root = Path(work) / "root"
        fill(root, Path(wheel))
        file = Path(folder) / f"pyctrd-{__version__}-image.tar"
        write(root, file)
    print(file)


if __name__ == "__main__":
    main(*sys.argv[1:])
