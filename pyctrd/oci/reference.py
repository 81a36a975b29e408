"""Image references: parsed by the distribution grammar, normalized as Docker and nerdctl do.

Sources: github.com/distribution/reference v0.6.0 (regexp.go, normalize.go, reference.go, helpers.go);
containerd pkg/reference/reference.go for how containerd itself parses a name.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from pyctrd.errors import InvalidReference
from pyctrd.oci.model import Digest

_DEFAULT_DOMAIN: Final = "docker.io"
_LEGACY_DOMAIN: Final = "index.docker.io"
_OFFICIAL: Final = "library/"
_DEFAULT_TAG: Final = "latest"
_MAX_PATH: Final = 255
_HINT: Final = "write [host[:port]/]repository[:tag][@digest], e.g. alpine:3.20 or example.org:5000/team/app"

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN: Final = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_WORD = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH: Final = rf"{_WORD}(?:/{_WORD})*"
_TAG: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_FULL_ID: Final = r"[a-f0-9]{64}"
_PREFIX: Final = r"(?:(sha256|sha384|sha512):)?([a-f0-9]{1,128})"
_HEX_LENGTHS: Final = {"sha256": 64, "sha384": 96, "sha512": 128}


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """A normalized reference: registry, repository, and a tag, a digest, or both.

    `domain` is host[:port], `path` the repository's path; `tag` may be empty.
    """

    domain: str
    path: str
    tag: str = ""
    digest: Digest | None = None

    def __str__(self) -> str:
        """Return the full name, e.g. `docker.io/library/alpine:latest`."""
        return f"{self.domain}/{self.path}{self._suffix()}"

    @property
    def repository(self) -> str:
        """The repository's path, e.g. `library/alpine`."""
        return self.path

    @property
    def name(self) -> str:
        """The full name without tag and digest, e.g. `docker.io/library/alpine`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar(self) -> str:
        """The familiar name, e.g. `alpine:latest`."""
        if self.domain != _DEFAULT_DOMAIN:
            return str(self)
        rest = self.path.removeprefix(_OFFICIAL)
        return f"{self.path if '/' in rest else rest}{self._suffix()}"

    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{tag}@{self.digest}" if self.digest else tag


def parse(text: str) -> Reference:
    """Parse and normalize a reference: `alpine` becomes `docker.io/library/alpine:latest`.

    The tag `latest` is added only if there is neither a tag nor a digest; if both are given, both are kept.
    Raises InvalidReference, which says what is wrong with the text.
    """
    if not text:
        raise _invalid(text, "repository name must have at least one component")
    if not text.isprintable() or " " in text:
        raise _invalid(text, "it contains white space or a control character")
    if "://" in text:
        raise _not_a_url(text)
    if re.fullmatch(_FULL_ID, text):
        raise _invalid(text, "invalid repository name, cannot specify 64-byte hexadecimal strings")
    domain, remainder = _split_domain(text)
    named, at, digest_text = remainder.partition("@")
    path, colon, tag = named.partition(":")
    _check_path(text, path)
    if not re.fullmatch(_DOMAIN, domain):
        raise _invalid(text, f"`{_shown(domain)}` is not a host name, or its port is not a number")
    if colon and not re.fullmatch(_TAG, tag):
        raise _invalid(text, _tag_error(tag))
    digest = _parse_digest(text, digest_text) if at else None
    if not tag and digest is None:
        tag = _DEFAULT_TAG
    return Reference(domain=domain, path=path, tag=tag, digest=digest)


def parse_repository(text: str) -> Reference:
    """Parse and normalize the name of a repository; the reference has neither tag nor digest.

    Raises InvalidReference, also if the text has a tag or a digest.
    """
    found = parse(text)
    if "@" in text or ":" in text.rpartition("/")[2]:
        raise InvalidReference(
            f"invalid repository: {_shown(text)!r} has a tag or a digest",
            hint=f"leave it out: {found.name}",
        )
    return msgspec.structs.replace(found, tag="")


def is_tag(text: str) -> bool:
    """Whether a text is a valid tag (OCI distribution-spec, "Pulling manifests")."""
    return re.fullmatch(_TAG, text) is not None


def _split_domain(text: str) -> tuple[str, str]:
    """Split off the registry: the first part if it has a dot, a port or a capital letter, or is localhost."""
    first, slash, rest = text.partition("/")
    if not slash:
        return _DEFAULT_DOMAIN, _OFFICIAL + text
    if first == _LEGACY_DOMAIN:
        first = _DEFAULT_DOMAIN
    if first != "localhost" and not set(".:") & set(first) and first.lower() == first:
        return _DEFAULT_DOMAIN, text
    if first == _DEFAULT_DOMAIN and "/" not in rest:
        rest = _OFFICIAL + rest
    return first, rest


def _check_path(text: str, path: str) -> None:
    given = path.removeprefix(_OFFICIAL) if not text.startswith(_OFFICIAL) else path
    if not given:
        raise _invalid(text, "the repository name is missing")
    if path.lower() != path:
        raise _invalid(text, f"repository name ({_shown(given)}) must be lowercase")
    if not re.fullmatch(_PATH, path):
        raise _invalid(
            text,
            f"repository name ({_shown(given)}) must be words of a-z and 0-9, joined by `.`, `_`, `__`, "
            "dashes or `/`",
        )
    if len(path) > _MAX_PATH:
        raise _invalid(text, f"repository name must not be more than {_MAX_PATH} characters")


def _tag_error(tag: str) -> str:
    if not tag:
        return "the tag after `:` is missing"
    if len(tag) > 128:
        return f"invalid tag format: {len(tag)} characters, at most 128 are allowed"
    return f"invalid tag format: `{_shown(tag)}` must be letters, digits, `_`, `.`, `-`; no `.` or `-` first"


def _parse_digest(text: str, digest: str) -> Digest:
    if not digest:
        raise _invalid(text, "the digest after `@` is missing")
    try:
        return Digest(digest)
    except InvalidReference as error:
        raise _invalid(text, _shown(error.message.partition(":")[0])) from None


def _invalid(text: str, reason: str) -> InvalidReference:
    return InvalidReference(f"invalid reference format: {_shown(text)!r}: {reason}", hint=_HINT)


def _not_a_url(text: str) -> InvalidReference:
    """Return the error for a URL: `docker://alpine` as for skopeo, or `https://registry.example/app`."""
    scheme, _, rest = text.partition("://")
    hint = _HINT
    if "://" not in rest and _parses(rest):
        hint = f"leave out `{_shown(scheme)}://`: {rest}"
    reason = f"`{_shown(scheme)}://` is not part of a reference"
    return InvalidReference(f"invalid reference format: {_shown(text)!r}: {reason}", hint=hint)


def _parses(text: str) -> bool:
    try:
        parse(text)
    except InvalidReference:
        return False
    return True


def _shown(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def digest_prefix(text: str) -> str | None:
    """Return `algorithm:hex` for an image id or a prefix of one, None for anything else.

    A hexadecimal text without an algorithm means sha256. As in nerdctl, one digit is enough
    (nerdctl pkg/idutil/imagewalker/imagewalker.go).
    """
    found = re.fullmatch(_PREFIX, text)
    if not found:
        return None
    algorithm, digits = found.group(1) or "sha256", found.group(2)
    return f"{algorithm}:{digits}" if len(digits) <= _HEX_LENGTHS[algorithm] else None


# --- names as containerd itself parses them ---------------------------------------------------------------

_CONTROL: Final = r"[\x00-\x1f\x7f]"
_BAD_ESCAPE: Final = r"%(?![0-9A-Fa-f]{2})"
_USER: Final = r"[A-Za-z0-9._:~!$&'()*+,;=%@-]*"
_HOST_CHARACTER = r"(?:[^\x00-\x7f]|[A-Za-z0-9._~!$&'()*+,;=<>\"\]-]|%25|%[89A-Fa-f][0-9A-Fa-f])"
_HOST: Final = rf"{_HOST_CHARACTER}+|(?:{_HOST_CHARACTER}|:)*:[0-9]*"
_HOST6: Final = rf"\[([^\[\]%]*)(?:%25(?:{_HOST_CHARACTER}|:)+)?\](?::[0-9]*)?"


def oci_ref_name(name: str) -> str:
    """Return the value of org.opencontainers.image.ref.name that containerd's exporter writes for a record.

    It is the tag or `tag@digest`, or the whole name if there is no tag, or if the name cannot be parsed as a
    URL. containerd before 2.3 writes `@digest` or nothing for a name without a tag, which the OCI
    specification does not allow. Source: containerd core/images/archive/reference.go ociReferenceName.
    """
    found = _object(name)
    return name if not found or found.startswith("@") else found


def resolve_error(name: str) -> str:
    """Return containerd's error for a name that it cannot resolve; empty if it can.

    Source: containerd pkg/reference/reference.go Parse, core/remotes/docker/resolver.go Resolve.
    """
    found = _object(name)
    if found is not None:
        return "" if found else "object required"
    host = re.split("[/?#]", name, maxsplit=1)[0].rpartition("@")[2]
    _, colon, port = host.rpartition(":")
    if colon and not host.endswith("]") and not re.fullmatch("[0-9]*", port):
        return f'invalid port ":{port}" after host'
    return "invalid reference"


def _object(name: str) -> str | None:
    """Return what follows the first `:` or `@` of the path, as containerd's reference.Parse splits a name."""
    before, _, fragment = name.partition("#")
    if "://" in name or re.search(_CONTROL, before) or re.search(_BAD_ESCAPE, fragment):
        return None
    authority, slash, path = before.partition("?")[0].partition("/")
    user, _, host = authority.rpartition("@")
    if not re.fullmatch(_USER, user) or re.search(_BAD_ESCAPE, f"{user}/{path}") or not _is_host(host):
        return None
    from urllib.parse import unquote

    decoded = unquote(slash + path, errors="replace")
    found = re.search("[:@]", decoded)
    return decoded[found.start() :].removeprefix(":") if found else ""


def _is_host(host: str) -> bool:
    if not host.startswith("["):
        return re.fullmatch(_HOST, host) is not None
    from ipaddress import IPv6Address

    found = re.fullmatch(_HOST6, host)
    try:
        return bool(found and IPv6Address(found.group(1)))
    except ValueError:
        return False
