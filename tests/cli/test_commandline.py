"""Printed commands: a shell splits them correctly, and they have the options of the run."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyctrd.cli import commandline
from pyctrd.cli.settings import RegistryArguments, Settings
from pyctrd.cli.text import sanitize
from pyctrd.errors import REPAIR, NotFound, PyctrdError, Remedy
from tests.cli.stub import run, with_outcome

NASTY = "zz/$(touch pwned)`id`;'\"\\ \t\n&*?~!{a,b}"
# Arguments are bytes without NUL; bytes that are not UTF-8 become lone surrogates.
ARGUMENTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONTAINERD_ADDRESS", raising=False)
    monkeypatch.delenv("CONTAINERD_NAMESPACE", raising=False)


@settings(max_examples=25)
@given(st.lists(ARGUMENTS, min_size=1, max_size=8))
@example([NASTY, "al\u200bpine", "a\u00adb\U000e0041", "\x1b[31m", "-x", "", "\udcff", "日本", "'\u2060"])
def test_bash_splits_printed_commands_into_the_original_words(words: list[str]) -> None:
    line = commandline.join(words)
    assert line == sanitize(line)
    script = f"printf '%s\\0' {line}".encode("utf-8", "surrogateescape")
    done = subprocess.run(["bash", "--norc"], input=script, capture_output=True, check=True)
    assert done.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1] == words


@pytest.mark.parametrize(
    ("options", "environ", "scope"),
    [
        ({}, {}, ""),
        ({"namespace": "k8s.io"}, {}, " -n k8s.io"),
        ({"namespace": "default"}, {"CONTAINERD_NAMESPACE": "k8s.io"}, " -n default"),
        ({}, {"CONTAINERD_NAMESPACE": "k8s.io"}, " -n k8s.io"),
        ({"address": "/a b.sock"}, {"CONTAINERD_ADDRESS": "/c.sock"}, " -a '/a b.sock'"),
        ({}, {"CONTAINERD_ADDRESS": "/c.sock"}, " -a /c.sock"),
        ({"address": "/c.sock", "namespace": "x"}, {}, " -a /c.sock -n x"),
    ],
)
def test_a_command_reaches_the_same_containerd_and_namespace(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, str], environ: dict[str, str], scope: str
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert commandline.pyctrd(Settings(**options), "images") == f"pyctrd{scope} images"  # type: ignore[arg-type]
    assert commandline.ctr(Settings(**options), "version") == f"ctr{scope} version"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("remedy", "command"),
    [
        (Remedy(method="ensure", images=("a",), platforms=("x", "y/z")), "ensure --platform x,y/z a"),
        (
            Remedy(method="ensure", images=("a",), platforms=("w(1,2)/amd64", "l")),
            "ensure --platform 'w(1,2)/amd64' --platform l a",
        ),
        (Remedy(method="ensure", images=("-a",), all_platforms=True), "ensure --all-platforms -- -a"),
        (Remedy(method="verify", images=("a", "$(b)"), repair=True), "verify --repair a '$(b)'"),
        (Remedy(method="images"), "images"),
    ],
)
def test_a_remedy_is_printed_as_a_command(remedy: Remedy, command: str) -> None:
    assert commandline.of(remedy, Settings()) == f"pyctrd {command}"


def test_a_remedy_for_the_same_command_is_printed_as_options() -> None:
    assert commandline.of(Remedy(platforms=("$(id)/amd64",)), Settings()) == "--platform '$(id)/amd64'"
    assert commandline.of(Remedy(namespace="k8s.io"), Settings(namespace="x")) == "-n k8s.io"


def test_a_remedy_has_the_registry_options_of_the_run() -> None:
    chosen = Settings(
        output="out file.tar",
        registry=RegistryArguments(
            plain_http=True, skip_verify=True, user="me:secret", hosts_dir="/h d", sudo_user_config=False
        ),
    )
    words = shlex.split(commandline.of(Remedy(method="save", images=("a",)), chosen))
    assert words == [
        *("pyctrd", "save", "-o", "out file.tar", "--plain-http", "--skip-verify", "--hosts-dir", "/h d"),
        *("--user", "me", "--no-sudo-user-config", "a"),
    ]
    assert commandline.of(Remedy(method="images"), chosen) == "pyctrd images"


def test_the_repair_hint_names_the_images_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, PyctrdError("damaged", hint="repair it", remedy=REPAIR))
    told = run("-n", "k8s.io", "save", "-o", "x.tar", "one", "$(two)").stderr
    assert told.splitlines()[-1] == "hint: repair it: pyctrd -n k8s.io verify --repair one '$(two)'"
    assert run("images").stderr.splitlines()[-1] == "hint: repair it: pyctrd verify --repair"


def test_a_hostile_name_is_quoted_in_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    remedy = Remedy(method="ensure", images=(NASTY,))
    with_outcome(monkeypatch, NotFound("x", kind="image", name=NASTY, hint="fetch it", remedy=remedy))
    told = run("ensure", "x").stderr.splitlines()[-1]
    assert told == f"hint: fetch it: pyctrd ensure {commandline.quote(NASTY)}"
    assert shlex.split(commandline.quote("zz/$(touch x)")) == ["zz/$(touch x)"]
