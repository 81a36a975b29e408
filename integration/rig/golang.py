"""containerd, nerdctl, crictl and others, built from the Go module proxy, and sources of other modules.

`go install pkg@version` refuses a module with a replace directive (nerdctl from 2.1 on), and checks every
dependency with sum.golang.org, which some networks block. A scratch module that requires the program's module
and contains that module's own go.sum builds all releases, and go.sum still verifies each dependency.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from integration.rig.cache import PeerUnavailable, entry, peers_dir
from integration.rig.debs import closure, run

CONTAINERD = "github.com/containerd/containerd/v2"
NERDCTL = "github.com/containerd/nerdctl/v2"
CRI_TOOLS = "sigs.k8s.io/cri-tools"
OLAREG = "github.com/olareg/olareg"
KUSTOMIZE = "sigs.k8s.io/kustomize/kustomize/v5"
KUBECONFORM = "github.com/yannh/kubeconform"
KUBERNETES = "k8s.io/kubernetes"
GO_CONTAINERREGISTRY = "github.com/google/go-containerregistry"
REGCLIENT = "github.com/regclient/regclient"
STEREOSCOPE = "github.com/anchore/stereoscope"
CONTAINERS_IMAGE = "go.podman.io/image/v5"
SOURCES = {
    GO_CONTAINERREGISTRY: "0.22.1",
    REGCLIENT: "0.11.7",
    STEREOSCOPE: "0.4.1",
    CONTAINERS_IMAGE: "5.42.1",
    KUBERNETES: "1.37.2",
}
"""Modules that are not built: the tests of four have image archives, Kubernetes has schemas of its API."""
TIGRON = "github.com/containerd/nerdctl/mod/tigron"
# A module's own entries are not in its go.sum: these were taken from the module proxy when the release was
# added, and every later download is checked against them.
SUMS = {
    f"{CONTAINERD}@2.1.9": (
        "h1:lOQQ3qVEtauZCHKh8S2Xph5fGXFX2uZxMHmaslOZtW0=",
        "h1:LDh0O1QLwWxHp3qwykS2jGMSoWTSHKwiP5Z324hVyIo=",
    ),
    f"{CONTAINERD}@2.3.7": (
        "h1:7PGbgAVKE4ieQjFPv7+kwAv7f9dCtRpExZwjExHD/Fk=",
        "h1:usc1tgzxnUlhLLW9KLqTEKRTSix46fIc6XHDZt4Tlrs=",
    ),
    f"{CONTAINERD}@2.4.2": (
        "h1:p6Qg+xbEz8lvwdhHDx0U469xENvp4LgGBx+E7djXkGw=",
        "h1:vgLdtvl3prFk1d3ZVqQcsDD5Q9IKM+vAIdU54U85w+I=",
    ),
    f"{CRI_TOOLS}@1.34.0": (
        "h1:KqL9EJ+WgHtz1HR1exezm91n+o8O2uMLs/eHzHJHAWw=",
        "h1:JyYVG0YFsly+p/hfDfmQcQBNFVHh0+BpMTn49YpasMA=",
    ),
    f"{NERDCTL}@2.0.3": (
        "h1:hdbDSsFHFNehQEbUortBTXpYUOY13bQmLAvtNHBthc8=",
        "h1:BR4V7WjbUFKJW4E2x6WLVsDcH3QpYvfUK4y2uPZu6oo=",
    ),
    f"{NERDCTL}@2.0.4": (
        "h1:Ll0nsizkvTUMc2PAwXy90je0PAeYLEIvggDSisRRmyk=",
        "h1:YapMqyk+PZ7pDrWUfvuTHQTS1N0pmq+ZIYFwNWgqNFs=",
    ),
    f"{NERDCTL}@2.2.2": (
        "h1:wW+nrriM86rZkItsuhq0CtmS4re3eRSs7u8P2Cit4NM=",
        "h1:38TLdfajzOhOxjdGrMxl8R0UAUyCgyPcqQkJFD1XckI=",
    ),
    f"{NERDCTL}@2.3.5": (
        "h1:auYeWpIM29NUvqWxFvar8HIbSVrGBn6dRPx45rrUApY=",
        "h1:j2i2sTqQ0Z9YaZDI8XroU+NYtP5C1jC4mjtuvYvV0TE=",
    ),
    f"{OLAREG}@0.1.1": (
        "h1:Ui7q93zjcoF+U9U71sgqgZWByDoZOpqHitUXEu2xV+g=",
        "h1:w8NP4SWrHHtxsFaUiv1lnCnYPm4sN1seCd2h7FK/dc0=",
    ),
    f"{GO_CONTAINERREGISTRY}@0.22.1": (
        "h1:RZuuSYhTvlDvtsK+NkutoCZ//C0X2ebLK8X8l3ULs84=",
        "h1:bJR35SK8XgisYmhg/FMQ/5RK0S/XrOAqLBV5/LR2XE0=",
    ),
    f"{REGCLIENT}@0.11.7": (
        "h1:Jsjlnd0ZQ2Blh0vaJtxJ0pU549VajvZ6BTL/4R7noMo=",
        "h1:nsjcfCoYFqSUbBqmfDOP15PeVZv4EsCpkPU+21vzxPU=",
    ),
    f"{STEREOSCOPE}@0.4.1": (
        "h1:7mxw24JCabbJIAcyvQDjBd2pbzo+0HSFVgjYlE8Zm+k=",
        "h1:hYJsi3M8a8N1O66u+rMQSgv5TREGM7QIjKBjPPnwiD8=",
    ),
    f"{CONTAINERS_IMAGE}@5.42.1": (
        "h1:I8FkPUeBB1PGpU2W3mfFcG2aMlvAI/x3NdT/sK1IwyY=",
        "h1:DJl4PlLuZIbJBpN3Wk395Df8xHY9/3eZ1WlWmHlRcF8=",
    ),
    f"{KUSTOMIZE}@5.8.2": (
        "h1:sSNeWwgkdSMGCIavtY63JQMgBJkGv3IwOltWVZy+LFQ=",
        "h1:zzp/kd2bAYFCO6igFQdIn41S/l+gySmsTyMfiQCkVZg=",
    ),
    f"{KUBECONFORM}@0.8.0": (
        "h1:loDYd3a3spjIFrauqW67CDKF55Oo9R6uvC8AvpVd4ug=",
        "h1:ARRg6jpIMvCOlinXdeINl+scf6/eKIObv4swDEIUee4=",
    ),
    f"{KUBERNETES}@1.37.2": (
        "h1:A2VDEiObzkYqFTKhSsn0ZEb0RlLEXpHWj93gi2HqEwE=",
        "h1:zAK7e3i5feyBL/bhucQnA5VRKuyrS8F+ijHJkZzQaWw=",
    ),
}
OLDEST_GO = (1, 26, 6)
"""The version that go.mod of the newest program, containerd 2.4.2, requires."""


@cache
def go() -> Path:
    """A Go compiler: the machine's if it is recent enough, else Debian sid's, unpacked into the cache."""
    found = shutil.which("go")
    if found and _version(Path(found)) >= OLDEST_GO:
        return Path(found)
    programs = sorted(closure("sid", "golang-go").glob("usr/lib/go-1.*/bin/go"))
    if not programs:
        raise PeerUnavailable("Debian's golang-go holds no go command")
    return programs[-1]


def _version(program: Path) -> tuple[int, ...]:
    """(1, 24, 3) of "go version go1.24.3 linux/amd64"; () if unknown."""
    words = run([program, "env", "GOVERSION"]).strip().removeprefix("go").split(".")
    return tuple(int(word) for word in words if word.isdigit())


def _environment() -> dict[str, str]:
    """go's environment: all downloads and caches are in our cache folder."""
    home = peers_dir() / "go"
    own = {
        "GOPATH": str(home),
        "GOCACHE": str(home / "build"),
        "GOFLAGS": "-modcacherw",
        "GOSUMDB": "off",  # go verifies downloads with SUMS and nerdctl's go.sum
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
        "GOROOT": str(go().resolve().parents[1]),
    }
    return {**os.environ, **own}


def nerdctl(version: str) -> Path:
    """The nerdctl binary of `version` (one of SUMS); the first call takes minutes."""
    return entry(f"nerdctl/{version}", lambda folder: _build(NERDCTL, version, folder, "nerdctl")) / "nerdctl"


def crictl() -> Path:
    """The crictl binary; the first call takes minutes."""
    return entry("crictl/1.34.0", lambda folder: _build(CRI_TOOLS, "1.34.0", folder, "crictl")) / "crictl"


def olareg() -> Path:
    """The olareg binary, a small registry with the referrers API; the first call takes a minute."""
    return entry("olareg/0.1.1", lambda folder: _build(OLAREG, "0.1.1", folder, "olareg")) / "olareg"


def kustomize() -> Path:
    """The kustomize binary; the first call takes a minute."""
    return (
        entry("kustomize/5.8.2", lambda folder: _build(KUSTOMIZE, "5.8.2", folder, "kustomize")) / "kustomize"
    )


def kubeconform() -> Path:
    """The kubeconform binary, which validates manifests of Kubernetes; the first call takes a minute."""
    return (
        entry("kubeconform/0.8.0", lambda folder: _build(KUBECONFORM, "0.8.0", folder, "kubeconform"))
        / "kubeconform"
    )


def containerd(version: str, folder: Path) -> None:
    """Build containerd `version` (one of SUMS) with its ctr and runc shim into `folder`; takes a minute."""
    _build(CONTAINERD, version, folder, "containerd", "ctr", "containerd-shim-runc-v2")


def _build(module: str, version: str, folder: Path, *programs: str) -> None:
    """Build `cmd/PROGRAM` of a module, of kustomize the module itself.

    -mod=mod fails if a sum differs from that in go.sum.
    """
    env = _environment()
    with tempfile.TemporaryDirectory(dir=peers_dir()) as made:
        scratch = Path(made)
        zip_sum, mod_sum = SUMS[f"{module}@{version}"]
        source = Path(_download(module, version, scratch)["Dir"])
        own = f"{module} v{version} {zip_sum}\n{module} v{version}/go.mod {mod_sum}\n"
        (scratch / "go.sum").write_text((source / "go.sum").read_text() + own)
        lines = (source / "go.mod").read_text().splitlines()
        needed = next(line for line in lines if line.startswith("go "))
        text = f"module scratch\n\n{needed}\n\nrequire {module} v{version}\n"
        if any("mod/tigron" in line for line in lines):
            text += f"\nreplace {TIGRON} v0.0.0 => ./tigron\n"
            _write_tigron(scratch / "tigron")
        (scratch / "go.mod").write_text(text)
        package = "pkg/version" if module == NERDCTL else "version"
        flags = f"-s -w -X {module}/{package}.Version=v{version}"
        for program in programs:
            options: list[str | Path] = ["-mod=mod", "-trimpath", "-ldflags", flags, "-o", folder / program]
            main = module if module == KUSTOMIZE else f"{module}/cmd/{program}"
            run([go(), "build", *options, main], cwd=scratch, env=env)


@cache
def source(module: str) -> Path:
    """The folder with the sources of a module of SOURCES; raises PeerUnavailable with the reason."""
    version = SOURCES[module]
    with tempfile.TemporaryDirectory(dir=peers_dir()) as scratch:
        found = _download(module, version, Path(scratch))
    if found["Sum"] != SUMS[f"{module}@{version}"][0]:
        raise PeerUnavailable(f"{module} v{version} has the sum {found['Sum']} now")
    return Path(found["Dir"])


def _download(module: str, version: str, scratch: Path) -> dict[str, str]:
    """Return what `go mod download -json` says of a module."""
    command: list[str | Path] = [go(), "mod", "download", "-json", f"{module}@v{version}"]
    found: dict[str, str] = json.loads(run(command, cwd=_empty(scratch), env=_environment()))
    return found


def _write_tigron(folder: Path) -> None:
    """Write the module that nerdctl replaces with a folder that its published zip does not contain.

    The program's own sources use only an interface of it, in a test helper that is compiled but never called.
    """
    _empty(folder, TIGRON)
    (folder / "tig").mkdir()
    (folder / "tig/tig.go").write_text('package tig\n\nimport "testing"\n\ntype T = testing.TB\n')


def _empty(folder: Path, module: str = "scratch") -> Path:
    """Create a folder with an empty module."""
    folder.mkdir(exist_ok=True)
    (folder / "go.mod").write_text(f"module {module}\n\ngo 1.22\n")
    return folder
