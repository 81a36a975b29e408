"""References, compared with the results of the distribution project's own package, and their properties."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyctrd.errors import InvalidReference
from pyctrd.oci import reference
from pyctrd.oci.model import Digest
from pyctrd.oci.reference import Reference
from tests.vectors import rows

PARSED = rows("references")
NAMES = rows("record_names")
HEX = "0123456789abcdef" * 4

# --- the tables -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", PARSED, ids=[repr(row["text"])[:60] for row in PARSED])
def test_parse_like_the_distribution_project(row: dict[str, Any]) -> None:
    if row["parsed"] is None:
        with pytest.raises(InvalidReference, match="invalid reference format") as caught:
            reference.parse(row["text"])
        assert caught.value.exit_code == 2
        assert caught.value.message.isprintable()
        return
    parsed = reference.parse(row["text"])
    assert {
        "str": str(parsed),
        "domain": parsed.domain,
        "path": parsed.repository,
        "tag": parsed.tag,
        "digest": str(parsed.digest or ""),
        "familiar": parsed.familiar,
    } == row["parsed"]
    assert f"{parsed.name}{str(parsed).removeprefix(parsed.name)}" == row["parsed"]["str"]


@pytest.mark.parametrize("row", NAMES, ids=[repr(row["name"])[:60] for row in NAMES])
def test_reference_names_in_archives_are_those_of_containerd(row: dict[str, Any]) -> None:
    assert reference.oci_ref_name(row["name"]) == row["written"]


# --- messages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "at least one component"),
        ("Alpine", r"repository name \(Alpine\) must be lowercase"),
        ("team/App:V1", r"repository name \(team/App\) must be lowercase"),
        ("docker.io/", "repository name is missing"),
        (":v1", "repository name is missing"),
        ("registry.example:5000/", "repository name is missing"),
        ("alpine:", "tag after `:` is missing"),
        ("alpine:-x", "invalid tag format: `-x`"),
        ("alpine:" + "t" * 129, "invalid tag format: 129 characters"),
        ("alpine@", "digest after `@` is missing"),
        (f"alpine@sha256:{HEX[:-1]}", "invalid checksum digest length"),
        ("alpine@sha256", "invalid checksum digest format"),
        (f"alpine@md5:{HEX[:32]}", "unsupported digest algorithm"),
        ("alp ine", "white space"),
        ("alpine\n", "white space or a control character"),
        ("alp\x1b[31mine", "control character"),
        ("a..b/c", "`a..b` is not a host name"),
        ("host:port/app", "`host:port` is not a host name, or its port is not a number"),
        ("a_b.c/app", "`a_b.c` is not a host name"),
        ("team/-app", "must be words of a-z and 0-9"),
        ("example.com/" + "a" * 256, "must not be more than 255 characters"),
        ("docker://alpine:3.20", "`docker://` is not part of a reference"),
        ("a://" * 5000 + "alpine", "`a://` is not part of a reference"),
        ("a" * 5000 + "://alpine", "is not part of a reference"),
        (HEX, "cannot specify 64-byte hexadecimal strings"),
    ],
)
def test_an_error_says_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(InvalidReference, match=reason) as caught:
        reference.parse(text)
    assert caught.value.hint is not None
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    "text",
    [
        "a-" * 50_000 + ".x/b",
        "x/" + "a_" * 50_000,
        "a." * 50_000 + "!/b",
        "x:" + "a" * 100_000,
        "[:" * 50_000,
    ],
)
@pytest.mark.timeout(10)
def test_a_long_hostile_text_is_refused_quickly(text: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        reference.parse(text)
    assert len(caught.value.message) < 400
    assert isinstance(reference.oci_ref_name(text), str)


# --- properties -------------------------------------------------------------------------------------------

_domains = st.one_of(
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?\.[a-z]{2,5}(:[0-9]{1,5})?", fullmatch=True),
    st.sampled_from(["docker.io", "localhost", "localhost:5000", "[::1]", "[fe80::1]:443", "REGISTRY"]),
)
_words = st.from_regex(r"[a-z0-9]{1,6}((?:[._]|__|-{1,3})[a-z0-9]{1,4}){0,2}", fullmatch=True)
_digests = st.builds(Digest.of, st.binary(max_size=4), st.sampled_from(["sha256", "sha384", "sha512"]))
_references = st.builds(
    Reference,
    domain=_domains,
    path=st.lists(_words, min_size=2, max_size=4).map("/".join),
    tag=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    digest=st.none() | _digests,
)


@given(_references)
def test_a_formatted_reference_parses_to_itself(ref: Reference) -> None:
    assert reference.parse(str(ref)) == ref


@given(_references)
def test_a_short_name_parses_to_the_reference(ref: Reference) -> None:
    first = ref.path.split("/")[0]
    if ref.domain == "docker.io" and ("." in first or first == "localhost"):
        return  # without its domain such a name means another registry, to Docker's tools, too
    assert reference.parse(ref.familiar) == ref


@given(_references)
def test_a_reference_may_have_a_digest_and_no_tag(ref: Reference) -> None:
    if ref.digest:
        assert reference.parse(f"{ref.name}@{ref.digest}").tag == ""
    assert reference.parse(ref.name).tag == "latest"


@given(
    st.text()
    | st.text(alphabet="aA0./:@_-[]%é \x7f", max_size=20)
    | st.builds("{}@sha256:{}".format, st.text(max_size=5), st.text(alphabet="0aF", min_size=60, max_size=66))
)
@example("ſ")  # its lower case is itself, its upper case is S
@example("a" * 63 + "\n")
def test_any_text_is_a_reference_or_an_invalid_reference(text: str) -> None:
    try:
        parsed = reference.parse(text)
    except InvalidReference as error:
        assert error.message.isprintable()  # noqa: PT017 - not every text is an error
    else:
        assert reference.parse(str(parsed)) == parsed


@given(st.text() | st.text(alphabet="h/:@[]%25#?é\x00", max_size=12))
def test_any_name_has_a_reference_name(name: str) -> None:
    written = reference.oci_ref_name(name)
    assert written == name or (written and not written.startswith("@") and written in name)


# --- ids --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("c", "sha256:c"),
        ("cafe", "sha256:cafe"),
        ("sha256:cafe", "sha256:cafe"),
        ("sha512:" + "0" * 128, "sha512:" + "0" * 128),
        (HEX, f"sha256:{HEX}"),
        (f"sha256:{HEX}", f"sha256:{HEX}"),
        (HEX + "0", None),
        (f"sha256:{HEX}0", None),
        ("sha512:" + "0" * 129, None),
        ("sha256:", None),
        ("sha256", None),
        ("md5:cafe", None),
        ("", None),
        ("CAFE", None),
        ("coffee", None),
        ("cafe\n", None),
        ("cafe,name~=.*", None),
        (".*", None),
        ("sha256:.*", None),
        ("٣", None),
        ("alpine", None),
    ],
)
def test_texts_that_are_ids(text: str, expected: str | None) -> None:
    assert reference.digest_prefix(text) == expected


@given(st.text() | st.from_regex(r"(sha256:|sha512:)?[0-9a-f]*.?", fullmatch=True))
def test_an_id_has_only_hexadecimal_digits(text: str) -> None:
    found = reference.digest_prefix(text)
    if found is not None:
        algorithm, colon, digits = found.partition(":")
        assert (algorithm, colon) in {("sha256", ":"), ("sha384", ":"), ("sha512", ":")}
        assert digits
        assert set(digits) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("alpine", "docker.io/library/alpine"),
        ("example.org:5000/team/app", "example.org:5000/team/app"),
        ("localhost/app", "localhost/app"),
    ],
)
def test_a_repository(text: str, name: str) -> None:
    found = reference.parse_repository(text)
    assert str(found) == found.name == name


@pytest.mark.parametrize(
    "text", ["alpine:3.20", "alpine:latest", "localhost:5000", "h:1/a:b", f"a@sha256:{HEX}", "UPPER", ""]
)
def test_an_image_is_not_a_repository(text: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        reference.parse_repository(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("v1", True),
        ("_", True),
        ("a" * 128, True),
        ("a" * 129, False),
        ("", False),
        (".a", False),
        ("a\n", False),
    ],
)
def test_tags(text: str, is_one: bool) -> None:
    assert reference.is_tag(text) is is_one
