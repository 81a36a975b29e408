"""Run a row of cells: create the state, run diagnose, run the tool, compare."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

from integration.matrix.arrivals import arrive
from integration.matrix.cells import Cell, Row, cells_of
from integration.matrix.images import IMAGES
from integration.matrix.predictions import Facts, Prediction, predict, wrong
from integration.matrix.site import TAG, VALIDATION, Site, apply_circumstance
from integration.matrix.tools import PLATFORM, Outcome, client, run, values
from integration.rig.daemons import ISOLATED_CONTENT, Containerd, LoggingProxy, Registry
from integration.rig.peers import NEWEST
from integration.rig.process import remove_folder
from integration.rig.publish import push


@dataclass(frozen=True)
class Result:
    """A cell with its prediction and its result; `wrong` lists the differences."""

    cell: Cell
    prediction: Prediction
    outcome: Outcome
    wrong: tuple[str, ...]


class Workshop:
    """The registry, and a containerd that archives are imported into. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = ExitStack()
        self._registry: Registry | None = None
        self._repositories: set[str] = set()

    def __enter__(self) -> Workshop:
        self._registry = self._open.enter_context(Registry(self._folder / "registry", config=VALIDATION))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @cached_property
    def _loader(self) -> Containerd:
        loader = Containerd(NEWEST, self._folder / "loader", config=ISOLATED_CONTENT)
        return self._open.enter_context(loader)

    def results(self, row: Row, leave_out: frozenset[str] = frozenset()) -> list[Result]:
        """Run the cells of a row. Raises PeerUnavailable, or AssertionError if the state cannot be created.

        Tools that should fetch nothing share a site, since they must leave it unchanged, which is checked
        after each of them. A tool that uses the registry gets a new site of its own. Tools whose names are
        in `leave_out` are skipped.
        """
        cells = [cell for cell in cells_of(row) if cell.tool.name not in leave_out]
        with self._daemon(row.daemon) as daemon:
            with self._site(row, daemon) as site:
                predicted = _predict(cells, site)
                quiet = [cell for cell in cells if not predicted[cell].network]
                done = {cell: self._do(cell, site, predicted[cell]) for cell in quiet}
            for cell in cells:
                if cell not in done:
                    with self._site(row, daemon) as site:
                        done[cell] = self._do(cell, site, _predict([cell], site)[cell])
        return [done[cell] for cell in cells]

    @contextmanager
    def _daemon(self, generation: str) -> Iterator[Containerd]:
        """A containerd for one row: diagnose reads every namespace, so there should be few."""
        folder = Path(tempfile.mkdtemp(prefix="containerd-", dir=self._folder))
        try:
            with Containerd(generation, folder, config=ISOLATED_CONTENT) as daemon:
                yield daemon
        finally:
            remove_folder(folder)

    @contextmanager
    def _site(self, row: Row, daemon: Containerd) -> Iterator[Site]:
        """Create the row's state, before changes of network and tag."""
        assert self._registry, "not started"
        folder = Path(tempfile.mkdtemp(prefix="site-", dir=self._folder))
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            proxy = LoggingProxy()
            stack.callback(proxy.close)
            site = Site(daemon, self._registry, proxy, folder, row.image, self._published(row))
            arrive(site, row.arrival)
            yield site

    def _published(self, row: Row) -> str:
        """Return the shared repository of the image; "" if a row needs one of its own."""
        assert self._registry, "not started"
        if row.circumstance in ("tag gone", "tag moved") or row.image == "foreign layers":
            return ""
        repository = "matrix/" + re.sub("[^a-z0-9]+", "-", row.image.lower())
        if repository not in self._repositories:
            push(IMAGES[row.image](""), self._registry, repository, TAG)
            self._repositories.add(repository)
        return repository

    def _do(self, cell: Cell, site: Site, prediction: Prediction) -> Result:
        before = site.have()
        apply_circumstance(cell.row.circumstance, site)
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
        if not prediction.network and site.have() != before:
            differences.append("changed the store, and was not to")
        if not differences and not outcome.exit_code and not cell.tool.by_daemon:
            differences = self._load(cell, site, outcome)
        return Result(cell, prediction, outcome, tuple(differences))

    def _load(self, cell: Cell, site: Site, outcome: Outcome) -> list[str]:
        """Import the archive with ctr into an empty store; return what it did not import."""
        assert outcome.archive
        empty = f"{site.namespace}-{re.sub('[^a-z0-9]+', '-', cell.tool.name)}"
        wanted = PLATFORM.get(cell.row.ask)
        flags = ["--platform", wanted] if wanted else ["--all-platforms"]
        done = self._loader.ctr(
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
        listed = self._loader.ctr("images", "ls", "-q", namespace=empty).stdout.decode().split()
        return [] if site.name in listed else [f"the import has no {site.name}, but {listed}"]


def _predict(cells: Sequence[Cell], site: Site) -> dict[Cell, Prediction]:
    """Ask diagnose before any tool runs, for cells of one row; it makes no request."""
    site.forget_requests()
    with client(site) as pyctrd:
        found = pyctrd.images.diagnose(site.name, platforms=values(cells[0].row.ask))
    assert not site.requests()
    return {cell: predict(cell, found) for cell in cells}
