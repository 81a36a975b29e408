"""Constant garbage collection: a containerd that collects after every change, and a client that causes many.

`HASTY` is the configuration of such a daemon. `Collector` runs the real ctr without a pause: leases are
created and deleted with --sync, other images imported and deleted with --sync (they share layers with the
images of the test), and optionally `ctr content prune references`.
"""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from integration.rig.containerd import Containerd
from integration.rig.store import State, snapshot_of

HASTY = """
[plugins."io.containerd.gc.v1.scheduler"]
  pause_threshold = 0.5
  deletion_threshold = 1
  mutation_threshold = 1
  schedule_delay = "0ms"
  startup_delay = "1ms"
"""


class Collector:
    """Runs until the context is left; `counts` has the number of runs of each action.

    `bait` is an archive with an image whose name is `bait_name`: it is imported and deleted all the time.
    """

    def __init__(
        self, daemon: Containerd, namespace: str, *, bait: Path, bait_name: str, prune: bool = False
    ) -> None:
        self._daemon = daemon
        self._namespace = namespace
        self._bait, self._bait_name = bait, bait_name
        self._stop = threading.Event()
        self._failures: list[BaseException] = []
        self.counts: Counter[str] = Counter()
        jobs: list[Callable[[int], None]] = [self._lease, self._image]
        jobs += [self._prune] if prune else []
        self._threads = [threading.Thread(target=self._repeat, args=(job,), daemon=True) for job in jobs]

    def __enter__(self) -> Collector:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        if self._failures and kind is None:
            raise self._failures[0]

    def _repeat(self, job: Callable[[int], None]) -> None:
        for turn in itertools.count():
            if self._stop.is_set():
                return
            try:
                job(turn)
            except BaseException as error:  # noqa: BLE001 - told when the context is left
                self._failures.append(error)
                return

    def _ctr(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        return self._daemon.ctr(*arguments, namespace=self._namespace, check=check)

    def _lease(self, turn: int) -> None:
        """Another client's lease; its deletion returns after a collection."""
        self._ctr("leases", "create", "--id", f"hostile-{turn}")
        self._ctr("leases", "delete", "--sync", f"hostile-{turn}")
        self.counts["leases deleted"] += 1

    def _image(self, turn: int) -> None:
        """Another client's image with shared layers; failures of ctr itself are ignored."""
        self._ctr("images", "import", "--no-unpack", self._bait, check=False)
        self._ctr("images", "rm", *(["--sync"] if turn % 2 else []), self._bait_name, check=False)
        self.counts["images deleted"] += 1

    def _prune(self, _turn: int) -> None:
        """Remove the labels for layers from every manifest, and collect."""
        # It fails if another client deletes content that it has listed.
        self._ctr("content", "prune", "references", check=False)
        self.counts["references pruned"] += 1


# --- what is left afterwards ------------------------------------------------------------------------------


def bad_blobs(daemon: Containerd, digests: Sequence[str] | None = None) -> list[str]:
    """Hash the given blobs in containerd's files; return those that are damaged or missing.

    Without names all blobs are hashed, except those that are collected meanwhile.
    """
    folder = daemon.root / "root/io.containerd.content.v1.content/blobs/sha256"
    if digests is None:
        found = list(folder.iterdir()) if folder.is_dir() else []
        return [f"sha256:{place.name}" for place in found if _encoded(place) not in (None, place.name)]
    named = [(digest, folder / digest.removeprefix("sha256:")) for digest in digests]
    return [digest for digest, place in named if _encoded(place) != place.name]


def _encoded(path: Path) -> str | None:
    """Return the SHA-256 of a file, or None if there is none."""
    with suppress(FileNotFoundError), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
    return None


def unfinished(state: State) -> list[str]:
    """List unfinished work in a namespace: ingests, leases, uncommitted snapshots."""
    return [
        *(f"ingest {ref}" for ref in state["ingests"]),
        *(f"lease {name} {lease['labels']}" for name, lease in state["leases"].items()),
        *(
            f"snapshot {key}"
            for keys in state["snapshots"].values()
            for key, snapshot in keys.items()
            if snapshot["kind"] != "Committed"
        ),
    ]


def empty(daemon: Containerd, namespace: str) -> list[str]:
    """Delete every image of the namespace and collect; return what is left although nothing refers to it."""
    names = list(snapshot_of(daemon, namespace)["images"])
    if names:
        daemon.ctr("images", "rm", *names, namespace=namespace)
    # Snapshots are removed by a later collection than the content that refers to them.
    for turn in range(2):
        daemon.ctr("leases", "create", "--id", f"empty-{turn}", namespace=namespace)
        daemon.ctr("leases", "delete", "--sync", f"empty-{turn}", namespace=namespace)
    state = snapshot_of(daemon, namespace)
    return [
        *unfinished(state),
        *state["content"],
        *(f"snapshot {key}" for keys in state["snapshots"].values() for key in keys),
    ]
