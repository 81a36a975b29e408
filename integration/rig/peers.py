"""The real peers: five generations of containerd with their ctr, registry tools, dockerd and nerdctl.

`python -m integration.rig.peers [--all] [NAMES]` gets them ahead of time and prints what there is.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from integration.rig import golang, podman
from integration.rig.cache import PeerUnavailable, cache_dir, entry
from integration.rig.debs import closure, package_version, run, runs, through_loader, unpacked

__all__ = [
    "CURRENT",
    "GENERATIONS",
    "NERDCTL_VERSIONS",
    "NEWEST",
    "TOOLS",
    "ContainerdPeer",
    "PeerUnavailable",
    "cache_dir",
    "containerd",
    "crictl",
    "kubeconform",
    "kustomize",
    "module",
    "nerdctl",
    "olareg",
    "tool",
    "tool_environment",
]

SUITE_OF_GENERATION = {"1.6": "bookworm", "1.7": "trixie", "2.1": "sid"}
"""The Debian suites that have them. If sid gets another 2.x, this one is built instead."""
BUILT = {"2.1": "2.1.9", "2.3": "2.3.7", "2.4": "2.4.2"}
"""The releases that are built, since Debian does not have their generation."""
GENERATIONS = ("1.6", "1.7", "2.1", "2.3", "2.4")
CURRENT = ("1.7", "2.3", "2.4")
"""Generations that are supported upstream: every test runs on these. On 1.6 and 2.1 only some do."""
NEWEST = GENERATIONS[-1]
NERDCTL_VERSIONS = ("2.0.3", "2.0.4", "2.2.2", "2.3.5")
"""One for each behaviour of `save`: 2.0.3 is the last release that fetches every platform, 2.0.4 the first
that does not; from 2.1.4 on attestations are skipped; from 2.3.0 on the daemon exports."""


@dataclass(frozen=True)
class ContainerdPeer:
    """The binaries of one generation; `bin_dir` holds containerd, ctr, shims and a runc that runs here."""

    generation: str
    version: str
    bin_dir: Path
    containerd: Path
    ctr: Path


@dataclass(frozen=True)
class _Tool:
    """Where a program is found: the suites are tried in order until one runs with this machine's libc."""

    package: str
    program: str
    suites: tuple[str, ...]
    probe: str = "--version"
    own_libc_suite: str = ""
    """The suite whose libc and libraries are used if none of the above runs."""
    first_arguments: tuple[str, ...] = ()


TOOLS = {
    "buildx": _Tool(
        "docker-buildx", "usr/libexec/docker/cli-plugins/docker-buildx", ("sid", "trixie"), probe="version"
    ),
    "busybox": _Tool("busybox-static", "usr/bin/busybox", ("trixie", "sid", "bookworm"), probe="true"),
    "containerd-runc": _Tool("runc", "usr/sbin/runc", ("sid", "trixie", "bookworm")),
    "crane": _Tool("crane", "usr/bin/crane", ("sid",), probe="version"),
    "docker": _Tool("docker-cli", "usr/bin/docker", ("sid", "trixie")),
    "docker-registry": _Tool("docker-registry", "usr/bin/docker-registry", ("sid", "trixie", "bookworm")),
    "dockerd": _Tool("docker.io", "usr/sbin/dockerd", ("sid", "trixie", "bookworm")),
    "node-exporter": _Tool(
        "prometheus-node-exporter", "usr/bin/prometheus-node-exporter", ("sid", "trixie", "bookworm")
    ),
    "oras": _Tool("oras", "usr/bin/oras", ("sid", "trixie"), probe="version"),
    "promtool": _Tool("prometheus", "usr/bin/promtool", ("sid", "trixie", "bookworm")),
    # skopeo needs a policy file or this flag.
    "skopeo": _Tool("skopeo", "usr/bin/skopeo", (), "--version", "trixie", ("--insecure-policy",)),
    # Without -r sshd would start itself again for each connection, without the libraries it came with.
    "sshd": _Tool("openssh-server", "usr/sbin/sshd", (), "-V", "bookworm", ("-r",)),
    "umoci": _Tool("umoci", "usr/bin/umoci", ("sid", "trixie", "bookworm")),
}


def tool(name: str) -> Path:
    """The path of a program of TOOLS, downloaded if missing; raises PeerUnavailable with the reason."""
    spec = TOOLS.get(name)
    if spec is None:
        raise PeerUnavailable(f"no such tool: {name} (have {', '.join(TOOLS)})")
    for suite in spec.suites:
        path = unpacked(suite, spec.package) / spec.program
        if runs(path, spec.probe):
            return path
    if not spec.own_libc_suite:
        raise PeerUnavailable(
            f"{name} of {', '.join(spec.suites)} does not run with this machine's libraries"
        )
    return through_loader(closure(spec.own_libc_suite, spec.package), spec.program, *spec.first_arguments)


def containerd(generation: str) -> ContainerdPeer:
    """The peer of one of GENERATIONS; raises PeerUnavailable with the reason."""
    if generation not in GENERATIONS:
        raise PeerUnavailable(f"no such containerd generation: {generation} (have {', '.join(GENERATIONS)})")
    bin_dir = entry(f"containerd/{generation}", lambda folder: _fill_containerd(generation, folder))
    found = _containerd_version(bin_dir)
    if not found.startswith(generation + "."):
        suite = SUITE_OF_GENERATION[generation]
        raise PeerUnavailable(f"Debian {suite} has containerd {found} now, not {generation}.x")
    return ContainerdPeer(generation, found, bin_dir, bin_dir / "containerd", bin_dir / "ctr")


def _fill_containerd(generation: str, folder: Path) -> None:
    if suite := SUITE_OF_GENERATION.get(generation):
        shutil.copytree(unpacked(suite, "containerd") / "usr/bin", folder, dirs_exist_ok=True)
    if generation in BUILT and not (suite and _containerd_version(folder).startswith(generation + ".")):
        golang.containerd(BUILT[generation], folder)
    shutil.copy2(tool("containerd-runc"), folder / "runc")


def _containerd_version(bin_dir: Path) -> str:
    """1.7.24 of "containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6"."""
    return re.split(r"[~+]", run([bin_dir / "containerd", "--version"]).split()[2].lstrip("v"))[0]


def nerdctl(version: str) -> Path:
    """The real nerdctl of that release, built from its module; raises PeerUnavailable with the reason."""
    if version not in NERDCTL_VERSIONS:
        raise PeerUnavailable(f"no such nerdctl: {version} (have {', '.join(NERDCTL_VERSIONS)})")
    return golang.nerdctl(version)


def crictl() -> Path:
    """The real crictl, built from its module; raises PeerUnavailable with the reason."""
    return golang.crictl()


def olareg() -> Path:
    """The real olareg, built from its module; raises PeerUnavailable with the reason."""
    return golang.olareg()


def kustomize() -> Path:
    """The real kustomize, built from its module; raises PeerUnavailable with the reason."""
    return golang.kustomize()


def kubeconform() -> Path:
    """The real kubeconform, built from its module; raises PeerUnavailable with the reason."""
    return golang.kubeconform()


def module(name: str) -> Path:
    """The sources of a Go module of golang.SOURCES; raises PeerUnavailable with the reason."""
    return golang.source(name)


def tool_environment(*first: Path) -> dict[str, str]:
    """This process's environment with the folders `first` in front of PATH."""
    return {**os.environ, "PATH": os.pathsep.join([*map(str, first), os.environ.get("PATH", os.defpath)])}


def _describe(name: str) -> str:
    """One line about a peer by its name on the command line; downloads it if missing."""
    kind, _, version = name.partition("@")
    if kind == "containerd":
        peer = containerd(version)
        return f"{peer.version}  {peer.bin_dir}"
    if kind == "nerdctl":
        return f"{version}  {nerdctl(version)}"
    if kind == "crictl":
        return f"1.34.0  {crictl()}"
    if kind == "olareg":
        return f"0.1.1  {olareg()}"
    if kind == "kustomize":
        return f"5.8.2  {kustomize()}"
    if kind == "kubeconform":
        return f"0.8.0  {kubeconform()}"
    if kind == "podman":
        program = podman.program()
        return f"{package_version(program.parents[2], 'podman')}  {program}"
    if kind in golang.SOURCES:
        return f"{golang.SOURCES[kind]}  {module(kind)}"
    path = tool(name)
    spec = TOOLS[name]
    root = next(folder for folder in path.parents if (folder / "packages.txt").exists())
    return f"{package_version(root, spec.package)}  {path}"


def main(arguments: list[str]) -> int:
    """Get the named peers (default: those that the tests need), print their versions; 1 if one failed."""
    least = [*(f"containerd@{one}" for one in GENERATIONS), "docker-registry"]
    rest = [
        *TOOLS,
        "crictl",
        "olareg",
        "kustomize",
        "kubeconform",
        "podman",
        *(f"nerdctl@{one}" for one in NERDCTL_VERSIONS),
        *golang.SOURCES,
    ]
    names = [one for one in arguments if not one.startswith("-")] or least
    if "--all" in arguments:
        names = list(dict.fromkeys([*least, *rest]))
    failed = 0
    for name in names:
        try:
            print(f"{name:18} {_describe(name)}", flush=True)
        except PeerUnavailable as error:
            failed = 1
            print(f"{name:18} unavailable: {error}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
