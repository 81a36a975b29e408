"""The types of the JSON documents that commands print; `catalog` says which command prints which.

scripts/gen-schemas makes the JSON Schemas in pyctrd/schemas from them. Commands import these modules for the
type checker only: creating the types takes time, and every start would pay for it.
"""

from __future__ import annotations
