"""Unpack an image's layers into a snapshotter, where `ctr run` and other clients find them.

Sources: containerd core/unpack/unpacker.go, core/rootfs/apply.go; OCI image-spec config.md#layer-chainid.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from pyctrd.errors import AlreadyExists, ContentError, DigestMismatch, NotFound, PyctrdError
from pyctrd.oci import mediatypes
from pyctrd.oci.model import MAX_CONFIG_BYTES, Descriptor, Digest, ImageConfig, Manifest
from pyctrd.ports import SnapshotStore, Store
from pyctrd.progress import Progress, ProgressSink, no_progress

# With this label, Prepare returns ALREADY_EXISTS, and adds the snapshot to the lease, if the chain is already
# committed (containerd core/snapshots/snapshotter.go LabelSnapshotRef). containerd 1.6 does not lease it; the
# check at the end of `unpack` covers that.
_SNAPSHOT_REF: Final = "containerd.io/snapshot.ref"
_INHERITED_PREFIX: Final = "containerd.io/snapshot/"
_TRIES: Final = 3


def unpack(
    store: Store,
    manifest: Manifest,
    config: ImageConfig,
    *,
    snapshotter: str,
    wait: Callable[[Digest], None] = lambda _digest: None,
    progress: ProgressSink = no_progress,
) -> Digest | None:
    """Unpack the layers of a manifest, bottom first; return the chain id of the top one, None without layers.

    `wait` blocks until a layer is in the store, so that unpacking can start before the last download ends.
    Labels each layer with its diff id, and the config with the top snapshot, which protects the snapshots.
    Raises ContentError if the numbers of layers and diff ids differ, DigestMismatch if an unpacked layer does
    not match its diff id, DaemonError.
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
    steps = list(zip(layers, diff_ids, config.rootfs.chain_ids, strict=True))
    top = str(config.rootfs.chain_ids[-1])
    for left in reversed(range(_TRIES)):
        try:
            parent = ""
            for layer, diff_id, chain_id in steps:
                task = _LayerTask(store, snapshotter, parent, layer, diff_id, chain_id)
                task.run(wait, progress)
                parent = str(chain_id)
            labels = {f"{mediatypes.GC_REF_SNAPSHOT}{snapshotter}": top}
            store.content.set_labels(manifest.config.digest, labels)
            store.snapshots.stat(snapshotter, top)  # from now on the label protects it
            break
        except NotFound as error:
            # A snapshot that existed before is not under our lease: another client may remove it.
            if error.kind != "snapshot" or not left:
                raise
    return Digest(top)


class _LayerTask:
    """Unpacks one layer into a snapshot."""

    def __init__(
        self,
        store: Store,
        snapshotter: str,
        parent: str,
        layer: Descriptor,
        diff_id: Digest,
        chain_id: Digest,
    ) -> None:
        self._store = store
        self._snapshotter = snapshotter
        self._parent = parent
        self._layer = layer
        self._diff_id = diff_id
        self._chain_id = chain_id

    @property
    def _snapshots(self) -> SnapshotStore:
        return self._store.snapshots

    def run(self, wait: Callable[[Digest], None], progress: ProgressSink) -> None:
        """Unpack the layer unless its snapshot exists, possibly because another client was faster."""
        for _ in range(_TRIES):
            key = self._new_key()
            try:
                mounts = self._snapshots.prepare(self._snapshotter, key, self._parent, self._labels())
            except AlreadyExists:
                if self._committed():
                    return
                continue  # it was garbage collected between the two calls
            try:
                wait(self._layer.digest)
                progress(Progress(action="unpacking", descriptor=self._layer, total=self._layer.size))
                self._check(self._store.diffs.apply(self._layer, mounts))
                # Before the snapshot is committed: clients that find the snapshot do not set the label.
                self._store.content.set_labels(
                    self._layer.digest, {mediatypes.UNCOMPRESSED: str(self._diff_id)}
                )
                ours = self._commit(key)
            except BaseException:
                # If even this fails (a full disk, a dead daemon), the first error is raised, and the snapshot
                # is removed with the lease.
                with suppress(PyctrdError):
                    self._snapshots.remove(self._snapshotter, key)
                raise
            if ours:
                progress(Progress(action="unpacked", descriptor=self._layer, total=self._layer.size))
                return
        raise ContentError(
            f"snapshot {self._chain_id} in {self._snapshotter} keeps disappearing while it is unpacked",
            hint="another client is deleting it at the same time; try again",
        )

    def _new_key(self) -> str:
        """Return a unique key for the active snapshot, in containerd's form."""
        unique = base64.urlsafe_b64encode(secrets.token_bytes(9)).decode()
        return f"extract-{unique} {self._chain_id}"

    def _labels(self) -> dict[str, str]:
        inherited = {
            key: value for key, value in self._layer.annotations.items() if key.startswith(_INHERITED_PREFIX)
        }
        return {_SNAPSHOT_REF: str(self._chain_id), **inherited}

    def _committed(self) -> bool:
        try:
            self._snapshots.stat(self._snapshotter, str(self._chain_id))
        except NotFound:
            return False
        return True

    def _check(self, applied: Descriptor) -> None:
        if applied.digest != self._diff_id:
            raise DigestMismatch(
                f"wrong diff id calculated on extraction {applied.digest!s} of layer {self._layer.digest}, "
                f"the image config has {self._diff_id}",
                expected=str(self._diff_id),
                actual=str(applied.digest),
                hint="the image is broken; `unpack=False` pulls it anyway",
            )

    def _commit(self, key: str) -> bool:
        """Commit the snapshot; return False if another client has committed the same chain.

        Its snapshot is just as good, but not under our lease; preparing it again adds it to the lease.
        """
        try:
            self._snapshots.commit(self._snapshotter, str(self._chain_id), key)
        except AlreadyExists:
            self._snapshots.remove(self._snapshotter, key)
            return False
        return True


def read_config(store: Store, manifest: Manifest) -> ImageConfig:
    """Read a manifest's image config from the store. Raises NotFound, ContentError."""
    return ImageConfig.parse(store.content.read_all(manifest.config.digest, limit=MAX_CONFIG_BYTES))
