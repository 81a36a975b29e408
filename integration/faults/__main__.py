"""`python -m integration.faults > docs/faults.md` writes the table for people."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from integration.faults import Case
from integration.faults.documents import MANIFESTS
from integration.faults.elsewhere import FOLLOWED, KINDS, REFUSED
from integration.faults.layers import BLOBS
from integration.faults.network import AUTHENTICATION, CONNECTIONS, REDIRECTS, WAITING

_GROUPS = {
    "Connections": CONNECTIONS,
    "Told to wait, and failures of the server": WAITING,
    "Authentication": AUTHENTICATION,
    "Redirects": REDIRECTS,
    "Manifests, indexes, configs": MANIFESTS,
    "Layers": BLOBS,
}
_HEAD = """\
# Faults, and what becomes of them

Each row is played by `integration/rig/faultserver.py` to the real `pyctrd pull` on a real containerd
(`integration/test_faults.py`). In every row the process stays below 120 MiB and 12 s, shows no traceback
and no secret, and sends no more requests than stated; after a failure content, images, leases and ingests
are as they were before, and the next pull from a good registry succeeds. Errors name host, repository and,
where one is known, digest. The last table is played by `integration/test_reach.py` in a network namespace.

This file is made by `python -m integration.faults > docs/faults.md`; a test holds it against the table.

## The rules behind the rows

- **Time.** `--connect-timeout` (10 s) is for all addresses of a name together. `--stall-timeout` (60 s)
  ends a connection that brings fewer than 512 bytes in that time: a drip is a stall. containerd has
  neither; more than that, a minimum rate, would end honest slow links. A head, and a proxy's answer to
  CONNECT, has to be there within 1.5 stall time-outs and have at most 1 MiB with all interim answers before
  it (100, 102, 103); a manifest has to be there within 3, since nobody sees them come. Chunk sizes, chunk
  extensions and trailers are no content: a piece has one stall time-out with all its framing, of which there
  may be 1 MiB more than eight times what it brings. Content that is whole is taken, whatever follows it; a
  list of tags or referrers has to end (`integration/test_discovery.py`).
- **Waiting.** `--retry-budget` (300 s) is what all waiting of one run together may take: back-off (0.5 s,
  doubling up to 15 s, with jitter) and `Retry-After`. A registry that asks for more than is left is not
  waited for; the error says how long it asked for. Waiting for an answer counts, too, when none comes, an
  error or a redirect (what exceeds a tenth of the stall time-out; what several requests wait at the same
  time counts once): when the budget is used up nothing is tried again, and no URL of a foreign layer is
  asked. Of those the first 8 are. One request is tried 5 times; a cut blob goes on as long
  as each connection brings something, and ends after 3 in a row that do not.
- **Where a registry may send us**, by redirect, as token server, as URL of a foreign layer, or as the place
  to upload to. The address that is connected to counts, not the name:

  | the registry is | loopback | link-local | cloud metadata | private | public |
  |---|---|---|---|---|---|
  | public, or behind a proxy | no | no | no | to read only | yes |
  | private | yes | no | no | yes | yes |
  | link-local | no | yes | no | yes | yes |
  | loopback | yes | no | no | yes | yes |

  To write is any request but GET, HEAD and that for a token: a registry on the internet cannot have uploads
  or deletions sent into a private network. Upload locations are read by the rules for redirects in every
  other way, too: http or https, no user, no odd characters, no way from https down to http, and what we are
  known by stays with the registry. Cloud metadata are the addresses outside link-local ones where clouds
  keep a machine's credentials (100.100.100.200, 168.63.129.16, 192.0.0.192, fd00:ec2::254, fd20:ce::254 and
  others). Behind a proxy, which resolves names itself, the text of the URL counts: an address in any spelling
  (decimal, octal, hexadecimal, short, IPv4 in IPv6, percent-encoded) and the usual names for loopback and
  metadata services. A name of one's own that leads there is the proxy's to refuse.
  Mirrors have the rights of where they are themselves, foreign layers those of the reference's own
  registry. A name that was public once does not become a local one. Proxies are the user's choice and may
  be anywhere.
- **Documents** (indexes, manifests, image configs) are read into memory, and judged, before the store gets
  a byte: digest, size (4 x 1048 x 1048 bytes, as containerd), at most 250000 JSON elements and 64 levels,
  no key twice in one object or in other case, `mediaType` equal to what the registry or the index says, at
  most 10000 entries, 16 levels of indexes and 100000 pieces in all, and a config for the platform (system
  and architecture) that the index promises.
- **Wrong bytes** of a layer are found by the store at the commit; the ingest is aborted. Those before a cut
  are kept as long as containerd keeps them, and the next pull goes on there.
- **A containerd that does not answer** (stopped, or its disk is dead). While calls are under way it is asked
  for its version twice in each `--stall-timeout`: when it does not answer that either, all calls end, with
  exit 6 (`integration/test_frozen.py`). As long as it does, a layer that is unpacked, a commit or a
  collection of garbage may take up to an hour (`tests/containerd/test_calls.py`).
- **Another client that holds an unfinished write** is waited for as long as that grows; one that has written
  nothing for a stall time-out is an error (exit 1), ten times later when only the commit is lacking
  (`tests/steps/test_fetch.py`, `integration/test_pull.py`).
- **An output stream** whose `write` does not say how much it has taken, or takes nothing, is an error; a pipe
  whose reader stands still is waited for, and can be interrupted (`tests/archive/test_tar.py`).
- **Signals** end every command within 5 seconds, whatever containerd, a registry or a reader does
  (`integration/test_signals.py`, `integration/test_frozen.py`): the first one ends the work in order, a
  second one, or 4 seconds, ends the process, which removes what it has half-written. What could not be taken
  back then goes with its lease, within a day.
"""


def table(title: str, cases: Sequence[Case]) -> Iterator[str]:
    """Yield the lines of one group."""
    yield f"\n## {title}\n"
    yield "| fault | what the registry does | what comes of it | requests |"
    yield "|---|---|---|---|"
    for case in cases:
        told = [text for text in case.says if "{" not in text]
        outcome = f"exit {case.code}: {', '.join(f'`{text}`' for text in told)}" if case.code else "survived"
        yield f"| {case.name} | {case.story} | {outcome.removesuffix(': ')} | {case.asks} |"


def sent_elsewhere() -> Iterator[str]:
    """Yield the lines about registries that name other places."""
    yield "\n## Sent elsewhere\n"
    yield "| the registry | names | as | by | what comes of it |"
    yield "|---|---|---|---|---|"
    for sent in (*REFUSED, *FOLLOWED):
        place, by = KINDS[sent.victim], "token server" if sent.by == "realm" else sent.by
        outcome = f"exit 5: `is a {place} address`, nobody is asked" if sent in REFUSED else "survived"
        yield f"| {KINDS[sent.registry]} | {place} | `{sent.name}` | {by} | {outcome} |"


def render() -> str:
    """Return the whole document."""
    lines = [line for title, cases in _GROUPS.items() for line in table(title, cases)]
    return "\n".join([_HEAD.rstrip("\n"), *lines, *sent_elsewhere(), ""])


if __name__ == "__main__":
    sys.stdout.write(render())
