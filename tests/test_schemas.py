"""JSON Schemas: every command has one, documents match it, and a change needs a new version."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from pyctrd.cli.app import app
from tests.support import schemas

ROOT = Path(__file__).parent.parent


def commands(
    group: click.Command = app, context: click.Context | None = None, words: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    """Find every command that is not a group, and its words joined by "-"."""
    context = context or click.Context(app)
    if not isinstance(group, click.Group):
        yield "-".join(words), group
        return
    for name in group.list_commands(context):
        below = group.get_command(context, name)
        assert below is not None
        yield from commands(below, click.Context(below, parent=context), (*words, name))


def formats(command: click.Command) -> set[str]:
    """Return the values of `--format`; those of save are checked by the command, for archives as well."""
    for parameter in command.params:
        if "--format" in parameter.opts:
            choice = parameter.type
            return set(choice.choices) if isinstance(choice, click.Choice) else {"json"}
    return set()


def test_every_json_format_of_a_command_has_a_schema() -> None:
    wanted = {"progress.line"}
    for name, command in commands():
        wanted |= {name} if "json" in formats(command) and name != "events" else set()
        wanted |= {f"{name}.line"} if "jsonl" in formats(command) else set()
    assert set(schemas.names()) == wanted


@pytest.mark.parametrize("name", schemas.names())
def test_a_schema_is_valid_and_has_a_version(name: str) -> None:
    import jsonschema

    schema = schemas.load(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert re.fullmatch(rf"urn:pyctrd:schema:{re.escape(name)}:\d+\.\d+", schema["$id"])


def test_published_schemas_allow_fields_of_later_versions() -> None:
    import jsonschema

    document = {"pyctrd": "1.0.0", "containerd": {"version": "v2", "revision": "", "new": 1}, "new": 1}
    schema = schemas.load("version")
    jsonschema.validate(document, schema)
    with pytest.raises(AssertionError, match="'new' was unexpected"):
        schemas.check("version", document)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"pyctrd": "1"}, "'containerd' is a required property"),
        ({"pyctrd": 1, "containerd": None}, "1 is not of type 'string'"),
        ({"pyctrd": "1", "containerd": {"version": "v2"}}, "'revision' is a required property"),
    ],
)
def test_a_document_that_does_not_match_is_detected(document: object, reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        schemas.check("version", document)


def test_output_is_checked_for_the_command_and_format_of_the_arguments() -> None:
    with pytest.raises(AssertionError, match=r"snapshots-ls\.line"):
        schemas.check_output(["-n", "x", "snapshots", "ls", "--format=jsonl"], "{}")
    with pytest.raises(AssertionError, match="version"):
        schemas.check_output(["version", "--format", "json"], "{}")
    schemas.check_output(["version"], "text")


# --- docs/json.md -----------------------------------------------------------------------------------------


def _section(name: str) -> str:
    """Return the section of docs/json.md about a command, with those that it refers to."""
    text = (ROOT / "docs" / "json.md").read_text()
    found = re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    sections = {one: body for title, body in found for one in title.lower().split(", ")}
    words = name.removesuffix(".line").split("-")
    body = sections[" ".join(words) if " ".join(words) in sections else words[0]]
    others = re.findall(r"(?:(?:as|of|for|what) )+`([a-z]+)(?: ls)?`", body)
    return "\n".join([body, *(sections[other] for other in others if other in sections)])


@pytest.mark.parametrize("name", schemas.names())
def test_every_field_is_in_the_documentation(name: str) -> None:
    text = _section(name) + "`mediaType` `digest` `size`"  # every content has these
    definitions = schemas.load(name)["$defs"].values()
    fields = {field for kind in definitions for field in kind.get("properties", ())}
    missing = {field for field in fields if not re.search(rf"[`\"]{field}[`\"]|`tools\.{field}`", text)}
    assert not missing


def test_the_code_in_the_page_works(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "reference" / "schemas.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    exec(compile(code, "schemas.md", "exec"), {})
    assert capsys.readouterr().out == "pyctrd images --format json\n"


# --- versions ---------------------------------------------------------------------------------------------


def test_no_schema_has_changed_without_a_new_version() -> None:
    new = schemas.lock_of({name: schemas.load(name) for name in schemas.names()})
    assert schemas.faults(schemas.read_lock(), new) == []


def _changed(change: Any, version: str = "1.0") -> list[str]:
    """Change the schema of `pull`, and return what is wrong with its version then."""
    old = schemas.load("pull")
    new = copy.deepcopy(old)
    change(new["$defs"]["Pull"])
    new["$id"] = f"urn:pyctrd:schema:pull:{version}"
    return schemas.faults(schemas.lock_of({"pull": old}), schemas.lock_of({"pull": new}))


def _with_field(kind: dict[str, Any]) -> None:
    kind["properties"]["layers"] = {"type": "integer"}


def test_a_new_field_needs_a_new_minor_version() -> None:
    assert 'Set version "1.1"' in _changed(_with_field)[0]
    assert _changed(_with_field, "1.1") == _changed(_with_field, "2.0") == []


@pytest.mark.parametrize(
    "change",
    [
        lambda kind: kind["properties"].pop("bytes"),
        lambda kind: kind["required"].remove("bytes"),
        lambda kind: kind["properties"].update(bytes={"type": "string"}),
        lambda kind: kind["properties"].update(image={"anyOf": [{"type": "string"}, {"type": "null"}]}),
        lambda kind: kind["properties"]["expires_at"].pop("pattern"),
    ],
    ids=["removed", "optional", "another type", "may be null", "any text"],
)
def test_any_other_change_needs_a_new_major_version(change: Any) -> None:
    for version in ("1.0", "1.1"):
        assert 'set version "2.0"' in _changed(change, version)[0]
    assert _changed(change, "2.0") == []


def test_a_schema_that_is_gone_and_an_older_version_are_detected() -> None:
    lock = schemas.lock_of({"pull": schemas.load("pull")})
    assert "is gone" in schemas.faults(lock, {})[0]
    assert _changed(lambda kind: None, "0.9") == ["pull: has version 0.9, and had 1.0"]
