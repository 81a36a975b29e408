"""How the image came into the store: every state is created by the tool that creates it in practice."""

from __future__ import annotations

from collections.abc import Callable
from subprocess import CompletedProcess

from integration.matrix.images import AMD64, ARM64
from integration.matrix.site import Site
from integration.rig.peers import NEWEST
from integration.rig.store import collect_garbage, prune_references

Arrival = Callable[[Site], None]
_NEWEST_NERDCTL = "2.3.5"


def _ctr(generation: str, *flags: str) -> Arrival:
    return lambda site: _pulled(site, generation, *flags)


def _pulled(site: Site, generation: str, *flags: str) -> None:
    _must(site.ctr(generation, "images", "pull", "--plain-http", *flags, site.name))


def _nerdctl(*flags: str) -> Arrival:
    def arrive(site: Site) -> None:
        _must(site.nerdctl(_NEWEST_NERDCTL, "pull", "--quiet", *flags, site.name))

    return arrive


def _imported(generation: str, *flags: str) -> Arrival:
    def arrive(site: Site) -> None:
        _must(site.ctr(generation, "images", "import", *flags, site.layout_archive()))

    return arrive


def _kubelet(site: Site) -> None:
    """What the CRI plugin leaves with discard_unpacked_layers: no labels for layers, and no layers."""
    _pulled(site, "1.7")
    _must(site.ctr(NEWEST, "images", "label", site.name, "io.cri-containerd.image=managed"))
    prune_references(site.daemon, site.namespace)


def _must(done: CompletedProcess[bytes]) -> None:
    assert done.returncode == 0, f"{done.args}: {done.stderr.decode(errors='replace')}"


ARRIVALS: dict[str, Arrival] = {
    "ctr pull": _ctr(NEWEST),
    "ctr pull --local": _ctr(NEWEST, "--local"),
    "ctr pull, arm64": _ctr(NEWEST, "--platform", ARM64),
    "ctr pull, all platforms": _ctr(NEWEST, "--all-platforms"),
    "ctr 1.6 pull": _ctr("1.6"),
    "ctr 1.7 pull": _ctr("1.7"),
    "ctr 1.7 pull --all-metadata": _ctr("1.7", "--all-metadata"),
    "nerdctl pull": _nerdctl(),
    "nerdctl pull, arm64": _nerdctl("--platform", ARM64),
    "nerdctl pull, all platforms": _nerdctl("--all-platforms"),
    "ctr import": _imported(NEWEST),
    "ctr 1.7 import, amd64": _imported("1.7", "--platform", AMD64),
    "ctr import, all platforms": _imported(NEWEST, "--all-platforms"),
    "kubelet, layers discarded": _kubelet,
}


def arrive(site: Site, how: str) -> None:
    """Store the image, and collect garbage."""
    ARRIVALS[how](site)
    collect_garbage(site.daemon, site.namespace)
