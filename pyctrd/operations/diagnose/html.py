"""HTML for Jupyter notebooks. All texts are escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def verdict(name: str, text: str) -> str:
    """Return a paragraph about something with a name."""
    return f"<p><code>{escape(name)}</code>: <b>{escape(text)}</b></p>"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def bullets(texts: Sequence[str]) -> str:
    """Return a list; "" for no texts."""
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>" if texts else ""
