"""Diagnoses as HTML tables, which a Jupyter notebook shows. All texts are escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from pyctrd.amounts import size

if TYPE_CHECKING:
    from pyctrd.operations.diagnose.model import Diagnosis, DiagnosisSummary


def of_image(found: Diagnosis) -> str:
    """Return the verdict and a row for each platform."""
    lacks = _lacks(found.missing_bytes, found.missing_known)
    verdict = "complete" if found.complete else f"incomplete, lacks {lacks}"
    rows = [
        (
            row.platform or row.kind,
            "complete" if row.complete else "incomplete",
            "-" if row.complete else _lacks(row.missing_bytes, row.missing_known),
            "selected" if row.target else "",
        )
        for row in found.platforms
    ]
    causes = "".join(f"<li>{escape(cause.text)}</li>" for cause in found.causes)
    head = f"<p><code>{escape(found.image)}</code>: <b>{escape(verdict)}</b></p>"
    table = _table(("Platform", "Status", "Missing", ""), rows)
    return head + table + (f"<ul>{causes}</ul>" if causes else "")


def of_summary(found: DiagnosisSummary) -> str:
    """Return one row."""
    cause = found.error.message if found.error else found.cause.text if found.cause else ""
    status = "complete" if found.complete else "incomplete"
    missing = "-" if found.complete else _lacks(found.missing_bytes, found.missing_known)
    return _table(("Image", "Status", "Missing", "Cause"), [(found.image, status, missing, cause)])


def _lacks(count: int, known: bool) -> str:
    return size(count) if known else f"at least {size(count)}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
