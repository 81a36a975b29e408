"""`python -m integration.faults > docs/faults.md` writes the page about faults."""

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
    "Rate limits and server errors": WAITING,
    "Authentication": AUTHENTICATION,
    "Redirects": REDIRECTS,
    "Manifests, indexes, configs": MANIFESTS,
    "Layers": BLOBS,
}
_HEAD = """\
# Faults of networks and registries

`integration/rig/faultserver.py` plays each row to the real `pyctrd pull` on a real containerd
(`integration/test_faults.py`). In every row the process stays below 120 MiB and 12 s, prints no traceback
and no secret, and sends no more requests than stated. After a failure, content, images, leases and ingests
are as before, and the next pull from a good registry succeeds. Errors name the host, the repository and, if
known, the digest. The last table is tested by `integration/test_reach.py` in a network namespace.

This file is written by `python -m integration.faults > docs/faults.md`; a test compares it with the table.

## Rules

- **Time limits.** `--connect-timeout` (10 s) applies to all addresses of a name together. `--stall-timeout`
  (60 s) ends a connection that receives fewer than 512 bytes in that time, so a trickle counts as a stall.
  containerd has neither limit; a higher minimum rate would end slow but working connections. Response
  headers, and a proxy's response to CONNECT, must arrive within 1.5 stall timeouts and have at most 1 MiB,
  including all interim responses (100, 102, 103). A manifest must arrive within 3 stall timeouts, since its
  progress is not shown. Chunk sizes, chunk extensions and trailers do not count as content: each piece of
  content must arrive with its framing within one stall timeout, and the framing may have 1 MiB plus eight
  times the content. Complete content is accepted, whatever follows it; a list of tags or referrers must end
  (`integration/test_discovery.py`).
- **Retries.** `--retry-budget` (300 s) limits all waiting of one run: back-off (0.5 s, doubling up to 15 s,
  with jitter) and `Retry-After`. If a registry demands more than is left, the command fails, and the error
  says how long the registry demands. Time spent waiting for a response also counts if the request then
  fails or is redirected (the part above a tenth of the stall timeout; concurrent waits count once). When
  the budget is used up, nothing is retried, and no URL of a foreign layer is tried. At most 8 of these URLs
  are tried. One request is tried 5 times; an interrupted blob is resumed as long as each connection makes
  progress, and fails after 3 in a row that do not.
- **Where a registry may direct requests**, by a redirect, as token server, as URL of a foreign layer, or as
  upload location. The address that is connected to counts, not the name:

  | the registry is | loopback | link-local | cloud metadata | private | public |
  |---|---|---|---|---|---|
  | public, or behind a proxy | no | no | no | read only | yes |
  | private | yes | no | no | yes | yes |
  | link-local | no | yes | no | yes | yes |
  | loopback | yes | no | no | yes | yes |

  Reading means GET, HEAD and token requests: a registry on the internet cannot direct uploads or deletions
  to a private network. Upload locations otherwise follow the rules for redirects: http or https, no user,
  no invalid characters, no downgrade from https to http, and credentials are sent only to the registry.
  Cloud metadata means the addresses outside the link-local range at which clouds serve a machine's
  credentials (100.100.100.200, 168.63.129.16, 192.0.0.192, fd00:ec2::254, fd20:ce::254 and others). Behind
  a proxy, which resolves names itself, the text of the URL counts: an address in any spelling (decimal,
  octal, hexadecimal, short, IPv4 in IPv6, percent-encoded) and the common names of loopback and metadata
  services. Other names that resolve to such an address must be refused by the proxy. Mirrors may direct
  requests according to their own address, foreign layers according to that of the reference's registry. A
  name that was public once cannot become a local one. Proxies are the user's choice and may be anywhere.
- **Documents** (indexes, manifests, image configs) are read into memory and validated before they are
  written to the store: digest, size (4 x 1048 x 1048 bytes, as in containerd), at most 250000 JSON elements
  and 64 levels, no duplicate keys in an object, also not in other case, `mediaType` equal to that of the
  registry and the index, at most 10000 entries, 16 levels of indexes and 100000 objects in all, and a
  config for the platform (operating system and architecture) that the index states.
- **Wrong bytes** of a layer are detected by the store at the commit, and the ingest is aborted. Data
  received before an interruption is kept as long as containerd keeps it, and the next pull resumes there.
- **A containerd that does not respond** (stopped, or its disk hangs). During calls its version is requested
  twice in each `--stall-timeout`. If it does not respond to that either, all calls end with exit 6
  (`integration/test_frozen.py`). As long as it does, unpacking a layer, a commit or a garbage collection
  may take up to an hour (`tests/containerd/test_calls.py`).
- **Another client with an unfinished write** is waited for as long as the write grows. If it does not grow
  for a stall timeout, that is an error (exit 1); for ten stall timeouts if only the commit is missing
  (`tests/steps/test_fetch.py`, `integration/test_pull_faults.py`).
- **An output stream** whose `write` does not return the number of bytes written, or returns 0, is an error.
  A pipe whose reader has stopped is waited for, and the wait can be interrupted
  (`tests/archive/test_tar.py`).
- **Signals** end every command within 5 seconds, whatever containerd, a registry or a reader does
  (`integration/test_signals.py`, `integration/test_frozen.py`). The first signal ends the work in order. A
  second one, or 4 seconds, ends the process, which removes partial output. What cannot be removed then
  expires with its lease, within a day.
- **Names and texts of others** run nothing and are printed as what they are. Every command that is printed
  or completed is quoted for the shell (`tests/cli/test_commandline.py`, `tests/cli/test_completion.py`,
  `integration/test_hints.py`). Control and invisible characters are escaped (`tests/cli/test_text.py`), and
  an error has at most 4,000 characters (`tests/test_errors.py`). A hint never offers what was asked for
  (`tests/operations/test_save.py`).
- **Logins.** Credential helpers are looked for in absolute directories of PATH only, and under sudo the
  caller's files are used only if they belong to the caller and the question is answered with yes
  (`tests/registry/test_credential_helpers.py`, `integration/test_credentials.py`).
- **A hostile socket** in place of containerd's: sizes, times, digests and endless lists are checked
  (`tests/containerd/test_limits.py`).
- **Arguments** are checked before anything is sent: no `nan` or infinite seconds, no text that is not UTF-8
  (`tests/cli/test_app.py`, `tests/test_client.py`).
"""


def table(title: str, cases: Sequence[Case]) -> Iterator[str]:
    """Yield the lines of one group."""
    yield f"\n## {title}\n"
    yield "| fault | what the registry does | result | requests |"
    yield "|---|---|---|---|"
    for case in cases:
        messages = [text for text in case.says if "{" not in text]
        outcome = (
            f"exit {case.code}: {', '.join(f'`{text}`' for text in messages)}" if case.code else "succeeds"
        )
        yield f"| {case.name} | {case.story} | {outcome.removesuffix(': ')} | {case.asks} |"


def sent_elsewhere() -> Iterator[str]:
    """Yield the lines about registries that direct requests to other hosts."""
    yield "\n## Requests directed to other hosts\n"
    yield "| the registry is | target | address | by | result |"
    yield "|---|---|---|---|---|"
    for sent in (*REFUSED, *FOLLOWED):
        place, by = KINDS[sent.victim], "token server" if sent.by == "realm" else sent.by
        outcome = f"exit 5: `is a {place} address`, no request is sent" if sent in REFUSED else "succeeds"
        yield f"| {KINDS[sent.registry]} | {place} | `{sent.name}` | {by} | {outcome} |"


def render() -> str:
    """Return the whole document."""
    lines = [line for title, cases in _GROUPS.items() for line in table(title, cases)]
    return "\n".join([_HEAD.rstrip("\n"), *lines, *sent_elsewhere(), ""])


if __name__ == "__main__":
    sys.stdout.write(render())
