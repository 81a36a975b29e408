"""The Link header, which says where the next page of a list is. No IO.

Sources: RFC 8288 section 3; the distribution spec's "Listing Tags" and "Listing Referrers".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

_TARGET = re.compile(r"[ \t,]*+<([^<>]*+)>")
_PARAMETER = re.compile(
    r"[ \t]*+;[ \t]*+"
    r"(?:([!#$%&'*+.^_`|~0-9A-Za-z-]++)"
    r"(?:[ \t]*+=[ \t]*+(?:\"((?:[^\"\\]|\\.)*+)\"|([^ \t\",;]*+)))?)?"
)
_END = re.compile(r"[ \t,]*+\Z")
_BETWEEN = re.compile(r"[ \t]*+(?:,|\Z)")


def next_of(values: Iterable[str]) -> str | None:
    """Return the target of the first link with the relation `next`, unresolved; None if there is none.

    `values` are those of all Link headers of a response. A link with an `anchor`, which is not about the
    response, is ignored. Raises ValueError for an invalid header, so that no page is missed.
    """
    for value in values:
        for target, parameters in _links(value):
            relations = parameters.get("rel", "").lower().split()
            if "next" in relations and "anchor" not in parameters:
                return target
    return None


def _links(value: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    position = 0
    while not _END.match(value, position):
        found = _TARGET.match(value, position)
        if not found:
            raise ValueError("not a list of links")
        position = found.end()
        parameters: dict[str, str] = {}
        while more := _PARAMETER.match(value, position):
            position = more.end()
            name, quoted, token = more.groups(default="")
            # If a parameter occurs twice, the first one counts (RFC 8288 section 3.3).
            parameters.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) or token)
        if not _BETWEEN.match(value, position):
            raise ValueError("not a list of links")
        yield found[1].strip(), parameters
