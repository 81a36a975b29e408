"""Doing a cell: lay out the state, ask diagnose, run the tool, compare."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from integration.matrix.arrivals import arrive
from integration.matrix.cells import Cell
from integration.matrix.predictions import Facts, Prediction, predict, wrong
from integration.matrix.site import VALIDATION, Site
from integration.matrix.tools import PLATFORM, Outcome, client, run, values
from integration.rig.daemons import ISOLATED_CONTENT, Containerd, LoggingProxy, Registry
from pyctrd import Diagnosis


@dataclass(frozen=True)
class Result:
    """A cell with what was foretold and what came; `wrong` lists the differences."""

    cell: Cell
    prediction: Prediction
    outcome: Outcome
    wrong: tuple[str, ...]


class Workshop:
    """The registry and the daemons, each started when it is first needed. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = ExitStack()
        self._daemons: dict[str, Containerd] = {}
        self._registry: Registry | None = None

    def __enter__(self) -> Workshop:
        self._registry = self._open.enter_context(Registry(self._folder / "registry", config=VALIDATION))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def daemon(self, generation: str, purpose: str = "") -> Containerd:
        """The containerd of a generation; namespaces share no content, so each pull is from the registry."""
        key = generation + purpose
        if key not in self._daemons:
            made = Containerd(generation, self._folder / f"containerd-{key}", config=ISOLATED_CONTENT)
            self._daemons[key] = self._open.enter_context(made)
        return self._daemons[key]

    def result(self, cell: Cell) -> Result:
        """Do one cell. Raises PeerUnavailable, and AssertionError where the state cannot be laid out."""
        assert self._registry, "not started"
        folder = Path(tempfile.mkdtemp(prefix="cell-", dir=self._folder))
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            proxy = LoggingProxy()
            stack.callback(proxy.close)
            site = Site(self.daemon(cell.row.daemon), self._registry, proxy, folder, cell.row.image)
            return self._do(cell, site)

    def _do(self, cell: Cell, site: Site) -> Result:
        arrive(site, cell.row.arrival)
        found = _diagnose(cell, site)
        prediction = predict(cell, found)
        before = site.have()
        _befall(cell, site)
        outcome = run(cell.tool, site, cell.row.ask)
        facts = Facts(
            old=frozenset(site.graph.blobs),
            new=frozenset(site.moved.blobs),
            old_root=site.graph.digest,
            new_root=site.moved.digest,
            online=cell.row.circumstance != "no network",
            before=before,
        )
        differences = wrong(cell, prediction, outcome, facts)
        if not differences and not outcome.exit_code and not cell.tool.by_daemon:
            differences = self._load(cell, site, outcome)
        return Result(cell, prediction, outcome, tuple(differences))

    def _load(self, cell: Cell, site: Site, outcome: Outcome) -> list[str]:
        """Let the real ctr import the archive into an empty store; tell what it did not take over."""
        assert outcome.archive
        loader = self.daemon("2", "-loader")
        empty = site.namespace
        wanted = PLATFORM.get(cell.row.ask)
        flags = ["--platform", wanted] if wanted else ["--all-platforms"]
        done = loader.ctr(
            "images",
            "import",
            "--local",
            "--no-unpack",
            *flags,
            outcome.archive.path,
            namespace=empty,
            check=False,
        )
        if done.returncode:
            return [f"ctr cannot import the archive: {done.stderr.decode(errors='replace')}"]
        listed = loader.ctr("images", "ls", "-q", namespace=empty).stdout.decode().split()
        return [] if site.name in listed else [f"the import has no {site.name}, but {listed}"]


def _diagnose(cell: Cell, site: Site) -> Diagnosis:
    """Ask diagnose, before the tool runs; it makes no request."""
    site.forget_requests()
    with client(site) as pyctrd:
        found = pyctrd.diagnose(site.name, values(cell.row.ask))
    assert not site.requests()
    return found


def _befall(cell: Cell, site: Site) -> None:
    """Let happen what happens to network and tag between the pull and the save."""
    if cell.row.circumstance == "no network":
        site.cut_network()
    elif cell.row.circumstance == "tag gone":
        site.remove_tag()
    elif cell.row.circumstance == "tag moved":
        site.move_tag()
