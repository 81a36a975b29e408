"""Options and usage errors; what --help and --version import."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest

import pyctrd
from pyctrd.cli.app import COMMANDS, app
from pyctrd.errors import NotFound
from tests.cli.stub import run, with_outcome

HEAVY = ("grpc", "urllib3", "rich", "google.protobuf")


def loaded_by(*arguments: str) -> tuple[str, set[str]]:
    """Run pyctrd in a new interpreter; return its stdout and the heavy modules that it has loaded."""
    script = (
        "import os, sys\n"
        "from pyctrd.cli import main\n"
        f"sys.argv = ['pyctrd', *{list(arguments)!r}]\n"
        "def end(code, leave=os._exit):\n"
        f"    print(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr, flush=True)\n"
        "    leave(code)\n"
        "os._exit = end\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    return done.stdout, set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("--help",),
        *[(name, "--help") for name in COMMANDS],
        ("pull", "--no-such-option"),
        ("save",),
        ("pull", "--platform", "a/b/c/d/e", "alpine"),
    ],
    ids=" ".join,
)
def test_commands_without_a_daemon_load_no_heavy_modules(arguments: tuple[str, ...]) -> None:
    assert loaded_by(*arguments)[1] == set()


def test_the_check_for_heavy_modules_finds_grpc() -> None:
    assert "grpc" in loaded_by("images", "-a", "/nonexistent/c.sock")[1]


def test_offline_commands_load_no_http_library() -> None:
    assert "urllib3" not in loaded_by("save", "--offline", "-a", "/nonexistent/c.sock", "x", "-o", "x.tar")[1]


def test_help_lists_every_command() -> None:
    text = run("--help").stdout
    assert all(f"\n  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_the_summary_of_each_command(name: str) -> None:
    command = app.get_command(click.Context(app), name)
    assert command is not None
    assert command.name == name
    assert (command.help or "").split("\n\n")[0] == COMMANDS[name]


@pytest.mark.parametrize(("arguments", "lists"), [([], "diagnose"), (["registry"], "referrers")])
def test_a_group_without_a_command_shows_its_help(arguments: list[str], lists: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == run(*arguments, "--help").stdout
    assert f"\n  {lists} " in result.stderr


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["imges"], "pyctrd images"),
        (["PULL", "alpine"], "pyctrd pull"),
        (["ls"], "pyctrd images"),
        (["export", "x.tar", "alpine"], "pyctrd save"),
        (["tags", "alpine"], "pyctrd registry tags"),
        (["registry", "tgas"], "pyctrd registry tags"),
    ],
)
def test_an_unknown_command_gets_a_suggestion(arguments: list[str], meant: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert f"Did you mean {meant}?" in result.stderr
    assert run(*meant.split()[1:], "--help").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["--format", "json", "images"], "pyctrd images ... --format"),
        (["-n", "x", "--format=json", "version"], "pyctrd version ... --format"),
        (["--progress", "plain", "alpine"], "pyctrd pull ... --progress"),
        (["registry", "--artifact-type", "x"], "pyctrd registry referrers ... --artifact-type"),
    ],
)
def test_an_option_before_its_command_gets_a_hint(arguments: list[str], place: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert f"belongs after the command: {place}\n" in result.stderr


def test_an_unknown_option_gets_no_suggestion() -> None:
    assert "No such option" in run("--no-such-option", "images").stderr


@pytest.mark.parametrize("output_format", ["text", "json"])
def test_version_without_a_daemon_shows_the_client_version(output_format: str) -> None:
    result = run("version", "-a", "/nonexistent/c.sock", "--format", output_format)
    assert result.exit_code == 6
    assert "/nonexistent/c.sock: no such file" in result.stderr
    if output_format == "json":
        assert json.loads(result.stdout) == {"pyctrd": pyctrd.__version__, "containerd": None}
    else:
        assert result.stdout == f"pyctrd: {pyctrd.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["pull", "--stall-timeout", "nan", "alpine"], "'nan' is not a number of seconds"),
        (["pull", "--connect-timeout", "-NaN", "alpine"], "'-NaN' is not a number of seconds"),
        (["pull", "--retry-budget", "inf", "alpine"], "inf is not in the range"),
        (["pull", "docker://alpine:3.20"], "leave out `docker://`: alpine:3.20"),
        (["copy", "alpine", "https://registry.example/app"], "leave out `https://`: registry.example/app"),
        (["registry", "tags", "http://registry.example/app"], "leave out `http://`: registry.example/app"),
        (["pull"], "Missing argument 'REF'"),
        (["pull", "--metadata", "some", "alpine"], "'some' is not one of 'all', 'selected'"),
        (["pull", "--label", "novalue", "alpine"], "is not KEY=VALUE"),
        (["pull", "--max-concurrent-downloads", "0", "alpine"], "0 is not in the range x>=1"),
        (["pull", "--platform", "linux/amd64/v1/x", "alpine"], "cannot parse platform specifier"),
        (["pull", "--password-stdin", "alpine"], "--password-stdin needs --user"),
        (["pull", "-u", "me:secret", "--password-stdin", "alpine"], "both --user and --password-stdin"),
        (["pull", "-u", "me", "alpine"], "no password"),
        (["save", "--offline", "--ensure", "all", "alpine"], "both --offline and --ensure all"),
        (["save", "--format", "json", "alpine"], "stdout is the archive"),
        (
            ["save", "--referrers", "--format", "docker", "-o", "/nonexistent/x.tar", "alpine"],
            "has no place for referrers",
        ),
        (["push"], "Missing argument 'REF'"),
        (["push", "alpine", "al pine"], "invalid reference format"),
        (["push", "--index", "keep", "alpine"], "'keep' is not one of 'prune', 'flatten'"),
        (["push", "--chunk-size", "-1", "alpine"], "-1 is not in the range x>=0"),
        (["copy", "alpine"], "Missing argument 'DST'"),
        (["copy", "al pine", "alpine"], "invalid reference format"),
        (["copy", "--src-user", "me", "alpine", "registry.example/alpine"], "no password"),
        (["completion", "tcsh"], "'tcsh' is not one of"),
    ],
)
def test_usage_errors(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("pyctrd: ")
    assert result.stdout == ""


def test_a_usage_error_names_the_commands_help() -> None:
    assert "hint: see `pyctrd pull --help`" in run("pull").stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["-a", "/x.sock", "-n", "k8s.io", "images"],
        ["images", "-a", "/x.sock", "-n", "k8s.io"],
        ["-a", "/y.sock", "-n", "k8s.io", "images", "--address", "/x.sock"],
    ],
)
def test_global_options_are_accepted_before_and_after_the_command(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    client = with_outcome(monkeypatch, ())
    assert run(*arguments).exit_code == 0
    client.assert_called_once_with("/x.sock", "k8s.io", snapshotter=None, registry=None)


def test_registry_options_reach_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    client = with_outcome(monkeypatch, NotFound("x", kind="image", name="x"))
    run("ensure", "-u", "me", "--password-stdin", "--plain-http", "-k", "alpine", stdin="secret\n")
    options = client.call_args.kwargs["registry"]
    assert (options.username, options.password) == ("me", "secret")
    assert (options.plain_http, options.skip_verify, options.hosts_dir) == (True, True, None)


@pytest.mark.parametrize(("shell", "word"), [("bash", "complete"), ("zsh", "#compdef"), ("fish", "complete")])
def test_completion_scripts(shell: str, word: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert word in result.stdout
    assert "_PYCTRD_COMPLETE" in result.stdout


@pytest.mark.parametrize(("line", "completed"), [("pyctrd im", ["plain,images"]), ("pyctrd diagnose al", [])])
def test_completion_survives_a_missing_daemon(line: str, completed: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from pyctrd.cli import main; main()"],
        env={
            "_PYCTRD_COMPLETE": "bash_complete",
            "COMP_LINE": line,
            "COMP_COMMAND": "pyctrd",
            "CONTAINERD_ADDRESS": "/nonexistent/c.sock",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.split() == completed


def test_a_malformed_reference_is_a_usage_error_before_any_connection() -> None:
    result = run("-a", "/nonexistent/c.sock", "pull", "UPPER")
    assert result.exit_code == 2
    assert "invalid reference format" in result.stderr
