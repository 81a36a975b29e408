"""A server whose responses are too long, endless, or invalid, unlike those of any containerd."""

from __future__ import annotations

from collections import Counter

import pytest

from pyctrd.containerd import Daemon, convert, listing
from pyctrd.errors import ContentError, DaemonError
from pyctrd.oci.model import Digest
from pyctrd.protos.services.content.v1 import content_pb2
from pyctrd.protos.services.images.v1 import images_pb2
from pyctrd.protos.services.snapshots.v1 import snapshots_pb2
from pyctrd.protos.types import descriptor_pb2
from tests.containerd.fake import FakeDaemon

DIGEST = Digest.of(b"one")


def image(name: str, digest: str = DIGEST, label: str = "") -> images_pb2.Image:
    target = descriptor_pb2.Descriptor(media_type="application/json", digest=digest, size=1)
    return images_pb2.Image(name=name, target=target, labels={"label": label} if label else {})


# --- lists ------------------------------------------------------------------------------------------------


def test_images_that_fit_into_a_message_are_requested_once(client: Daemon, fake: FakeDaemon) -> None:
    fake.images = [image("one"), image("two")]
    assert [item.name for item in client.images.list()] == ["one", "two"]
    assert len(fake.requests("Images.List")) == 1


@pytest.mark.parametrize("filters", [[], ['name~="^r"', 'name~="^1"']])
def test_images_that_do_not_fit_are_requested_in_parts(
    client: Daemon, fake: FakeDaemon, filters: list[str]
) -> None:
    fake.images = [
        image(f"{letter}{number}", Digest.of(bytes([number])), "x" * 1000)
        for number in range(100)
        for letter in "rs"
    ]
    fake.message_bytes = 12_000
    wanted = [item.name for item in fake.images if not filters or item.name.startswith("r")]
    assert Counter(item.name for item in client.images.list(filters)) == Counter(wanted)
    assert len(fake.requests("Images.List")) <= 1 + 16 + 16 * 16


def test_one_image_that_does_not_fit_is_an_error(client: Daemon, fake: FakeDaemon) -> None:
    fake.images = [image("large", label="x" * 1000), image("small", Digest.of(b"two"))]
    fake.message_bytes = 500
    with pytest.raises(DaemonError, match="larger than max"):
        client.images.list()
    assert len(fake.requests("Images.List")) <= 1 + 3 * 16
    assert [item.name for item in client.images.list(['name~="^small"'])] == ["small"]


def test_lists_that_never_fit_are_requested_a_few_times_only(client: Daemon, fake: FakeDaemon) -> None:
    fake.message_bytes = -1
    with pytest.raises(DaemonError, match="larger than max"):
        client.images.list()
    assert len(fake.requests("Images.List")) == 4


@pytest.mark.parametrize("entries", [0, 1])
def test_an_endless_list_is_an_error(
    client: Daemon, fake: FakeDaemon, monkeypatch: pytest.MonkeyPatch, entries: int
) -> None:
    info = content_pb2.Info(digest=DIGEST, size=1)
    snapshot = snapshots_pb2.Info(name="one", kind=snapshots_pb2.COMMITTED)
    monkeypatch.setattr(listing, "MAX_LISTED_BYTES", 100_000)
    fake.endless["List"] = lambda: content_pb2.ListContentResponse(info=[info] * entries)
    fake.endless["Snapshots.List"] = lambda: snapshots_pb2.ListSnapshotsResponse(info=[snapshot] * entries)
    for entries_of in (client.content.list(), client.snapshots.list("overlayfs")):
        with pytest.raises(DaemonError, match="longer than 100000 bytes"):
            list(entries_of)


def test_an_endless_document_is_an_error(client: Daemon, fake: FakeDaemon) -> None:
    fake.endless["Read"] = lambda: content_pb2.ReadContentResponse(data=bytes(1 << 20))
    with pytest.raises(ContentError, match="larger than 4194304 bytes"):
        client.content.read_all(DIGEST, limit=4 << 20)


# --- invalid responses ------------------------------------------------------------------------------------


class Stamp:
    def __init__(self, seconds: int, nanos: int = 0) -> None:
        self.seconds = seconds
        self.nanos = nanos


@pytest.mark.parametrize("seconds", [2**63 - 1, 2**62, 253_402_300_800, -(2**63), -1, 0])
def test_a_time_beyond_the_range_of_datetime_is_none(seconds: int) -> None:
    assert convert.to_datetime(Stamp(seconds)) is None


def test_the_last_second_of_datetime_is_a_time() -> None:
    assert str(convert.to_datetime(Stamp(253_402_300_799))) == "9999-12-31 23:59:59+00:00"
    assert convert.to_datetime(Stamp(253_402_300_799, 2**31 - 1)) is None


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:" + "0" * 63, "x" * 1_000_000, "md5:1"])
def test_an_invalid_digest_is_an_error_of_the_daemon(client: Daemon, fake: FakeDaemon, digest: str) -> None:
    fake.images = [image("one", digest)]
    with pytest.raises(DaemonError, match="invalid checksum digest format") as caught:
        client.images.list()
    assert caught.value.exit_code == 1
    assert len(caught.value.message) < 300
    with pytest.raises(DaemonError, match="invalid checksum digest format"):
        convert.to_content_info(content_pb2.Info(digest=digest))


def test_a_negative_size_is_an_error_of_the_daemon() -> None:
    with pytest.raises(DaemonError, match="a size of -1 bytes"):
        convert.to_content_info(content_pb2.Info(digest=DIGEST, size=-1))
    with pytest.raises(DaemonError, match="a size of -1 bytes"):
        convert.to_descriptor(descriptor_pb2.Descriptor(digest=DIGEST, size=-1))


def test_an_unknown_kind_of_snapshot_is_empty() -> None:
    message = snapshots_pb2.Info(name="one")
    message.ParseFromString(message.SerializeToString() + b"\x18\x63")  # field 3 is 99
    assert message.kind == 99
    assert convert.to_snapshot_info(message).kind == ""
