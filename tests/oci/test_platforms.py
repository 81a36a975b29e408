"""Platforms, compared with the results of containerd's own package, and their properties."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.errors import InvalidInput, InvalidPlatform
from pyctrd.oci import hostplatform, platforms
from pyctrd.oci.model import Platform
from pyctrd.oci.platforms import NO_MATCH, Matcher, Selection, Targets
from tests.vectors import rows

# The machine that the tables were made on: missing parts of a platform are taken from the host.
TABLE_HOST = Platform(os="linux", architecture="amd64")
PARSED = rows("platform_parse")
MATCHED = rows("platform_match")
CANDIDATES: list[str] = MATCHED[0]["candidates"]
MAKERS: dict[str, Callable[..., Matcher]] = {
    "only": platforms.only,
    "only_strict": platforms.only_strict,
    "ordered": platforms.ordered,
    "any_of": platforms.any_of,
}


def fields(platform: Platform) -> list[Any]:
    return [
        platform.os,
        platform.architecture,
        platform.variant,
        platform.os_version,
        list(platform.os_features),
    ]


def parse(text: str) -> Platform:
    return platforms.parse(text, host_platform=TABLE_HOST)


# --- the tables -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", PARSED, ids=[repr(row["text"]) for row in PARSED])
def test_parse_and_format_like_containerd(row: dict[str, Any]) -> None:
    if row["platform"] is None:
        with pytest.raises(InvalidPlatform, match="invalid argument") as caught:
            parse(row["text"])
        assert caught.value.exit_code == 2
        assert caught.value.message.isprintable()
        return
    parsed = parse(row["text"])
    assert fields(parsed) == row["platform"]
    assert fields(platforms.normalize(parsed)) == row["normal"]
    assert platforms.to_string(parsed) == row["format"]
    assert platforms.format_all(parsed) == row["format_all"]


@pytest.mark.parametrize("row", MATCHED[1:], ids=[f"{row['kind']} {row['platforms']}" for row in MATCHED[1:]])
def test_match_and_order_like_containerd(row: dict[str, Any]) -> None:
    matcher = MAKERS[row["kind"]](*(parse(text) for text in row["platforms"]))
    matching = [text for text in CANDIDATES if matcher.match(parse(text))]
    by_rank = sorted(matching, key=lambda text: matcher.rank(parse(text)))
    groups = [list(group) for _, group in groupby(by_rank, key=lambda text: matcher.rank(parse(text)))]
    assert groups == row["groups"]


@pytest.mark.parametrize("row", MATCHED[1:], ids=[f"{row['kind']} {row['platforms']}" for row in MATCHED[1:]])
def test_platforms_that_do_not_match_rank_last(row: dict[str, Any]) -> None:
    matcher = MAKERS[row["kind"]](*(parse(text) for text in row["platforms"]))
    ranks: dict[bool, list[int]] = {True: [], False: []}
    for text in CANDIDATES:
        ranks[matcher.match(parse(text))].append(matcher.rank(parse(text)))
    assert max(ranks[True], default=-1) < min(ranks[False], default=NO_MATCH)
    assert max(ranks[False], default=0) <= NO_MATCH


# --- matching: special cases ------------------------------------------------------------------------------


def test_a_platform_that_differs_only_in_features_ranks_above_other_mismatches() -> None:
    matcher = platforms.ordered(parse("linux/amd64"))
    near, far = parse("linux(+erofs)/amd64"), parse("linux/s390x")
    assert not matcher.match(near)
    assert not matcher.match(far)
    assert matcher.rank(near) < matcher.rank(far) == NO_MATCH


def test_all_matches_everything_equally() -> None:
    for text in CANDIDATES:
        assert platforms.ALL.match(parse(text))
    assert {platforms.ALL.rank(parse(text)) for text in CANDIDATES} == {0}


@pytest.mark.parametrize("variant", ["v999999999", "v" + "9" * 4000])
@pytest.mark.parametrize("architecture", ["amd64", "arm", "arm64"])
def test_a_hostile_variant_takes_no_time(architecture: str, variant: str) -> None:
    hostile = Platform(os="linux", architecture=architecture, variant=variant)
    matcher = platforms.only(hostile)
    assert matcher.match(hostile) == (architecture != "arm64")
    assert not matcher.match(Platform(os="linux", architecture="s390x"))


def test_an_empty_os_matches_the_host_and_is_shown_as_unknown() -> None:
    nameless = Platform(architecture="amd64")
    assert platforms.normalize(nameless).os == platforms.host().os
    assert platforms.to_string(nameless) == platforms.format_all(nameless) == "unknown"


# --- properties -------------------------------------------------------------------------------------------

_names = st.sampled_from(
    ["amd64", "x86_64", "386", "i386", "arm", "armhf", "armel", "arm64", "aarch64", "Riscv64", "unknown"]
)
_variants = st.sampled_from(["", "v1", "v2", "5", "v6", "7", "v7", "8", "v8", "v8.0", "v8.3", "9", "v9.2"])
_platforms = st.builds(
    Platform,
    os=st.sampled_from(["linux", "Linux", "windows", "macos", "freebsd", "unknown"]),
    architecture=_names,
    variant=_variants,
    os_version=st.sampled_from(["", "10.0.17763", "10.0.20348.1", "10.0.26100", "odd (1)+2/%"]),
    os_features=st.lists(st.sampled_from(["win32k", "a", "b/c", "d+e%(f)"]), max_size=3).map(tuple),
)


@given(_platforms)
def test_normalizing_is_idempotent(platform: Platform) -> None:
    once = platforms.normalize(platform)
    assert platforms.normalize(once) == once
    assert platforms.to_string(once) == platforms.to_string(platform)


@given(_platforms.filter(lambda item: " " not in item.os_version))
def test_a_formatted_platform_parses_to_itself(platform: Platform) -> None:
    again = platforms.parse(platforms.format_all(platform))
    assert platforms.normalize(again) == platforms.normalize(platform)


@given(_platforms.map(platforms.normalize))
def test_every_platform_is_its_own_best_match(platform: Platform) -> None:
    matchers = [
        platforms.only_strict(platform),
        platforms.ordered(platform, TABLE_HOST),
        platforms.any_of(platform),
    ]
    if not has_no_ladder(platform):
        matchers.append(platforms.only(platform))
    for matcher in matchers:
        assert matcher.match(platform)
        assert matcher.rank(platform) <= 0


def has_no_ladder(platform: Platform) -> bool:
    """Whether containerd's Only matches nothing at all: for arm64 with an unknown variant."""
    normal = platforms.normalize(platform)
    return normal.architecture == "arm64" and normal.variant[:2] not in ("", "v8", "v9")


@given(_platforms.filter(lambda item: not has_no_ladder(item)), _platforms)
def test_only_matches_at_least_what_only_strict_matches(wanted: Platform, candidate: Platform) -> None:
    if platforms.only_strict(wanted).match(candidate):
        assert platforms.only(wanted).match(candidate)


@given(st.lists(_platforms, max_size=4), _platforms)
def test_ordered_and_any_of_match_the_same_platforms(wanted: list[Platform], candidate: Platform) -> None:
    single = any(platforms.ordered(item).match(candidate) for item in wanted)
    assert platforms.ordered(*wanted).match(candidate) == platforms.any_of(*wanted).match(candidate) == single


@given(st.text() | st.text(alphabet="linuxarmd64v/()+%.*, \n\x00é"))
def test_any_text_is_a_platform_or_an_invalid_platform(text: str) -> None:
    try:
        parsed = platforms.parse(text)
    except InvalidPlatform as error:
        assert error.message.isprintable()  # noqa: PT017 - not every text is an error
    else:
        assert parsed.os
        assert parsed.architecture


@given(st.builds(Platform, architecture=st.text(), os=st.text(), variant=st.text(), os_version=st.text()))
def test_any_platform_of_a_document_can_be_matched(platform: Platform) -> None:
    matchers: list[Matcher] = [platforms.only(platform), platforms.only(TABLE_HOST), platforms.ALL]
    for matcher in matchers:
        assert matcher.match(platform) == (matcher.rank(platform) < 1 << 40)
    assert isinstance(platforms.format_all(platform), str)


# --- selection --------------------------------------------------------------------------------------------


def chosen(*values: str | Platform) -> list[str]:
    return [platforms.to_string(item) for item in platforms.select(values).platforms]


def test_a_string_is_one_platform_and_not_its_characters() -> None:
    arm = Platform(os="linux", architecture="arm64")
    for value in ("linux/arm64", arm, ["linux/arm64"], iter([arm]), {arm}):
        assert [platforms.to_string(item) for item in platforms.select(value).platforms] == ["linux/arm64"]
    assert chosen(arm, "linux/aarch64", "amd64") == ["linux/arm64", "linux/amd64"]


@pytest.mark.parametrize("value", [1, [1], [b"linux/arm64"], [None]])
def test_other_types_are_refused(value: Any) -> None:
    with pytest.raises(InvalidPlatform, match="must be a string"):
        platforms.select(value)


def test_repeated_and_comma_separated_platforms_keep_their_order() -> None:
    assert chosen("linux/s390x,linux/amd64", "linux/arm64") == ["linux/s390x", "linux/amd64", "linux/arm64"]
    assert chosen(" linux/s390x , linux/arm/v6") == ["linux/s390x", "linux/arm/v6"]


def test_two_spellings_of_a_platform_are_selected_once() -> None:
    assert chosen("linux/arm64,linux/amd64", "linux/aarch64/v8") == ["linux/arm64", "linux/amd64"]


def test_the_default_is_exactly_the_host() -> None:
    assert platforms.select([]) == platforms.select(None) == Selection()
    targets = Selection(host=parse("linux/amd64")).resolve()
    matcher = targets.matcher
    assert targets.listed == targets.required == (parse("linux/amd64"),)
    assert matcher.match(parse("linux/amd64"))
    assert not matcher.match(parse("linux/386"))


def test_the_variant_of_the_host_is_normalized() -> None:
    targets = Selection(host=Platform(os="linux", architecture="arm64", variant="v8")).resolve()
    assert targets.matcher.match(Platform(os="linux", architecture="arm64"))


@pytest.mark.parametrize("selection", [platforms.select(["all"]), platforms.select("all")])
def test_all_selects_every_platform(selection: Selection) -> None:
    assert selection == Selection(all=True)
    assert selection.resolve() == Targets(selection, platforms.ALL)


def test_local_selects_the_complete_platforms() -> None:
    selection = platforms.select(["local"])
    assert selection == Selection(local=True)
    with pytest.raises(InvalidPlatform, match="local"):
        selection.resolve()
    targets = selection.resolve(lambda: [parse("linux/arm64")])
    assert targets.matcher.match(parse("linux/arm64"))
    assert not targets.matcher.match(TABLE_HOST)
    assert (targets.listed, targets.required) == ((parse("linux/arm64"),), ())


def test_local_without_complete_platforms_does_not_select_the_host() -> None:
    assert not Selection(local=True, host=TABLE_HOST).resolve(list).matcher.match(TABLE_HOST)


@pytest.mark.parametrize(
    ("values", "found", "absent"),
    [
        ("linux/amd64,linux/s390x", ["linux/arm64", "linux/s390x"], ["linux/amd64"]),
        ("linux/amd64,linux/s390x", [], ["linux/amd64", "linux/s390x"]),
        ("linux/amd64", ["linux/arm64", None], []),
        ("all", [], []),
        ("local", [], []),
    ],
)
def test_absent_platforms_are_those_not_found(
    values: str, found: list[str | None], absent: list[str]
) -> None:
    targets = platforms.select(values).resolve(lambda: [TABLE_HOST])
    assert targets.absent(parse(name) if name else None for name in found) == tuple(map(parse, absent))


@pytest.mark.parametrize("values", [["all,linux/amd64"], ["local", "linux/amd64"], ["all", "local"]])
def test_all_and_local_cannot_be_combined(values: list[str]) -> None:
    with pytest.raises(InvalidPlatform, match="cannot be combined"):
        platforms.select(values)


@pytest.mark.parametrize("values", [[""], ["linux/amd64,"], [","], ["linux/amd64;linux/arm64"]])
def test_an_empty_or_invalid_item_is_refused(values: list[str]) -> None:
    with pytest.raises(InvalidInput):
        platforms.select(values)


# --- the host ---------------------------------------------------------------------------------------------

PI_ZERO = "processor\t: 0\nmodel name\t: ARMv6-compatible processor rev 7 (v6l)\nCPU architecture: 7\n"
PI_4 = "processor\t: 0\nmodel name\t: ARMv7 Processor rev 3 (v7l)\nCPU architecture: 7\n"
GRAVITON = "processor\t: 0\nBogoMIPS\t: 243.75\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
X86 = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel\n"


@pytest.mark.parametrize(
    ("system", "name", "cpuinfo", "wide", "expected"),
    [
        ("Linux", "x86_64", X86, True, ("linux", "amd64", "")),
        ("Linux", "x86_64", X86, False, ("linux", "386", "")),
        ("Linux", "i686", X86, False, ("linux", "386", "")),
        ("Linux", "aarch64", GRAVITON, True, ("linux", "arm64", "v8")),
        ("Linux", "aarch64", GRAVITON.replace(": 8", ": AArch64"), True, ("linux", "arm64", "v8")),
        ("Linux", "aarch64", GRAVITON, False, ("linux", "arm", "v8")),
        ("Linux", "armv6l", PI_ZERO, False, ("linux", "arm", "v6")),
        ("Linux", "armv7l", PI_4, False, ("linux", "arm", "v7")),
        ("Linux", "armv7l", PI_4.replace(": 7", ": 5TEJ"), False, ("linux", "arm", "v5")),
        ("Linux", "armv7l", PI_4.replace(": 7", ": 99"), False, ("linux", "arm", "unknown")),
        # emulated: the processors are those of the underlying machine
        ("Linux", "aarch64", X86, True, ("linux", "arm64", "v8")),
        ("Linux", "armv6l", X86, False, ("linux", "arm", "v6")),
        ("Linux", "arm64", X86, True, ("linux", "arm64", "")),
        ("Linux", "aarch64", None, True, ("linux", "arm64", "")),
        ("Linux", "ppc64le", "", True, ("linux", "ppc64le", "")),
        ("Linux", "loongarch64", "", True, ("linux", "loong64", "")),
        ("Darwin", "arm64", None, True, ("darwin", "arm64", "v8")),
        ("FreeBSD", "amd64", None, True, ("freebsd", "amd64", "")),
        ("Windows", "AMD64", None, True, ("windows", "amd64", "")),
    ],
)
def test_the_host_is_detected_like_containerd_does(
    system: str, name: str, cpuinfo: str | None, wide: bool, expected: tuple[str, str, str]
) -> None:
    assert hostplatform.detect(system, name, cpuinfo, wide=wide) == expected


def test_this_host_is_detected() -> None:
    found = platforms.host()
    assert found.os == "linux"
    assert platforms.parse(platforms.to_string(found)).architecture == found.architecture
    assert platforms.parse("linux").architecture == found.architecture


def test_an_os_alone_gets_the_variant_of_an_old_arm_host() -> None:
    pi = Platform(os="linux", architecture="arm", variant="v6")
    assert platforms.parse("linux", host_platform=pi) == pi
    newer = Platform(os="linux", architecture="arm", variant="v7")
    assert platforms.parse("linux", host_platform=newer).variant == ""
