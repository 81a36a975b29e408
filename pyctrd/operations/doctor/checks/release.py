"""The release of containerd: whether it still gets corrections."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping
from typing import Final

from pyctrd.operations.doctor.examination import CannotCheck, Examination
from pyctrd.operations.doctor.model import Advice, DoctorFinding

CODES: Final = ("release-over", "release-ends-soon")

# containerd RELEASES.md of 2.4.2, read in November 2026. Of a month without a day, the last day.
READ_ON: Final = dt.date(2026, 11, 27)
ENDS: Final[Mapping[tuple[int, int], dt.date]] = {
    (1, 0): dt.date(2018, 12, 5),
    (1, 1): dt.date(2019, 10, 23),
    (1, 2): dt.date(2020, 10, 15),
    (1, 3): dt.date(2021, 3, 4),
    (1, 4): dt.date(2022, 3, 3),
    (1, 5): dt.date(2023, 2, 28),
    (1, 6): dt.date(2025, 8, 23),
    (1, 7): dt.date(2026, 9, 30),
    (2, 0): dt.date(2027, 3, 31),
    (2, 1): dt.date(2026, 7, 3),
    (2, 2): dt.date(2026, 11, 6),
    (2, 3): dt.date(2028, 4, 30),
    (2, 4): dt.date(2027, 5, 16),
}
_SOON: Final = dt.timedelta(days=90)


def find(examination: Examination) -> Iterator[DoctorFinding]:
    """Find a release that its authors no longer maintain, or not for long."""
    version = examination.version.version
    found = re.match(r"v?(\d+)\.(\d+)", version)
    release = (int(found[1]), int(found[2])) if found else (0, 0)
    end = ENDS.get(release)
    if end is None:
        raise CannotCheck(
            f"it is not known until when containerd {version} is maintained (as of {READ_ON:%B %Y})"
        )
    today = examination.now.date()
    name = f"{release[0]}.{release[1]}"
    if today > end:
        yield DoctorFinding(
            code="release-over",
            severity="warning",
            what=f"containerd {name} has reached its end of life: it gets no more corrections from its "
            "authors, not even for security",
            evidence=(f"this is {version}", _dates(name, end, "ended")),
            remedy=_newer(today),
        )
    elif today + _SOON > end:
        yield DoctorFinding(
            code="release-ends-soon",
            severity="info",
            what=f"containerd {name} reaches its end of life on {end}",
            evidence=(f"this is {version}", _dates(name, end, "ends")),
            remedy=_newer(today),
        )


def _dates(name: str, end: dt.date, verb: str) -> str:
    return f"the support of {name} {verb} on {end}, according to its RELEASES.md as of {READ_ON:%B %Y}"


def _newer(today: dt.date) -> Advice:
    (major, minor), end = max(ENDS.items(), key=lambda item: item[1])
    latest = f" to {major}.{minor}, which is maintained until {end}" if end > today else " to a newer release"
    return Advice(
        text=f"upgrade{latest}; some distributions correct security problems of older releases themselves"
    )
