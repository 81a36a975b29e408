"""`pyctrd ensure --all`: a line for each incomplete image, the errors on stderr, and a summary."""

from __future__ import annotations

import json

import pytest

from pyctrd.errors import NoMatchingPlatform, PyctrdError, RegistryUnreachable, Remedy
from pyctrd.oci.model import Descriptor, Digest, ImageRecord
from pyctrd.operations.ensure import EnsureResult
from pyctrd.operations.ensure_all import EnsureAllResult, EnsuredImage
from tests.cli.stub import run, with_outcome

LAYER = Descriptor(
    media_type="application/vnd.oci.image.layer.v1.tar+gzip", digest=Digest.of(b"layer"), size=3 << 20
)


def image(name: str) -> ImageRecord:
    return ImageRecord(name=name, target=LAYER)


def fixed(name: str, *, dry_run: bool = False) -> EnsuredImage:
    done = EnsureResult(image=image(name), fetched=(LAYER,), bytes_fetched=LAYER.size, dry_run=dry_run)
    return EnsuredImage(image=image(name), namespace="default", result=done)


def failed(name: str, error: PyctrdError) -> EnsuredImage:
    return EnsuredImage(image=image(name), namespace="k8s.io", error=error)


REFUSED = RegistryUnreachable("connection refused", hint="is the registry up?")
NONE = NoMatchingPlatform(
    "no match for platform", name="linux/amd64", hint="it has x", remedy=Remedy(platforms=("linux/x",))
)


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONTAINERD_ADDRESS", "CONTAINERD_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)


def test_all_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, EnsureAllResult(images=(fixed("a:1"), fixed("b:1")), complete=3))
    result = run("ensure", "--all", "--progress", "none")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "a:1: fetched 1 blob, 3.0 MiB",
        "b:1: fetched 1 blob, 3.0 MiB",
        "fetched 6.0 MiB for 2 images, 3 images complete before",
    ]


def test_errors_are_on_stderr_and_the_first_one_is_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    found = EnsureAllResult(images=(failed("a:1", NONE), failed("b:1", REFUSED), fixed("c:1")), complete=0)
    with_outcome(monkeypatch, found)
    result = run("ensure", "--all")
    assert result.exit_code == 5
    assert result.stderr.splitlines() == [
        "pyctrd: a:1: no match for platform",
        "pyctrd: b:1: connection refused",
        "hint: is the registry up?",
    ]
    assert result.stdout.splitlines()[-1] == (
        "fetched 3.0 MiB for 1 image, 1 image failed, 1 image without the platform"
    )
    document = json.loads(run("ensure", "--all", "--format", "json").stdout)
    assert [item["error"] for item in document["images"]] == [
        "no match for platform",
        "connection refused",
        None,
    ]
    assert document["bytes"] == 3 << 20
    assert document["images"][2]["fetched"][0]["digest"] == LAYER.digest
    with_outcome(monkeypatch, EnsureAllResult(images=(failed("a:1", NONE),), complete=0))
    assert run("ensure", "--all").exit_code == 3


def test_a_dry_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, EnsureAllResult(images=(fixed("a:1", dry_run=True),), complete=0, dry_run=True))
    lines = run("ensure", "--all", "--dry-run").stdout.splitlines()
    assert lines == ["a:1: would fetch 1 blob, 3.0 MiB", "would fetch 3.0 MiB for 1 image"]


def test_nothing_to_do_and_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, EnsureAllResult(images=(), complete=2))
    assert run("ensure", "--all").stdout == "2 images complete before\n"
    assert run("ensure", "--all", "-q").stdout == ""
    with_outcome(monkeypatch, EnsureAllResult(images=(fixed("a:1"),), complete=2))
    assert run("ensure", "--all", "-q").stdout == f"{LAYER.digest}\n"


@pytest.mark.parametrize("words", [(), ("--all", "a:1"), ("-A", "a:1")])
def test_what_is_ensured_must_be_clear(words: tuple[str, ...]) -> None:
    assert run("ensure", *words).exit_code == 2
