"""Parse, normalize, format, match and order platforms as containerd does.

Source: github.com/containerd/platforms v1.0.0-rc.5 (platforms.go, compare.go, database.go), which containerd
2.3 and later use. Earlier ones differ only in details: no os.features, no arm64 variants above v8.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol, TypeAlias

import msgspec

from pyctrd.errors import InvalidPlatform
from pyctrd.oci import hostplatform
from pyctrd.oci.model import Platform

_COMPONENT: Final = r"[A-Za-z0-9_.-]+"
_OS: Final = r"([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?"
_BAD_ESCAPE: Final = r"%(?![0-9A-Fa-f]{2})"
_LEVEL: Final = r"v?([0-9]{1,9})"
_HINT: Final = "write os/arch[/variant], e.g. linux/amd64 or linux/arm/v7; several with commas"

_KNOWN_OS: Final = (
    "aix|android|darwin|dragonfly|freebsd|hurd|illumos|ios|js|linux|nacl|netbsd|openbsd|plan9|solaris|windows"
    "|zos"
)
_KNOWN_ARCH: Final = (
    "386|amd64|amd64p32|arm|armbe|arm64|arm64be|ppc64|ppc64le|loong64|mips|mipsle|mips64|mips64le|mips64p32"
    "|mips64p32le|ppc|riscv|riscv64|s390|s390x|sparc|sparc64|wasm"
)


@functools.cache
def host() -> Platform:
    """Return the platform of this machine, as containerd's clients detect it (platforms.DefaultSpec)."""
    os, architecture, variant = hostplatform.current()
    return Platform(os=os, architecture=architecture, variant=variant)


# --- parse and format -------------------------------------------------------------------------------------


def parse(text: str, *, host_platform: Platform | None = None) -> Platform:
    """Parse `os[(version[+feature]...)][/arch[/variant]]` or an architecture.

    The parts that are not given come from `host_platform` (default: this host). Raises InvalidPlatform.
    Source: containerd platforms.Parse.
    """
    here = host_platform or host()
    if "*" in text:
        raise _invalid(f'"{_shown(text)}": wildcards not yet supported')
    first, *rest = text.split("/", 3)
    os, version, features = _parse_os(first, text)
    for part in rest:
        if not re.fullmatch(_COMPONENT, part):
            raise _invalid(
                f'"{_shown(part)}" is an invalid component of "{_shown(text)}": '
                f'platform specifier component must match "{_COMPONENT}"'
            )
    if len(rest) > 2:
        raise _invalid(f'"{_shown(text)}": cannot parse platform specifier')
    if not rest:
        return _parse_word(first, Platform(os=os, os_version=version, os_features=features), here)
    architecture, variant = _normal_arch(rest[0], rest[1] if len(rest) == 2 else "")
    if len(rest) == 1 and (architecture, variant) == ("arm", "v7"):
        variant = ""
    if len(rest) == 2 and (architecture, variant) == ("arm64", ""):
        variant = "v8"
    return Platform(
        os=os, architecture=architecture, variant=variant, os_version=version, os_features=features
    )


def _parse_word(word: str, named: Platform, here: Platform) -> Platform:
    if re.fullmatch(_KNOWN_OS, named.os):
        variant = here.variant if here.architecture == "arm" and here.variant != "v7" else ""
        return msgspec.structs.replace(named, architecture=here.architecture, variant=variant)
    architecture, variant = _normal_arch(word, "")
    if not re.fullmatch(_KNOWN_ARCH, architecture):
        raise _invalid(f'"{_shown(word)}": unknown operating system or architecture')
    if (architecture, variant) == ("arm", "v7"):
        variant = ""
    return Platform(os=here.os, architecture=architecture, variant=variant)


def _parse_os(part: str, text: str) -> tuple[str, str, tuple[str, ...]]:
    found = re.fullmatch(_OS, part)
    if not found:
        raise _invalid(
            f'"{_shown(part)}" is an invalid OS component of "{_shown(text)}": '
            f'OSAndVersion specifier component must match "{_OS}"'
        )
    name, version, features = found.groups(default="")
    return (
        _normal_os(name),
        _decode(version, text),
        tuple(_decode(feature, text) for feature in features.split("+")[1:]),
    )


def _decode(option: str, text: str) -> str:
    if re.search(_BAD_ESCAPE, option):
        raise _invalid(f'"{_shown(text)}" has an invalid OS option "{_shown(option)}": invalid URL escape')
    from urllib.parse import unquote

    try:
        return unquote(option, errors="strict")
    except UnicodeDecodeError:
        raise _invalid(f'"{_shown(text)}" has an invalid OS option "{_shown(option)}": not UTF-8') from None


def _invalid(message: str) -> InvalidPlatform:
    return InvalidPlatform(f"{message}: invalid argument", hint=_HINT)


def _shown(text: str) -> str:
    """Shorten and escape a text for a message."""
    shown = text if text.isprintable() else repr(text)[1:-1]
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def normalize(platform: Platform) -> Platform:
    """Return the canonical form: no aliases, lower case, no default variants, sorted features.

    Source: containerd platforms.Normalize.
    """
    architecture, variant = _normal_arch(platform.architecture, platform.variant)
    return Platform(
        os=_normal_os(platform.os),
        architecture=architecture,
        variant=variant,
        os_version=platform.os_version,
        os_features=tuple(sorted(set(platform.os_features))),
    )


def _normal_os(name: str) -> str:
    if not name:
        return host().os
    return "darwin" if name.lower() == "macos" else name.lower()


_ALIASES: Final = {
    "i386": ("386", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
}
_ARCH_NAMES: Final = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}
_VARIANTS: Final = {
    "amd64": {"v1": ""},
    "arm64": {"8": "", "v8": "", "v8.0": "", "9": "v9", "9.0": "v9", "v9.0": "v9"},
    "arm": {"": "v7", "7": "v7", "5": "v5", "6": "v6", "8": "v8"},
}


def _normal_arch(architecture: str, variant: str) -> tuple[str, str]:
    architecture, variant = architecture.lower(), variant.lower()
    if architecture in _ALIASES:
        return _ALIASES[architecture]
    architecture = _ARCH_NAMES.get(architecture, architecture)
    return architecture, _VARIANTS.get(architecture, {}).get(variant, variant)


def to_string(platform: Platform) -> str:
    """Format the normalized platform as `os/arch[/variant]`; `unknown` if it has no os.

    Two descriptions of the same platform (arm64 and arm64/v8) have the same text.
    Source: containerd platforms.Format.
    """
    if not platform.os:
        return "unknown"
    normal = normalize(platform)
    return _joined(normal.os, normal)


def format_all(platform: Platform) -> str:
    """Format like `to_string`, with os.version and os.features: `windows(10.0.17763+win32k)/amd64`.

    Source: containerd platforms.FormatAll.
    """
    if not platform.os:
        return "unknown"
    normal = normalize(platform)
    options = _encode(normal.os_version) + "".join(f"+{_encode(item)}" for item in normal.os_features if item)
    return _joined(f"{normal.os}({options})" if options else normal.os, normal)


def _joined(os: str, platform: Platform) -> str:
    return "/".join(part for part in (os, platform.architecture, platform.variant) if part)


def _encode(option: str) -> str:
    for character in "%+()/":  # the percent sign first, so that it is not encoded twice
        option = option.replace(character, f"%{ord(character):02X}")
    return option


# --- match and order --------------------------------------------------------------------------------------

# A rank is the position of the first alternative that matches, times a stride that leaves room for the number
# of os.features, which decides between two platforms at the same position.
_STRIDE: Final = 1 << 16
_ONLY_WITHOUT_FEATURES: Final = 1 << 48
NO_MATCH: Final = 1 << 62


class Matcher(Protocol):
    """Selects platforms, and orders them by preference."""

    def match(self, platform: Platform) -> bool:
        """Whether this platform is selected."""

    def rank(self, platform: Platform) -> int:
        """Return the preference: lower is better, NO_MATCH is the largest. Only the order is meaningful."""


_Key: TypeAlias = tuple[str, str, str]


class _Single(msgspec.Struct, frozen=True):
    """Exactly one platform; `wanted` is normalized."""

    wanted: Platform
    windows: bool

    @property
    def key(self) -> _Key:
        """The parts of a platform that have to be equal."""
        return self.wanted.os, self.wanted.architecture, self.wanted.variant

    def accepts(self, platform: Platform) -> bool:
        """Whether a platform with the same key matches."""
        features = list(platform.os_features)
        if self.windows:
            if not hostplatform.windows_runs(self.wanted.os_version, platform.os_version):
                return False
            if "win32k" in features:  # images have it, hosts never do
                features.remove("win32k")
        return set(features) <= set(self.wanted.os_features)


def _single(platform: Platform) -> _Single:
    windows = platform.os == "windows"
    wanted = normalize(platform)
    return _Single(wanted if windows else msgspec.structs.replace(wanted, os_version=""), windows)


class _Ordered:
    """Any of several platforms; with `preferring`, the earlier ones are preferred."""

    def __init__(self, platforms: Iterable[Platform], *, preferring: bool = True) -> None:
        self._preferring = preferring
        self._places: dict[_Key, list[tuple[int, _Single]]] = {}
        for place, single in enumerate(dict.fromkeys(map(_single, platforms))):
            self._places.setdefault(single.key, []).append((place, single))

    def match(self, platform: Platform) -> bool:
        return self._place(platform) is not None

    def rank(self, platform: Platform) -> int:
        place = self._place(platform)
        if place is not None:
            return place * _STRIDE - min(len(platform.os_features), _STRIDE - 1)
        place = self._place(msgspec.structs.replace(platform, os_features=()))
        return NO_MATCH if place is None else _ONLY_WITHOUT_FEATURES + place

    def _place(self, platform: Platform) -> int | None:
        found = normalize(platform)
        for place, single in self._places.get((found.os, found.architecture, found.variant), ()):
            if single.accepts(platform):
                return place if self._preferring else 0
        return None


class _WithoutFeatures(msgspec.Struct, frozen=True):
    """A matcher that ignores os.features."""

    matcher: Matcher

    def match(self, platform: Platform) -> bool:
        return self.matcher.match(without_features(platform))

    def rank(self, platform: Platform) -> int:
        return self.matcher.rank(without_features(platform))


class _All(msgspec.Struct, frozen=True):
    """Every platform, none preferred."""

    def match(self, platform: Platform) -> bool:  # noqa: ARG002 - the protocol's name
        return True

    def rank(self, platform: Platform) -> int:  # noqa: ARG002
        return 0


ALL: Final[Matcher] = _All()


def ordered(*platforms: Platform) -> Matcher:
    """Match any of these exactly, the earlier ones preferred (containerd platforms.Ordered)."""
    return _Ordered(platforms)


def any_of(*platforms: Platform) -> Matcher:
    """Match any of these exactly, none preferred; without any, match nothing (containerd platforms.Any)."""
    return _Ordered(platforms, preferring=False)


def ignoring_features(matcher: Matcher) -> Matcher:
    """Match as containerd before 2.3 and nerdctl before 2.3 do: without os.features."""
    return _WithoutFeatures(matcher)


def is_unknown(platform: Platform) -> bool:
    """Whether this is unknown/unknown, the platform of BuildKit's attestations."""
    return platform.os == "unknown"


def without_features(platform: Platform) -> Platform:
    """Return a platform without os.features."""
    return msgspec.structs.replace(platform, os_features=()) if platform.os_features else platform


def uncovered(wanted: Iterable[Platform], have: Iterable[Platform]) -> list[Platform]:
    """Return the wanted platforms that none of the others matches exactly."""
    by_key: dict[_Key, list[Platform]] = {}
    for platform in dict.fromkeys(have):
        by_key.setdefault(_single(platform).key, []).append(platform)
    return [item for item in wanted if not any(map(ordered(item).match, by_key.get(_single(item).key, ())))]


def only_strict(platform: Platform) -> Matcher:
    """Match this platform only, not others that it can run (containerd platforms.OnlyStrict)."""
    return ordered(normalize(platform))


def only(platform: Platform) -> Matcher:
    """Match this platform and those it can run, the closest preferred (containerd platforms.Only).

    amd64/vN runs the lower levels and 386, arm/vN the lower versions down to v5, and arm64 the lower
    revisions and 32-bit arm.
    """
    return ordered(*_runnable(normalize(platform)))


def _runnable(platform: Platform) -> Iterator[Platform]:
    architecture = platform.architecture
    if architecture == "arm64":
        yield from _runnable_on_arm64(platform)
        return
    yield platform
    if architecture == "amd64":
        for level in range(_level(platform.variant) - 1, 0, -1):
            yield msgspec.structs.replace(platform, variant=f"v{level}")
        yield msgspec.structs.replace(platform, architecture="386", variant="")
    elif architecture == "arm":
        for level in range(_level(platform.variant) - 1, 4, -1):
            yield msgspec.structs.replace(platform, variant=f"v{level}")


def _level(variant: str) -> int:
    found = re.fullmatch(_LEVEL, variant)
    # amd64 has four levels and arm eight; a document with v999999999 must not use much memory.
    return min(int(found.group(1)), 64) if found else 0


def _runnable_on_arm64(platform: Platform) -> Iterator[Platform]:
    found = re.fullmatch(r"v(?:8(?:\.([0-9]))?|9(?:\.([0-7]))?)", platform.variant or "v8")
    if not found:
        return  # as in containerd, an unknown variant does not even match itself
    major8, major9 = found.group(1), found.group(2)
    if (platform.variant or "v8").startswith("v9"):
        revision = int(major9 or 0)
        for minor in range(revision, -1, -1):
            yield _arm64(platform, 9, minor)
        top = min(revision + 5, 9)  # v9.N includes v8.(N+5)
    else:
        top = int(major8 or 0)
    for minor in range(top, -1, -1):
        yield _arm64(platform, 8, minor)
    yield from _runnable(msgspec.structs.replace(platform, architecture="arm", variant="v8"))


def _arm64(platform: Platform, major: int, minor: int) -> Platform:
    return msgspec.structs.replace(platform, variant=f"v{major}.{minor}" if minor else f"v{major}")


# --- selections -------------------------------------------------------------------------------------------


class Selection(msgspec.Struct, frozen=True):
    """The platforms that the caller selected; an empty selection means the host's.

    `all` means every platform of the image, `local` those that are complete in the store.
    """

    platforms: tuple[Platform, ...] = ()
    all: bool = False
    local: bool = False
    host: Platform = msgspec.field(default_factory=host)

    def resolve(self, local: Callable[[], Sequence[Platform]] | None = None) -> Targets:
        """Return what is selected of an image; `local` returns the platforms that are complete in the store.

        Raises InvalidPlatform if the selection is `local` and there is no store.
        """
        if self.all:
            return Targets(self, ALL)
        if self.local:
            if local is None:
                raise InvalidPlatform("platform `local` cannot be used here: there is no local image")
            complete = tuple(local())
            return Targets(self, ordered(*complete), complete)
        chosen = self.platforms or (normalize(self.host),)
        return Targets(self, ordered(*chosen), chosen, required=chosen)


class Targets(msgspec.Struct, frozen=True):
    """What a selection means for one image.

    `matcher` matches the selected platforms, and `listed` are these, unless all are selected. `required` are
    those that the image must have: none for `all` and `local`.
    """

    selection: Selection
    matcher: Matcher
    listed: tuple[Platform, ...] = ()
    required: tuple[Platform, ...] = ()

    def absent(self, found: Iterable[Platform | None]) -> tuple[Platform, ...]:
        """Return the required platforms that no manifest is for; one without a platform may be for any."""
        known: list[Platform] = []
        for platform in found:
            if platform is None:
                return ()
            known.append(platform)
        return tuple(uncovered(self.required, known))


# What public methods accept as platforms. One string is one value, or several separated by commas.
Platforms: TypeAlias = str | Platform | Iterable[str | Platform]


def select(values: Platforms | None) -> Selection:
    """Parse the platforms that a caller passes; None or an empty iterable means the host's.

    A string may list several, separated by commas. `all` and `local` cannot be combined with others. Raises
    InvalidPlatform.
    """
    words: list[str | Platform] = []
    for value in _several(values):
        words += [word.strip() for word in value.split(",")] if isinstance(value, str) else [value]
    for word in ("all", "local"):
        if word in words:
            if set(words) != {word}:
                raise InvalidPlatform(f"platform `{word}` cannot be combined with others", hint=_HINT)
            return Selection(all=word == "all", local=word == "local")
    chosen: dict[Platform, Platform] = {}
    for item in words:
        platform = parse(item) if isinstance(item, str) else item
        chosen.setdefault(normalize(platform), platform)
    return Selection(tuple(chosen.values()))


def _several(values: Platforms | None) -> Iterator[str | Platform]:
    if values is None:
        return
    if isinstance(values, str | Platform):
        yield values
        return
    if not isinstance(values, Iterable):
        raise InvalidPlatform(
            f"platforms={values!r}: must be a string, a Platform, or an iterable", hint=_HINT
        )
    for value in values:
        if not isinstance(value, str | Platform):
            raise InvalidPlatform(f"platform {value!r}: must be a string or a Platform", hint=_HINT)
        yield value
