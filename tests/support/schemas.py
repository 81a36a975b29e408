"""The JSON Schemas of pyctrd/schemas: validating documents, and comparing a schema with its last version."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import pyctrd

FOLDER: Final = Path(pyctrd.__file__).parent / "schemas"
# The versions and the fields of the schemas; scripts/gen-schemas writes it.
LOCK: Final = Path(__file__).parent.parent / "vectors" / "schemas.lock.json"


def names() -> list[str]:
    """Return the names of the schemas: the words of a command, joined by "-", for lines with `.line`."""
    return sorted(path.name.removesuffix(".json") for path in FOLDER.iterdir())


def load(name: str) -> dict[str, Any]:
    """Read a schema."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


# --- documents --------------------------------------------------------------------------------------------


def check(name: str, document: object) -> None:
    """Fail unless a document matches a schema, and has no fields besides those in it."""
    errors = sorted(_strict(name).iter_errors(document), key=lambda error: error.json_path)
    assert not errors, "\n".join(f"{name}: {error.json_path}: {_reason(error)}" for error in errors[:10])


def _reason(error: Any) -> str:
    """Return the message; for several kinds of documents, why it is none of each."""
    return "; or ".join(f"{one.json_path}: {one.message}" for one in error.context) or str(error.message)


@cache
def _strict(name: str) -> Any:
    import jsonschema

    schema = strict(load(name))
    kind = jsonschema.Draft202012Validator
    kind.check_schema(schema)
    return kind(schema)


def strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema that allows no other fields."""
    found = copy.deepcopy(dict(schema))
    for kind in found["$defs"].values():
        if "properties" in kind:
            kind.setdefault("additionalProperties", False)
    return found


def check_output(arguments: Sequence[str], stdout: str) -> None:
    """Check what a command printed, if its arguments ask for JSON."""
    form = _format_of(arguments)
    name = _command_in(arguments)
    if not form or not name or not stdout:
        return
    if form == "json" and name in names():
        check(name, json.loads(stdout))
    else:
        for line in stdout.splitlines():
            check(f"{name}.line", json.loads(line))


def _format_of(arguments: Sequence[str]) -> str:
    """Return `json` or `jsonl` if that is the format, else ""."""
    for place, word in enumerate(arguments):
        form = arguments[place + 1] if word == "--format" and place + 1 < len(arguments) else ""
        form = form or word.partition("--format=")[2]
        if form in ("json", "jsonl"):
            return form
    return ""


def _command_in(arguments: Sequence[str]) -> str:
    """Return the name of the schema of a command line: that of the first words that are a command."""
    known = {name.removesuffix(".line") for name in names()}
    pairs = itertools.pairwise([*arguments, ""])
    return next((name for pair in pairs for name in (pair[0], "-".join(pair)) if name in known), "")


# --- versions ---------------------------------------------------------------------------------------------


def shape(schema: Mapping[str, Any]) -> list[str]:
    """Return what a schema says about documents: a line for each statement about a field."""
    return sorted(set(_Shape(schema["$defs"]).of(schema)))


class _Shape:
    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions

    def of(self, schema: Mapping[str, Any]) -> Iterator[str]:
        """Describe a whole schema; a document may be one of several kinds, whose names begin the lines."""
        for one in schema.get("anyOf", (schema,)):
            yield from self._lines(one, f"({self._name(one)})" if "$ref" in one else "")

    def _lines(self, schema: Mapping[str, Any], path: str) -> Iterator[str]:
        kinds = list(self._resolved(schema))
        yield f"{path}: {' or '.join(sorted(set(map(_type, kinds))))}"
        for kind in kinds:
            yield from self._parts(kind, path)

    def _resolved(self, schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        if "$ref" in schema:
            yield from self._resolved(self._definitions[self._name(schema)])
        elif "anyOf" in schema:
            for one in schema["anyOf"]:
                yield from self._resolved(one)
        else:
            yield schema

    def _name(self, schema: Mapping[str, Any]) -> str:
        name: str = schema["$ref"].rpartition("/")[2]
        return name

    def _parts(self, schema: Mapping[str, Any], path: str) -> Iterator[str]:
        yield from (f"{path}: {key} {schema[key]}" for key in _LIMITS if key in schema)
        yield from (f"{path}: may be {json.dumps(value)}" for value in schema.get("enum", ()))
        for key, field in schema.get("properties", {}).items():
            yield from self._lines(field, f"{path}.{key}")
            if key in schema["required"]:
                yield f"{path}.{key}: always there"
        for key, name in (("items", "[]"), ("additionalProperties", ".*")):
            if schema.get(key):
                yield from self._lines(schema[key], f"{path}{name}")
        for place, item in enumerate(schema.get("prefixItems", ())):
            yield from self._lines(item, f"{path}[{place}]")


_LIMITS: Final = ("pattern", "minimum", "minItems", "maxItems")


def _type(schema: Mapping[str, Any]) -> str:
    """Return the type of a schema without references; one without a type lists values, or allows anything."""
    values = schema.get("enum", ())
    return str(schema.get("type") or (_TYPES[type(values[0])] if values else "anything"))


_TYPES: Final = {str: "string", int: "integer"}

Lock = Mapping[str, Mapping[str, Any]]


def read_lock() -> Lock:
    """Read the versions and shapes of the schemas as they were last accepted."""
    found: Lock = json.loads(LOCK.read_text())
    return found


def lock_of(schemas: Mapping[str, Mapping[str, Any]]) -> Lock:
    """Return the lock of schemas."""
    return {name: {"version": version_of(schema), "shape": shape(schema)} for name, schema in schemas.items()}


def version_of(schema: Mapping[str, Any]) -> str:
    """Return the version, which is the end of a schema's id."""
    return str(schema["$id"].rpartition(":")[2])


def faults(old: Lock, new: Lock) -> list[str]:
    """Return why the new schemas need other versions than they have; nothing if they need none."""
    missing = [
        f"{name}: the schema is gone; undo it, unless this is a new major version of pyctrd"
        for name in old.keys() - new.keys()
    ]
    return missing + [
        f"{name}: {reason}" for name in new.keys() & old.keys() if (reason := _fault(old[name], new[name]))
    ]


def _fault(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return what is wrong with the version of a schema, or ""."""
    (old_major, old_minor), (new_major, new_minor) = (
        tuple(map(int, one["version"].split("."))) for one in (old, new)
    )
    gone, added = (sorted(set(one["shape"]) - set(other["shape"])) for one, other in ((old, new), (new, old)))
    if gone and new_major <= old_major:
        return (
            f"changed in a way that breaks readers: no longer true is `{gone[0]}`"
            f"{f' and {len(gone) - 1} more' if len(gone) > 1 else ''}. Undo it, or set version "
            f'"{old_major + 1}.0" in pyctrd/cli/documents/catalog.py and run scripts/gen-schemas'
        )
    if added and (new_major, new_minor) <= (old_major, old_minor):
        return (
            f"has something new: `{added[0]}`{f' and {len(added) - 1} more' if len(added) > 1 else ''}. Set "
            f'version "{old_major}.{old_minor + 1}" in pyctrd/cli/documents/catalog.py and run '
            "scripts/gen-schemas"
        )
    if (new_major, new_minor) < (old_major, old_minor):
        return f"has version {new['version']}, and had {old['version']}"
    return ""
