"""Find an image by what users type, in a store with records in memory."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.errors import AmbiguousReference, InvalidReference, NotFound, Remedy
from pyctrd.oci.mediatypes import OCI_INDEX
from pyctrd.oci.model import Descriptor, Digest, ImageRecord
from pyctrd.operations import lookup

CAFE = Digest("sha256:cafe" + "0" * 60)
CAFF = Digest("sha256:caff" + "0" * 60)
BEEF = Digest("sha256:beef" + "1" * 60)
LONG = Digest("sha512:cafe" + "2" * 124)

# Every filter has this form; a value ends at a space or comma (containerd pkg/filters/parser.go).
FILTER = re.compile(r"(target\.digest|name)~=(\^sha(?:256|384|512):[0-9a-f]+)")


class Images:
    """The reading methods of containerd's image service; the others must not be called."""

    def __init__(self, records: dict[str, Digest]) -> None:
        self.records = {
            name: ImageRecord(name=name, target=Descriptor(media_type=OCI_INDEX, digest=digest, size=1))
            for name, digest in records.items()
        }
        self.filters: list[str] = []

    def get(self, name: str) -> ImageRecord:
        assert name, "containerd: image name required"
        name.encode()  # a protobuf string
        if name not in self.records:
            raise NotFound(f'image "{name}": not found', kind="image", name=name)
        return self.records[name]

    def get_several(self, names: Collection[str]) -> Mapping[str, ImageRecord]:
        return {name: self.get(name) for name in names if name.encode() and name in self.records}

    def list(self, filters: Sequence[str] = ()) -> Sequence[ImageRecord]:
        self.filters += filters
        wanted = [FILTER.fullmatch(item).groups() for item in filters]  # type: ignore[union-attr]
        return [
            record
            for record in self.records.values()
            if not wanted
            or any(
                re.search(pattern, record.name if field == "name" else record.target.digest)
                for field, pattern in wanted
            )
        ]

    def create(self, image: ImageRecord) -> ImageRecord:
        raise AssertionError("a lookup changes nothing")

    def update(self, image: ImageRecord, *, fields: Sequence[str]) -> ImageRecord:
        raise AssertionError("a lookup changes nothing")

    def delete(self, name: str, *, sync: bool = False) -> None:
        raise AssertionError("a lookup changes nothing")


@pytest.fixture
def images() -> Images:
    return Images(
        {
            "docker.io/library/alpine:latest": CAFE,
            "docker.io/library/alpine:3.20": CAFF,
            "registry.example:5000/team/app:v1": BEEF,
        }
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("docker.io/library/alpine:latest", "docker.io/library/alpine:latest"),
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20"),
        ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
        ("registry.example:5000/team/app:v1", "registry.example:5000/team/app:v1"),
        ("cafe", "docker.io/library/alpine:latest"),
        ("sha256:cafe", "docker.io/library/alpine:latest"),
        (str(CAFF), "docker.io/library/alpine:3.20"),
        (CAFF.encoded, "docker.io/library/alpine:3.20"),
        ("b", "registry.example:5000/team/app:v1"),
    ],
)
def test_names_and_ids_are_found(images: Images, text: str, name: str) -> None:
    assert lookup.find(images, text).name == name


def test_a_name_is_found_without_a_list(images: Images) -> None:
    lookup.find(images, "alpine")
    assert images.filters == []
    lookup.find(images, "beef")
    assert images.filters == ["target.digest~=^sha256:beef", "name~=^sha256:beef"]


@pytest.mark.parametrize(
    "name", ["alpine", "Not A Reference", "sha256:beef", "a_b.c/x", "single:v1", "x" * 64]
)
def test_an_exact_name_takes_precedence(images: Images, name: str) -> None:
    images.records |= Images({name: BEEF}).records
    assert lookup.find(images, name).name == name


def test_a_normalized_name_takes_precedence_over_an_id(images: Images) -> None:
    images.records |= Images({"docker.io/library/cafe:latest": BEEF}).records
    assert lookup.find(images, "cafe").target.digest == BEEF
    assert lookup.find(images, "sha256:cafe").target.digest == CAFE


def test_a_prefix_of_two_images_is_ambiguous(images: Images) -> None:
    with pytest.raises(
        AmbiguousReference, match="ambiguous digest ID: multiple IDs found with provided prefix ca"
    ) as caught:
        lookup.find(images, "ca")
    assert set(caught.value.candidates) == {
        "docker.io/library/alpine:latest",
        "docker.io/library/alpine:3.20",
    }
    for candidate in caught.value.candidates:
        assert candidate in caught.value.message
    assert CAFE.short in caught.value.message
    assert caught.value.exit_code == 1


def test_many_candidates_fit_into_a_short_message() -> None:
    crowd = Images({f"example.com/a:{i}": Digest.of(f"{i}".encode()) for i in range(400)})
    with pytest.raises(AmbiguousReference) as caught:
        lookup.find(crowd, "a")
    assert len(caught.value.candidates) > 8
    assert len(caught.value.message) < 800


def test_several_names_of_one_image_are_not_ambiguous() -> None:
    # as the CRI plugin stores an image: by its config's digest, by name and digest, and by name and tag
    config = f"sha256:{'0' * 64}"
    images = Images({config: BEEF, f"a.example/pause@{BEEF}": BEEF, "registry.k8s.io/pause:3.10": BEEF})
    assert lookup.find(images, "beef").name == "registry.k8s.io/pause:3.10"
    assert lookup.find(images, config).name == config


@pytest.mark.parametrize("text", ["873ed75102791", "sha256:873ed75102791", f"873ed75102791{'0' * 51}"])
def test_a_short_id_of_crictl_finds_the_image_by_its_best_name(text: str) -> None:
    config = f"sha256:873ed75102791{'0' * 51}"
    names = [config, f"registry.k8s.io/pause@{BEEF}", "registry.k8s.io/pause:3.10"]
    images = Images({**dict.fromkeys(names, BEEF), "other.example/app:1": CAFE})
    assert lookup.find(images, text).name == "registry.k8s.io/pause:3.10"
    del images.records["registry.k8s.io/pause:3.10"]
    assert lookup.find(images, text).target.digest == BEEF
    for name in names[1:]:
        images.records.pop(name, None)
    assert lookup.find(images, text).name == config


def test_an_id_may_be_that_of_a_target_or_a_config() -> None:
    images = Images({f"sha256:cafe{'9' * 60}": BEEF, "registry.example/app:1": BEEF, "example.com/b:1": CAFE})
    with pytest.raises(AmbiguousReference, match="provided prefix cafe"):
        lookup.find(images, "cafe")
    assert lookup.find(images, "cafe9").name == "registry.example/app:1"


def test_an_id_of_another_algorithm_needs_a_prefix() -> None:
    images = Images({"example.com/a:1": LONG, "example.com/b:1": CAFE})
    assert lookup.find(images, "sha512:cafe").name == "example.com/a:1"
    assert lookup.find(images, "cafe").name == "example.com/b:1"


@pytest.mark.parametrize("text", ["alpin", "alpnie", "alpine:3.2", "docker.io/alpine:edge"])
def test_the_error_for_an_unknown_name_suggests_similar_names(images: Images, text: str) -> None:
    with pytest.raises(NotFound, match=f'^image "{text}": not found$') as caught:
        lookup.find(images, text)
    assert caught.value.exit_code == 3
    assert caught.value.kind == "image"
    assert caught.value.hint is not None
    assert "docker.io/library/alpine:" in caught.value.hint
    assert "team/app" not in caught.value.hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # The same repository, in another registry, the same tag first.
        ("alpine", ["docker.io/library/alpine:3.19", "mirror.example/hub/alpine:3.18"]),
        ("quay.io/x/alpine:3.18", ["mirror.example/hub/alpine:3.18", "docker.io/library/alpine:3.19"]),
        ("app:9", ["registry.example/team/app:1", "registry.example/team/app:2"]),
        ("registry.example/team/app:2-x", ["registry.example/team/app:1", "registry.example/team/app:2"]),
        ("other.example/app:2", ["registry.example/team/app:2", "registry.example/team/app:1"]),
        ("nothing/like-it", []),
    ],
)
def test_similar_names(text: str, expected: list[str]) -> None:
    names = [
        "docker.io/library/alpine:3.19",
        "mirror.example/hub/alpine:3.18",
        "registry.example/team/app:1",
        "registry.example/team/app:2",
        f"registry.example/team/app@{BEEF}",
        str(CAFE),
    ]
    found = lookup.similar(Images(dict.fromkeys(names, BEEF)), text)
    assert found[: len(expected)] == expected
    assert bool(found) == bool(expected)


def test_without_similar_names_the_hint_is_to_pull(images: Images) -> None:
    with pytest.raises(NotFound) as caught:
        lookup.find(images, "quay.io/prometheus/node-exporter:v1.8")
    assert caught.value.remedy == Remedy(method="pull", images=("quay.io/prometheus/node-exporter:v1.8",))
    assert caught.value.name == "quay.io/prometheus/node-exporter:v1.8"


def test_the_hint_for_an_unknown_id_is_not_to_pull(images: Images) -> None:
    with pytest.raises(NotFound, match='image "0123": not found') as caught:
        lookup.find(images, "0123")
    assert caught.value.remedy == Remedy(method="images")
    with pytest.raises(NotFound):
        lookup.find(images, "f" * 64)


@pytest.mark.parametrize(
    "text", ["", "Alpine", "alpine:", "al pine", "sha256:", "cafe,name!=x", "\ud800", ".*"]
)
def test_a_text_that_is_neither_name_nor_id_is_invalid(images: Images, text: str) -> None:
    with pytest.raises(InvalidReference, match="invalid reference format"):
        lookup.find(images, text)
    assert images.filters == []


@given(st.text() | st.from_regex(r"(sha256:)?[0-9a-f]{0,6}[,.~=*^|\"a-f ]{0,3}", fullmatch=True))
def test_any_text_is_a_record_or_an_error_and_injects_no_filter(text: str) -> None:
    images = Images({"docker.io/library/alpine:latest": CAFE, "docker.io/library/alpine:3.20": CAFF})
    try:
        record = lookup.find(images, text)
    except (NotFound, InvalidReference, AmbiguousReference):
        pass
    else:
        assert record.name in images.records
    assert all(FILTER.fullmatch(item) for item in images.filters)


@given(
    st.text()
    | st.from_regex(r"(docker.io/library/)?alpine(:latest|:3.20|@sha256:[0-9a-f]{4,8})?", fullmatch=True)
)
def test_records_that_are_found_by_name_are_those_of_a_single_lookup(text: str) -> None:
    images = Images({"docker.io/library/alpine:latest": CAFE, "alpine": CAFF, "cafe": BEEF})
    for record in lookup.find_by_name(images, [text, text]).values():
        assert record == lookup.find(images, text)
    assert images.filters == []


def test_many_records_are_found_by_name(images: Images) -> None:
    texts = [
        "alpine",
        "",
        "\ud800",
        "docker.io/library/alpine:3.20",
        "absent",
        "registry.example:5000/team/app",
    ]
    assert {text: record.name for text, record in lookup.find_by_name(images, texts).items()} == {
        "alpine": "docker.io/library/alpine:latest",
        "docker.io/library/alpine:3.20": "docker.io/library/alpine:3.20",
    }
