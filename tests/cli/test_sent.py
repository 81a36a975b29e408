"""The output of push and copy, and which registry gets which password."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from pyctrd.oci.mediatypes import DOCKER_FOREIGN, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST
from pyctrd.oci.model import Descriptor, Digest, Platform
from pyctrd.registries import Registry
from pyctrd.registry import RegistryOptions
from pyctrd.steps.upload import SendResult
from tests.cli.stub import run, with_outcome


def made(name: bytes, media_type: str = OCI_LAYER_GZIP, size: int = 1024) -> Descriptor:
    return Descriptor(media_type=media_type, digest=Digest.of(name), size=size)


OLD, NEW = made(b"old", OCI_INDEX), made(b"new", OCI_INDEX)
RESULT = SendResult(
    source="docker.io/library/alpine:3",
    name="registry.example/alpine:3",
    original=OLD,
    target=NEW,
    platforms=(Platform(os="linux", architecture="arm64"),),
    uploaded=(made(b"one"), NEW),
    mounted=(made(b"two"),),
    present=(made(b"three"), made(b"four")),
    skipped=(made(b"five", DOCKER_FOREIGN),),
    bytes_uploaded=2048,
)
PLAN = SendResult(
    source=RESULT.source,
    name=RESULT.name,
    original=OLD,
    target=OLD,
    platforms=(),
    uploaded=(made(b"one"),),
    mounted=(made(b"two"),),
    present=(),
    skipped=(),
    bytes_uploaded=1024,
    dry_run=True,
)


def test_text_says_that_the_digest_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, RESULT)
    assert run("push", "alpine", "registry.example/alpine:3").stdout.splitlines() == [
        "registry.example/alpine:3",
        f"digest: {NEW.digest}",
        f"made from: {OLD.digest}, selected platforms only",
        "platforms: linux/arm64",
        "uploaded: 2 blobs, 2.0 KiB",
        "mounted: 1 blob, 1.0 KiB",
        "already present: 2 blobs, 2.0 KiB",
        "skipped: 1 layer marked non-distributable (--allow-nondistributable)",
    ]
    assert run("push", "-q", "alpine").stdout == f"registry.example/alpine:3@{NEW.digest}\n"


def test_text_says_how_to_fetch_a_skipped_attestation(monkeypatch: pytest.MonkeyPatch) -> None:
    left_out = made(b"attestation", OCI_MANIFEST)
    with_outcome(monkeypatch, msgspec.structs.replace(RESULT, skipped=(left_out,)))
    lines = run("-n", "k8s.io", "push", "alpine").stdout.splitlines()
    assert f"made from: {OLD.digest}, without skipped content" in lines
    assert lines[-1] == (
        "skipped: 1 attestation with missing content; to fetch it: "
        "pyctrd -n k8s.io ensure --platform unknown/unknown docker.io/library/alpine:3"
    )


def test_json_has_the_whole_result(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, RESULT)
    told = json.loads(run("push", "alpine", "--format", "json").stdout)
    assert told["name"] == RESULT.name
    assert told["target"] == {"mediaType": OCI_INDEX, "digest": NEW.digest, "size": 1024}
    assert [len(told[key]) for key in ("uploaded", "mounted", "present", "skipped")] == [2, 1, 2, 1]
    assert (told["platforms"], told["bytes"]) == (["linux/arm64"], 2048)


def test_dry_run_prints_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    client = with_outcome(monkeypatch, PLAN)
    lines = run("push", "--dry-run", "--platform", "arm64", "alpine").stdout.splitlines()
    assert lines[:4] == [
        "registry.example/alpine:3",
        f"digest: {OLD.digest}",
        "would upload: 1 blob, 1.0 KiB",
        "would mount: 1 blob, 1.0 KiB",
    ]
    assert PLAN.uploaded[0].digest in lines[-1]
    assert run("push", "--dry-run", "-q", "alpine").stdout == f"{PLAN.uploaded[0].digest}\n"
    told = json.loads(run("push", "--dry-run", "--format", "json", "alpine").stdout)
    assert [len(told[key]) for key in ("upload", "mount", "present")] == [1, 1, 0]
    assert client.return_value.images.push.call_args_list[0].kwargs["platforms"] == ("arm64",)
    assert client.return_value.images.push.call_args_list[0].kwargs["dry_run"] is True


def test_options_are_passed_to_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    client = with_outcome(monkeypatch, RESULT)
    run("push", "alpine", "--chunk-size", "5", "--max-concurrent-uploads", "7", "--allow-nondistributable")
    run("push", "alpine", "--chunk-size", "0", "--index", "flatten")
    first, second = (call.kwargs for call in client.return_value.images.push.call_args_list)
    assert (first["chunk_bytes"], first["concurrency"]) == (5 << 20, 7)
    assert first["nondistributable"] is True
    assert (second["chunk_bytes"], second["index"]) == (0, "flatten")


@pytest.mark.parametrize(
    ("flags", "target", "source"),
    [
        ([], None, "the same"),
        (["-u", "me:secret"], "me", ""),
        (["--src-user", "you:secret"], None, "you"),
        (["-u", "me:secret", "--src-user", "you:secret"], "me", "you"),
        (["--plain-http"], "", ""),
    ],
)
def test_copy_uses_a_login_for_each_side(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], target: str | None, source: str
) -> None:
    copier = with_outcome(monkeypatch, RESULT, Registry)
    assert run("copy", *flags, "one.example/a", "two.example/b").exit_code == 0
    arguments, named = copier.call_args
    assert user_of(arguments[0]) == target
    assert user_of(named["source"]) == source if named else source == "the same"
    if "--plain-http" in flags:
        assert (arguments[0].plain_http, named["source"].plain_http) == (True, False)


def user_of(options: Any) -> str | None:
    assert options is None or isinstance(options, RegistryOptions)
    return None if options is None else options.username


def test_copy_within_a_registry_uses_one_login(monkeypatch: pytest.MonkeyPatch) -> None:
    copier = with_outcome(monkeypatch, RESULT, Registry)
    run("copy", "-u", "me:secret", "one.example/a", "one.example/b")
    arguments, named = copier.call_args
    assert (user_of(arguments[0]), named) == ("me", {})
