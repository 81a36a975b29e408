"""Which records CRI made beside another name of the same image."""

from __future__ import annotations

from pyctrd.oci.image_names import MANAGED, MANAGED_LABEL, aliases
from pyctrd.oci.mediatypes import OCI_INDEX
from pyctrd.oci.model import Descriptor, Digest, ImageRecord

TARGET, OTHER = Digest.of(b"target"), Digest.of(b"other")
ID = str(Digest.of(b"config"))


def record(name: str, target: Digest = TARGET, *, managed: bool = True) -> ImageRecord:
    return ImageRecord(
        name=name,
        target=Descriptor(media_type=OCI_INDEX, digest=target, size=9),
        labels={MANAGED_LABEL: MANAGED} if managed else {},
    )


def test_the_three_records_of_a_pull() -> None:
    names = ["docker.io/library/app:1", f"docker.io/library/app@{TARGET}", ID]
    assert aliases(map(record, names)) == dict.fromkeys(names[1:], names[0])


def test_several_tags_and_repositories() -> None:
    names = ["a.example/app:1", "a.example/app:2", "b.example/app:1"]
    made = {
        f"a.example/app@{TARGET}": "a.example/app:1",
        f"b.example/app@{TARGET}": "b.example/app:1",
        ID: "a.example/app:1",
    }
    assert aliases([record(name) for name in (*made, *names)]) == made


def test_without_a_tag_the_digest_is_the_name() -> None:
    digest = f"docker.io/library/app@{TARGET}"
    assert aliases([record(ID), record(digest)]) == {ID: digest}
    assert aliases([record(ID)]) == {}


def test_a_name_with_a_registrys_port() -> None:
    digest = f"localhost:5000/app@{TARGET}"
    assert aliases([record("localhost:5000/app:1"), record(digest)]) == {digest: "localhost:5000/app:1"}


def test_records_of_other_tools_and_of_other_targets_are_not_hidden() -> None:
    digest = f"docker.io/library/app@{TARGET}"
    assert aliases([record("docker.io/library/app:1"), record(digest, managed=False)]) == {}
    assert aliases([record("docker.io/library/app:1", OTHER), record(digest)]) == {}
