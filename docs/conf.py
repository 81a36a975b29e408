"""Settings of Sphinx, for scripts/docs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from pyctrd.version import __version__  # noqa: E402

project = "pyctrd"
author = "the authors of pyctrd"
copyright = f"{author}, Apache-2.0"  # noqa: A001 - Sphinx's name
version = release = __version__

extensions = ["myst_parser", "sphinx_llms_txt"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["man", "pictures"]
myst_heading_anchors = 4
# A program's output is marked `console`, as is usual, but is not a session of Python or of a shell.
suppress_warnings = ["misc.highlighting_failure", "myst.header"]

# Options begin with two hyphens.
smartquotes = False

html_theme = "furo"
html_title = f"pyctrd {__version__}"
html_static_path = ["static"]
html_css_files = ["tables.css"]
html_show_sphinx = False

man_pages = [("cli", "pyctrd", "pull, check, repair, move and remove images of containerd", author, 1)]

llms_txt_title = "pyctrd"
llms_txt_summary = "Python client for containerd: a command line and a typed library for container images."

# Pages that are written for the repository, and what they are called in the site.
OUTSIDE: Final = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def setup(app: Any) -> None:
    """Register the rewriting of links to pages outside of docs/."""
    app.connect("source-read", _rewrite)
    app.connect("include-read", lambda app, _path, name, content: _rewrite(app, name, content))


def _rewrite(_app: Any, name: str, content: list[str]) -> None:
    up = "../" * name.count("/")

    def page(found: re.Match[str]) -> str:
        return f"]({up}{OUTSIDE[found[1]]}"

    content[0] = re.sub(rf"\]\((?:\.\./)*({'|'.join(map(re.escape, OUTSIDE))})", page, content[0])
