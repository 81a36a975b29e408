"""The cells: not every combination, but every image, arrival, question and circumstance with every tool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from integration.matrix.tools import TOOLS, Ask, Tool
from integration.rig.peers import NEWEST

Circumstance = Literal["registry", "no network", "tag gone", "tag moved"]


@dataclass(frozen=True)
class Row:
    """A state and a question: the image, how it was stored, selected platforms, and the state of the tag.

    `daemon` is the generation of the containerd that has the image. `chance`: what the pull leaves varies
    between runs; the forecasts must still be right, but the page cannot show a result.
    """

    image: str
    arrival: str
    ask: Ask = "host"
    circumstance: Circumstance = "registry"
    daemon: str = NEWEST
    chance: bool = False

    def __str__(self) -> str:
        """Return its name for pytest."""
        return "-".join((self.image, self.arrival, self.ask, self.circumstance, self.daemon)).replace(
            " ", "_"
        )


@dataclass(frozen=True)
class Cell:
    """One run of one tool."""

    row: Row
    tool: Tool

    def __str__(self) -> str:
        """Return its name for pytest."""
        return f"{self.row}-{self.tool.name.replace(' ', '_')}"


ROWS = (
    # The mismatch itself, by the tool that pulled.
    Row("five platforms", "ctr pull"),
    Row("five platforms", "ctr pull --local"),
    Row("five platforms", "nerdctl pull"),
    Row("five platforms", "ctr 1.7 pull", "host", "no network"),
    Row("five platforms", "ctr pull", "host", "no network"),
    Row("five platforms", "ctr pull", "host", "tag gone"),
    Row("five platforms", "ctr pull", "host", "tag moved"),
    Row("five platforms", "ctr pull", "arm64"),
    Row("five platforms", "ctr pull", "arm64", "no network"),
    Row("five platforms", "ctr pull", "all"),
    Row("five platforms", "ctr pull", "riscv64"),
    Row("five platforms", "ctr pull, all platforms", "all", "no network"),
    Row("five platforms", "ctr pull, arm64", "host"),
    Row("five platforms", "nerdctl pull", "arm64"),
    Row("five platforms", "nerdctl pull", "all", "tag gone"),
    Row("five platforms", "nerdctl pull, all platforms", "all"),
    Row("five platforms", "ctr 1.7 import, amd64", "all"),
    Row("Docker list", "ctr pull"),
    Row("Docker list", "ctr 1.6 pull"),
    Row("Docker list", "kubelet, layers discarded"),
    Row("Docker list", "kubelet, layers discarded", "host", "no network"),
    Row("attestations", "ctr pull"),
    Row("attestations", "ctr pull", "all"),
    Row("attestations", "ctr pull", "arm64", "tag moved"),
    Row("attestations", "nerdctl pull, all platforms", "all", "no network"),
    Row("attestations", "ctr import, all platforms", "all", "no network"),
    Row("nested index", "ctr pull"),
    Row("nested index", "ctr pull", "all"),
    Row("nested next to amd64", "ctr pull"),
    Row("nested next to amd64", "ctr pull", "all", "tag gone"),
    Row("shared layers", "ctr pull"),
    Row("shared layers", "nerdctl pull, arm64", "host"),
    Row("shared layers", "ctr pull", "arm64"),
    Row("one config, two manifests", "ctr pull", chance=True),
    Row("one config, two manifests", "ctr 1.7 pull --all-metadata"),
    Row("one config, two manifests", "kubelet, layers discarded", "all"),
    Row("host platform absent", "ctr pull, arm64"),
    Row("host platform absent", "ctr pull, arm64", "arm64"),
    Row("host platform absent", "nerdctl pull, all platforms", "all"),
    Row("single manifest", "ctr pull"),
    Row("single manifest", "kubelet, layers discarded"),
    Row("single manifest", "kubelet, layers discarded", "host", "tag moved"),
    Row("single manifest", "ctr import", "arm64", "no network"),
    Row("zstd", "ctr pull", "host", "tag moved"),
    Row("zstd", "ctr 1.7 import, amd64", "arm64"),
    Row("foreign layers", "ctr pull"),
    Row("foreign layers", "kubelet, layers discarded", "host"),
    # The same tools on the other daemons.
    Row("five platforms", "ctr pull", "host", "registry", "2.3"),
    Row("five platforms", "ctr pull", "all", "registry", "2.3"),
    Row("attestations", "ctr pull", "all", "registry", "2.3"),
    Row("nested next to amd64", "ctr pull", "arm64", "no network", "2.3"),
    Row("five platforms", "ctr pull", "host", "registry", "2.1"),
    Row("single manifest", "kubelet, layers discarded", "host", "tag gone", "2.1"),
    Row("five platforms", "ctr 1.7 pull --all-metadata", "host", "registry", "1.7"),
    Row("attestations", "nerdctl pull", "all", "registry", "1.7"),
    Row("five platforms", "ctr 1.7 pull --all-metadata", "arm64", "registry", "1.6"),
    Row("single manifest", "kubelet, layers discarded", "host", "tag gone", "1.6"),
)


def cells_of(row: Row) -> list[Cell]:
    """The cells of a row, in the order of TOOLS."""
    return [Cell(row, tool) for tool in TOOLS if tool.runs_on(row.daemon)]
