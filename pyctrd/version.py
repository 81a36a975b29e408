"""The version of this package, which hatchling reads from here.

`importlib.metadata` takes two milliseconds to find it, and a source tree that is not installed has none.
"""

from __future__ import annotations

from typing import Final

__version__: Final = "0.1.0"
