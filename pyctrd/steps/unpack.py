"""Unpack an image's layers into a snapshotter, where `ctr run` and other clients find them.

Where the snapshotter allows it, several layers are extracted at once, in the order in which they arrive, and
committed in order. Sources: containerd core/unpack/unpacker.go, core/rootfs/apply.go, core/diff/apply; OCI
image-spec config.md#layer-chainid.
"""

from __future__ import annotations

import base64
import concurrent.futures
import queue
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Final, TypeAlias

from pyctrd.errors import AlreadyExists, ContentError, DaemonError, DigestMismatch, NotFound, PyctrdError
from pyctrd.oci import mediatypes
from pyctrd.oci.model import MAX_CONFIG_BYTES, Descriptor, Digest, ImageConfig, Manifest, Mount
from pyctrd.ports import SnapshotStore, Store
from pyctrd.progress import Progress, ProgressSink, no_progress
from pyctrd.steps.fetch import Stopped

# With this label, Prepare returns ALREADY_EXISTS, and adds the snapshot to the lease, if the chain is already
# committed (containerd core/snapshots/snapshotter.go LabelSnapshotRef). containerd 1.6 does not lease it; the
# check at the end of `unpack` covers that.
_SNAPSHOT_REF: Final = "containerd.io/snapshot.ref"
_INHERITED_PREFIX: Final = "containerd.io/snapshot/"
# With these, which an image must not choose, the files get other owners.
_NOT_INHERITED: Final = frozenset({f"{_INHERITED_PREFIX}uidmapping", f"{_INHERITED_PREFIX}gidmapping"})
_TRIES: Final = 3
# How many layers are extracted at once.
_AT_ONCE: Final = 2
# How long to wait for the threads after an error: they clean up by themselves, and the lease does otherwise.
_SHUTDOWN_SECONDS: Final = 2.0
# A path below which nothing can exist.
_NO_FOLDER: Final = "/dev/null"

# Returns the future of a blob, which ends when it is in the store.
Stored: TypeAlias = Callable[[Digest], concurrent.futures.Future[Any]]


def in_store(_digest: Digest) -> concurrent.futures.Future[Any]:
    """Return the future of a blob that needs no download."""
    done = concurrent.futures.Future[None]()
    done.set_result(None)
    return done


def unpack(
    store: Store,
    manifest: Manifest,
    config: ImageConfig,
    *,
    snapshotter: str,
    stored: Stored = in_store,
    max_concurrent: int | None = None,
    stop: threading.Event | None = None,
    progress: ProgressSink = no_progress,
) -> Digest | None:
    """Unpack the layers of a manifest; return the chain id of the top one, None without layers.

    A layer is extracted when it is `stored`, so that unpacking starts before the last download ends, at most
    `max_concurrent` at once if the snapshotter can rebase, else one by one. Labels each layer with its diff
    id, and the config with the top snapshot, which protects the snapshots. Raises ContentError if the numbers
    of layers and diff ids differ, DigestMismatch if an unpacked layer does not match its diff id,
    DaemonError; Stopped after `stop`.
    """
    layers = [layer for layer in manifest.layers if mediatypes.is_layer(layer.media_type)]
    if not layers:  # a signature or an SBOM, whose config may have any diff ids
        return None
    diff_ids = config.rootfs.diff_ids
    if len(layers) != len(diff_ids):
        raise ContentError(
            f"mismatched image rootfs and manifest layers: {len(diff_ids)} diff ids in config "
            f"{manifest.config.digest}, {len(layers)} layers",
            hint="the image is broken; `unpack=False` pulls it anyway",
        )
    chain_ids = config.rootfs.chain_ids
    parents = ["", *map(str, chain_ids)]
    steps = list(zip(layers, diff_ids, chain_ids, parents[:-1], strict=True))
    top = str(chain_ids[-1])
    if _is_unpacked(store, snapshotter, manifest.config.digest, top):
        return Digest(top)
    for left in reversed(range(_TRIES)):
        tasks = [_LayerTask(store, snapshotter, *step, progress) for step in steps]
        try:
            missing = _missing(tasks)
            if len(missing) > 1 and store.snapshots.can_rebase(snapshotter):
                for task in missing[1:]:
                    task.is_rebased = True
            if missing:
                _Chain(missing, stored, min(max_concurrent or _AT_ONCE, _AT_ONCE), stop).run()
            labels = {f"{mediatypes.GC_REF_SNAPSHOT}{snapshotter}": top}
            store.content.set_labels(manifest.config.digest, labels)
            store.snapshots.stat(snapshotter, top)  # from now on the label protects it
            break
        except NotFound as error:
            # A snapshot that existed before is not under our lease: another client may remove it.
            if error.kind != "snapshot" or not left:
                raise
    return Digest(top)


def _is_unpacked(store: Store, snapshotter: str, config: Digest, top: str) -> bool:
    """Whether the top snapshot exists, and the label of the config protects it: then nothing is written."""
    try:
        labels = store.content.info(config).labels
        if labels.get(f"{mediatypes.GC_REF_SNAPSHOT}{snapshotter}") != top:
            return False
        store.snapshots.stat(snapshotter, top)
    except NotFound:
        return False
    return True


def _missing(tasks: Sequence[_LayerTask]) -> Sequence[_LayerTask]:
    """Return the layers that may have no snapshot: none, the top one, or all of them.

    Asks for the top one only: it exists if all of them do, and has a parent if all the others do.
    """
    top = tasks[-1]
    try:
        return () if top.prepare() else (top,)
    except NotFound as error:
        if error.kind != "snapshot":
            raise
    return tasks


class _Chain:
    """Extracts layers in threads, and commits them in order."""

    def __init__(
        self,
        tasks: Sequence[_LayerTask],
        stored: Stored,
        max_concurrent: int,
        stop: threading.Event | None,
    ) -> None:
        self._tasks = tasks
        self._stored = stored
        self._max_concurrent = max_concurrent
        self._stop = stop
        self._failed = threading.Event()
        self._events = queue.SimpleQueue[tuple[_LayerTask, concurrent.futures.Future[Any] | None]]()
        self._waiting: list[_LayerTask] = []  # in the store, and not extracted
        self._running: dict[_LayerTask, concurrent.futures.Future[bool]] = {}
        self._extracted = set[_LayerTask]()
        self._committed = 0

    def run(self) -> None:
        """Return when all layers are committed; after an error, no active snapshot is left."""
        pool = concurrent.futures.ThreadPoolExecutor(self._max_concurrent, thread_name_prefix="pyctrd-layer")
        try:
            for task in self._tasks:
                # `concurrent.futures.wait` never returns a future that was cancelled; a callback is called.
                arrived = partial(self._arrived, task)
                self._stored(task.layer.digest).add_done_callback(arrived)
            while self._committed < len(self._tasks):
                self._handle(*self._events.get())
                self._commit()
                self._start(pool)
        except BaseException:
            self._failed.set()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            running = [future for future in self._running.values() if not future.cancelled()]
            unfinished = concurrent.futures.wait(running, _SHUTDOWN_SECONDS).not_done
            for task in self._tasks:
                if self._running.get(task) not in unfinished:
                    task.discard()

    def _arrived(self, task: _LayerTask, _blob: concurrent.futures.Future[Any]) -> None:
        self._events.put((task, None))

    def _ended(self, task: _LayerTask, future: concurrent.futures.Future[bool]) -> None:
        self._events.put((task, future))

    def _handle(self, task: _LayerTask, ended: concurrent.futures.Future[bool] | None) -> None:
        if self._stop is not None and self._stop.is_set():
            raise Stopped
        if ended is not None:
            del self._running[task]
            if ended.result():
                self._extracted.add(task)
                return
        self._waiting.append(task)

    def _commit(self) -> None:
        while (
            self._committed < len(self._tasks) and (task := self._tasks[self._committed]) in self._extracted
        ):
            if task.commit():
                self._committed += 1
            else:
                self._extracted.remove(task)
                self._waiting.append(task)

    def _start(self, pool: concurrent.futures.ThreadPoolExecutor) -> None:
        """Start what can be extracted now: a layer that needs its parent is the next to be committed."""
        bottom = self._tasks[self._committed] if self._committed < len(self._tasks) else None
        for task in [task for task in self._waiting if task.is_rebased or task is bottom]:
            self._waiting.remove(task)
            stored = self._stored(task.layer.digest).result
            future = pool.submit(copy_context().run, task.extract, stored, self._failed)
            self._running[task] = future
            future.add_done_callback(partial(self._ended, task))


class _LayerTask:
    """Unpacks one layer into a snapshot, which is active first, and then committed.

    If it `is_rebased`, the snapshot gets its parent at the commit, so the parent need not exist before.
    """

    def __init__(
        self,
        store: Store,
        snapshotter: str,
        layer: Descriptor,
        diff_id: Digest,
        chain_id: Digest,
        parent: str,
        progress: ProgressSink,
    ) -> None:
        self._store = store
        self._snapshotter = snapshotter
        self._diff_id = diff_id
        self._chain_id = chain_id
        self._parent = parent
        self._progress = progress
        self._key = ""
        self._mounts: Sequence[Mount] = ()
        self._left = _TRIES
        self.layer = layer
        self.is_rebased = False

    @property
    def _snapshots(self) -> SnapshotStore:
        return self._store.snapshots

    def prepare(self) -> bool:
        """Create the active snapshot; return True instead if the layer's snapshot exists.

        Raises NotFound if the parent does not exist.
        """
        key = f"extract-{base64.urlsafe_b64encode(secrets.token_bytes(9)).decode()} {self._chain_id}"
        parent = "" if self.is_rebased else self._parent
        try:
            mounts = self._snapshots.prepare(self._snapshotter, key, parent, self._labels())
        except AlreadyExists:
            return True
        self._key = key
        self._mounts = _without_parent(mounts) if self.is_rebased else mounts
        return False

    def extract(self, wait: Callable[[], object], failed: threading.Event) -> bool:
        """Extract the layer unless its snapshot exists; return False if that needs the parent.

        `wait` raises the error of the download. Nothing is left if another layer has `failed` meanwhile.
        """
        try:
            while not self._key:
                if self.prepare():
                    if self._exists():
                        return True
                    self._try_again()  # it was garbage collected between the two calls
            wait()
            self._progress(Progress(action="unpacking", descriptor=self.layer, total=self.layer.size))
            if not self._apply():
                self.discard()
                self.is_rebased = False
                return False
            # Before the snapshot is committed: clients that find the snapshot do not set the label.
            labels = {mediatypes.UNCOMPRESSED: str(self._diff_id)}
            self._store.content.set_labels(self.layer.digest, labels)
        except BaseException:
            self.discard()
            raise
        if failed.is_set():
            self.discard()
        return True

    def commit(self) -> bool:
        """Commit the extracted snapshot; return False if another client has committed the same chain.

        Its snapshot is just as good, but not under our lease; preparing it again adds it to the lease.
        """
        if not self._key:
            return True  # it existed
        parent = self._parent if self.is_rebased else ""
        try:
            self._snapshots.commit(self._snapshotter, str(self._chain_id), self._key, parent=parent)
        except AlreadyExists:
            key, self._key = self._key, ""
            self._snapshots.remove(self._snapshotter, key)
            self._try_again()
            return False
        self._key = ""
        self._progress(Progress(action="unpacked", descriptor=self.layer, total=self.layer.size))
        return True

    def discard(self) -> None:
        """Remove the active snapshot, if there is one.

        If even this fails (a full disk, a dead daemon), the snapshot is removed with the lease.
        """
        key, self._key = self._key, ""
        if key:
            with suppress(PyctrdError):
                self._snapshots.remove(self._snapshotter, key)

    def _apply(self) -> bool:
        try:
            applied = self._store.diffs.apply(self.layer, self._mounts)
        except DaemonError:
            if not self.is_rebased:
                raise
            return False
        if applied.digest != self._diff_id:
            raise DigestMismatch(
                f"wrong diff id calculated on extraction {applied.digest!s} of layer {self.layer.digest}, "
                f"the image config has {self._diff_id}",
                expected=str(self._diff_id),
                actual=str(applied.digest),
                hint="the image is broken; `unpack=False` pulls it anyway",
            )
        return True

    def _labels(self) -> dict[str, str]:
        inherited = {
            key: value
            for key, value in self.layer.annotations.items()
            if key.startswith(_INHERITED_PREFIX) and key not in _NOT_INHERITED
        }
        return {_SNAPSHOT_REF: str(self._chain_id), **inherited}

    def _exists(self) -> bool:
        try:
            self._snapshots.stat(self._snapshotter, str(self._chain_id))
        except NotFound:
            return False
        return True

    def _try_again(self) -> None:
        self._left -= 1
        if not self._left:
            raise ContentError(
                f"snapshot {self._chain_id} in {self._snapshotter} keeps disappearing while it is unpacked",
                hint="another client is deleting it at the same time; try again",
            )


def _without_parent(mounts: Sequence[Mount]) -> Sequence[Mount]:
    """Return the mounts for extracting a layer without its parent.

    In a bind mount, containerd removes what a whiteout names; in the upper folder of an overlay, it writes
    the whiteout, so its own unpacker replaces the mount, too (bindToOverlay). A folder that a layer has files
    in, but no entry for, gets the attributes that it has in the lower layers, which are unknown here;
    containerd would make it 0755 and root's. Looking for it below `lowerdir` fails instead, and the layer is
    extracted with its parent. So does mounting the overlay, which containerd tries in user namespaces.
    """
    options: list[str] = []
    for mount in mounts:
        options += [option for option in mount.options if option != "rbind"]
        options += [f"upperdir={mount.source}", f"lowerdir={_NO_FOLDER}"]
    return (Mount(type="overlay", source="overlay", options=tuple(options)),)


def read_config(store: Store, manifest: Manifest) -> ImageConfig:
    """Read a manifest's image config from the store. Raises NotFound, ContentError."""
    return ImageConfig.parse(store.content.read_all(manifest.config.digest, limit=MAX_CONFIG_BYTES))
