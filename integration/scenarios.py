"""Images and options for comparing pull with ctr, and the flags that make ctr do the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pyctrd.oci.platforms import select
from pyctrd.operations.pull import PullOptions
from tests.support import images, shapes
from tests.support.images import Graph

Mode = Literal["all", "selected"]
VARIANTS = ("linux/amd64/v2", "linux/amd64", "linux/arm/v6", "linux/arm/v7")


@dataclass(frozen=True)
class Oracle:
    """A real ctr: its generation, and whether it pulls itself (`--local`) or lets the daemon pull."""

    generation: str
    local: bool

    def __str__(self) -> str:
        """Return its name for pytest."""
        return f"{self.generation}{'-local' if self.is_2 and self.local else ''}"

    @property
    def is_2(self) -> bool:
        """Whether this is a 2.x, where the daemon pulls by default."""
        return self.generation.startswith("2.")

    def pull_flags(self, mode: Mode) -> list[str]:
        """Return the flags for the metadata mode."""
        flags = ["--plain-http"]
        if self.is_2:
            flags += ["--local"] if self.local else []
            return flags + (["--skip-metadata"] if mode == "selected" else [])
        return flags + (["--all-metadata"] if mode == "all" else [])


ORACLES = (
    Oracle("1.6", True),
    Oracle("1.7", True),
    *(Oracle(generation, local) for generation in ("2.1", "2.3", "2.4") for local in (False, True)),
)


@dataclass(frozen=True)
class Scenario:
    """An image and options with which every ctr and pyctrd must leave the same content.

    `not_on` names the oracles that differ, with the row of docs/differences.md that explains it.
    """

    name: str
    graph: Callable[[], Graph]
    platforms: Sequence[str] = ()
    all_platforms: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    not_on: Mapping[str, str] = field(default_factory=dict)

    def options(self, oracle: Oracle, mode: Mode) -> PullOptions:
        """Return pyctrd's options; ctr 1.x unpacks all platforms, 2.x none."""
        return PullOptions(
            platforms=select("all" if self.all_platforms else self.platforms),
            metadata=mode,
            labels=self.labels,
            unpack=True if self.all_platforms and oracle.local else None,
        )

    def ctr_flags(self) -> list[str]:
        """Return ctr's flags."""
        flags = [f"--platform={platform}" for platform in self.platforms]
        flags += ["--all-platforms"] if self.all_platforms else []
        return flags + [f"--label={key}={value}" for key, value in self.labels.items()]


NOT_ON_2 = dict.fromkeys(("2.1", "2.3", "2.4"), "P2")

SCENARIOS = (
    Scenario("single", shapes.single),
    Scenario("single-docker", lambda: shapes.single(docker=True)),
    Scenario("single-foreign-platform", lambda: shapes.single("linux/arm64")),
    Scenario("five-platforms", shapes.five_platform),
    Scenario("mixed", shapes.mixed),
    Scenario("mixed-386", shapes.mixed, platforms=["linux/386"]),
    Scenario("mixed-arm64", shapes.mixed, platforms=["linux/arm64"]),
    Scenario("mixed-two", shapes.mixed, platforms=["linux/arm64", "linux/amd64"]),
    Scenario("all-platforms", shapes.five_platform, all_platforms=True),
    Scenario("all-with-attestation", shapes.mixed, all_platforms=True, not_on={"1.6": "P9"}),
    Scenario("labels", shapes.single, labels={"io.example.team": "storage", "empty": "x=y"}),
    Scenario("nested", shapes.nested),
    Scenario("variants", lambda: shapes.multi(VARIANTS)),
    Scenario("shared-layers", shapes.shared_layers),
    Scenario("compressions", lambda: shapes.compressions(("gzip", "", "zstd"))),
    Scenario("inline-data", shapes.inline_data),
    Scenario("artifact", shapes.artifact, not_on={"1.6": "P2"}),
    Scenario("artifact-subject", lambda: shapes.artifact(subject=shapes.single()), not_on={"1.6": "P2"}),
    Scenario(
        "signature",
        shapes.signature,
        not_on=dict.fromkeys(("1.6", "1.7", "2.1-local", "2.3-local", "2.4-local"), "P2"),
    ),
    Scenario("attested-as-amd64", shapes.attested_as_amd64, all_platforms=True, not_on={"1.6": "P9"}),
    Scenario("large-config", lambda: shapes.large_config(5 << 20)),
    Scenario("octet-stream-config", shapes.octet_stream_config, not_on=NOT_ON_2),
    Scenario("unknown-child", lambda: images.index([shapes.multi(["linux/amd64"]).child(0), _weird_child()])),
)


def _weird_child() -> Graph:
    blob = images.Blob(b'{"what": "is this"}', "application/vnd.example.weird+json")
    return Graph(blob.descriptor, {blob.digest: blob.data})
