"""Random cases whose forecasts were wrong once: the seed, the containerd, and what was wrong.

A seed stands for the same case as long as random_images and random_cases draw in the same order. After a
change of that order, new seeds have to be found, or the cases written by hand in hand_made.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from integration.rig.peers import NEWEST


@dataclass(frozen=True)
class Found:
    """A case by its seed; `on` is the containerd."""

    seed: str
    on: str
    was: str

    def __str__(self) -> str:
        """Return its name for pytest."""
        return f"{self.seed}-{self.on}"


FOUND = (
    Found("b-2", NEWEST, "pyctrd save works: a manifest was absent, and the image has none for arm64"),
    Found("b-17", "2.1", "ctr fails: os.features count in Debian's 2.1.9, so the child is skipped"),
    Found("b-27", "1.7", "pyctrd save fetches nothing: it fetched a layer of a BuildKit cache, then failed"),
    Found("b-33", "2.1", "ctr and nerdctl 2.3 fail for a config that belongs to a child with os.features"),
    Found("b-41", NEWEST, "pyctrd save fetches nothing: it fetched the config of such a cache, then failed"),
    Found("b-51", "1.7", "nerdctl 2.0.3 fetches for the name team/app:1: it asks a host `team`"),
    Found("b-64", NEWEST, "pyctrd save fetches nothing: as b-41, with nested indexes"),
    Found("c-0", NEWEST, "nerdctl fails without the image's index: it reports success"),
    Found("c-81", NEWEST, "pyctrd save works: a layer in an index was treated as an image of any platform"),
    Found("c-105", NEWEST, "pyctrd save fetches nothing: it fetched eight blobs, then failed"),
    Found("c-181", "1.7", "pyctrd save works: as c-81, and the nested index is absent, so it is unknown"),
    Found("c-211", "1.7", "pyctrd save downloads: no repository was known to have the missing content"),
    Found("e-10", NEWEST, "pyctrd save fetches nothing: as c-105"),
    Found("5-73", NEWEST, "pyctrd save fetches nothing: it fetched content of no image, then failed"),
    Found("f-67", NEWEST, "pyctrd save fetches nothing: as b-41"),
)
