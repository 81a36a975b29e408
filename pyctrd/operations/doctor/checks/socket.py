"""The socket: whether containerd answers there, and who may use it."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import Final

from pyctrd.errors import DaemonUnreachable
from pyctrd.operations.doctor.examination import Examination
from pyctrd.operations.doctor.host import SocketFacts
from pyctrd.operations.doctor.model import Advice, DoctorFinding

CODES: Final = ("socket-unreachable", "socket-open-to-all", "socket-group")


def find(examination: Examination) -> Iterator[DoctorFinding]:
    """Find a containerd that does not answer, and a socket that gives others the rights of root."""
    facts = examination.host.socket()
    if examination.unreachable is not None:
        yield _unreachable(facts, examination.unreachable)
    if facts.mode is None or not facts.is_open:
        return
    if facts.mode & stat.S_IWOTH:
        yield DoctorFinding(
            code="socket-open-to-all",
            severity="error",
            what="every user of this machine may use containerd's socket, which is as good as being root",
            evidence=(_rights(facts),),
            remedy=Advice(
                text="take the right to write from others; containerd does so itself when it starts",
                commands=(("chmod", "o-w", facts.path),),
            ),
        )
    elif facts.group and facts.mode & stat.S_IWGRP:
        yield DoctorFinding(
            code="socket-group",
            severity="info",
            what=f"members of the group {facts.group} may use containerd's socket, "
            "which is as good as being root",
            evidence=(_rights(facts),),
            remedy=Advice(
                text="if this is not wanted, remove `gid` in the section [grpc] of containerd's "
                "configuration, restart containerd, and until then give the socket to root's group",
                commands=(("chgrp", "root", facts.path),),
            ),
        )


def _unreachable(facts: SocketFacts, error: DaemonUnreachable) -> DoctorFinding:
    others = tuple(f"there is a socket of {product} at {path}" for product, path in facts.others)
    seen = () if facts.mode is None else (_rights(facts),)
    other = next((path for _, path in facts.others), "")
    return DoctorFinding(
        code="socket-unreachable",
        severity="error",
        what=error.message,
        evidence=(*seen, *others),
        remedy=Advice(
            text=error.hint or "see the log of containerd (journalctl -u containerd)",
            commands=(("pyctrd", "--address", other, "doctor"),) if other else (),
        ),
    )


def _rights(facts: SocketFacts) -> str:
    mode = stat.filemode(facts.mode or 0)[1:]
    return f"{facts.path} belongs to {facts.owner}:{facts.group or 'root'}, with mode {mode}"
