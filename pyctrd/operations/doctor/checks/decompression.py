"""The program that containerd decompresses layers with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pyctrd.operations.doctor.examination import CannotCheck, Examination
from pyctrd.operations.doctor.model import Advice, DoctorFinding

CODES: Final = ("slow-decompression",)


def find(examination: Examination) -> Iterator[DoctorFinding]:
    """Find a containerd that decompresses gzip by itself, on one core and more slowly than a program.

    Source: containerd pkg/archive/compression/compression.go; igzip is used since 2.0.
    """
    version = examination.version
    process = examination.host.process()
    if process is None:
        raise CannotCheck("containerd does not run on this machine")
    if process.path is None:
        raise CannotCheck(f"the environment of containerd, process {process.pid}, may be read only by root")
    programs = [("unpigz", "CONTAINERD_DISABLE_PIGZ")]
    if not version.is_1:
        programs.insert(0, ("igzip", "CONTAINERD_DISABLE_IGZIP"))
    disabled = []
    for program, variable in programs:
        if not examination.host.has_program(process.path, program):
            continue
        if _is_true(process.environment.get(variable, "")):
            disabled.append(f"{variable} disables {program}")
        else:
            return
    names = " nor ".join(program for program, _ in programs)
    yield DoctorFinding(
        code="slow-decompression",
        severity="info",
        what="containerd decompresses gzip layers with Go's library, which is slower than a program for that",
        evidence=(
            f"{'neither ' if len(programs) > 1 else 'no '}{names} in its PATH: {':'.join(process.path)}",
            *disabled,
        ),
        remedy=Advice(
            text=f"unset {' and '.join(item.partition(' ')[0] for item in disabled)} in containerd's unit, "
            "and restart containerd"
            if disabled
            else f"install {'pigz' if version.is_1 else 'isal (igzip) or pigz'}, and restart containerd",
            commands=() if disabled else (("apt-get", "install", "pigz" if version.is_1 else "isal"),),
        ),
    )


def _is_true(text: str) -> bool:
    """Whether Go's strconv.ParseBool takes a text for true."""
    return text in ("1", "t", "T", "TRUE", "true", "True")
