"""verify and inspect of archives on the command line, in this process and without a containerd."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

import pyctrd
from pyctrd.cli import archives
from pyctrd.cli.archives import is_archive
from pyctrd.cli.commands import inspect
from pyctrd.cli.terminal import TerminalPage
from pyctrd.errors import ImageNotFound
from pyctrd.oci.model import Digest, Platform
from pyctrd.operations.verify import Finding, VerifyResult
from tests.cli.stub import Result, run, with_outcome
from tests.operations.test_archives import blob, delta, inventory, layers
from tests.support import shapes
from tests.support.images import Graph
from tests.support.loading import NAME, archive_of, docker_archive, entry, layout
from tests.support.tars import tar_of

QUIET = ("--progress", "none")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; there is no containerd to connect to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONTAINERD_ADDRESS", "/nonexistent/c.sock")
    return tmp_path


def write(name: str, data: bytes) -> str:
    Path(name).write_bytes(data)
    return name


def damaged(graph: Graph) -> bytes:
    """An archive with a wrong first layer, and without the second one."""
    files = layout(entry(graph, NAME), blobs=graph.blobs, without={layers(graph)[1]})
    wrong = blob(layers(graph)[0])
    return tar_of({**files, wrong: bytes(len(files[wrong]))})


def as_json(result: Result) -> Any:
    return json.loads(result.stdout)


# --- which arguments are archives -------------------------------------------------------------------------


def test_what_is_an_archive() -> None:
    write("image.tar", b"")
    Path("layout").mkdir()
    write("layout/oci-layout", b"")
    Path("other").mkdir()
    os.mkfifo("pipe")
    write("file", b"")
    given = (
        "-",
        "file",
        "layout",
        "layout/",
        "pipe",
        "/absent",
        "./absent",
        "../absent",
        "absent.tar",
        "a.TAR.gz",
    )
    assert [name for name in given if not is_archive(name)] == []
    for name in ("alpine", "absent.tar:1", "other", "registry.example/app:1", "a" * 5000, "a\0b", ""):
        assert not is_archive(name)


def test_other_arguments_of_verify_are_references(monkeypatch: pytest.MonkeyPatch) -> None:
    client = with_outcome(monkeypatch, ImageNotFound("image: not found", kind="image", name="absent"))
    assert run("verify", "absent", *QUIET).exit_code == 3
    assert client.return_value.images.verify.call_args.args == (("absent",),)


def test_an_archive_that_is_not_there() -> None:
    result = run("verify", "absent.tar", *QUIET)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "cannot read absent.tar: No such file or directory" in result.stderr


def test_an_archive_to_inspect_that_is_not_there() -> None:
    result = run("inspect", "./absent.tar")
    assert (result.exit_code, "cannot read ./absent.tar: No such file" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "a.tar", "alpine"], "cannot verify archives and images in one run: a.tar is an archive"),
        (["verify", "--repair", "a.tar"], "--repair replaces content in containerd, not in an archive"),
        (["verify", "--have", "i.json", "alpine"], "--have is for archives only"),
        (["verify", "--have", "i.json"], "--have is for archives only"),
        (["verify", "--have", "-", "-"], "stdin can only be read once"),
        (["verify", "--have", "-", "a.tar", "./a.tar"], "stdin can only be read once"),
        (["verify", "--platform", "local", "a.tar"], "`local` cannot be used here"),
        (["verify", "--platform", "linux/amd64", "--all-platforms", "a.tar"], "cannot specify both"),
        (["verify", "--have", "absent.json", "a.tar"], "cannot read the inventory absent.json"),
        (["verify", "--have", "a.tar", "a.tar"], "a.tar is not an inventory"),
        (["inspect"], "Missing argument"),
        (["inspect", "--platform", "linux/amd64", "a.tar"], "--platform is for images, and a.tar is an"),
        (["inspect", "a.tar", "a.tar"], "unexpected extra argument"),
    ],
)
def test_wrong_use(arguments: list[str], message: str) -> None:
    write("a.tar", archive_of(shapes.single()))
    result = run(*arguments)
    assert result.exit_code == 2, result.stderr
    assert message in result.stderr
    assert result.stdout == ""


# --- verify -----------------------------------------------------------------------------------------------


def test_verify_of_a_complete_archive() -> None:
    graph = shapes.five_platform()
    write("a.tar", archive_of(graph))
    result = run("verify", "a.tar", *QUIET)
    assert result.exit_code == 0
    assert result.stdout.startswith("16 blobs, ")
    assert " hashed: no problems found\n" in result.stdout
    assert NAME in result.stdout
    assert result.stdout.count(" complete ") == 5
    assert run("verify", "-q", "a.tar") == (0, "", "")
    found = as_json(run("verify", "a.tar", "--format", "json", *QUIET))
    assert (found["blobs"], found["findings"], found["presumed"]) == (16, [], [])
    assert found["platforms"][0] == "linux/amd64"
    (image,) = found["images"]
    assert (image["archive"], image["name"], image["complete"]) == ("a.tar", NAME, True)
    assert image["target"]["digest"] == graph.digest
    assert image["platforms"] == found["platforms"] == [item["platform"] for item in image["manifests"]]


def test_verify_of_a_damaged_archive() -> None:
    graph = shapes.single()
    write("a.tar", damaged(graph))
    for arguments in (["a.tar"], ["-q", "a.tar"], ["--platform", "linux/amd64", "a.tar"]):
        result = run("verify", *arguments, *QUIET)
        assert result.exit_code == 4
        assert "hashed: 2 problems found\n" in result.stdout
        assert f"{layers(graph)[1]}: not in the archive\n" in result.stdout
        assert "REPAIRED" not in result.stdout
    found = as_json(run("verify", "a.tar", "--format", "json", *QUIET))
    assert {item["digest"]: item["fault"] for item in found["findings"]} == {
        layers(graph)[0]: "corrupt",
        layers(graph)[1]: "missing",
    }
    assert {item["archive"] for item in found["findings"]} == {"a.tar"}
    assert (found["platforms"], found["images"][0]["complete"]) == ([], False)


def test_a_platform_that_is_not_there() -> None:
    write("a.tar", archive_of(shapes.single("linux/arm64")))
    assert run("verify", "a.tar", *QUIET).exit_code == 0
    result = run("verify", "--platform", "linux/amd64", "a.tar", *QUIET)
    assert result.exit_code == 4
    assert "it is not for linux/amd64: it has linux/arm64" in result.stdout


def test_a_container_that_is_damaged_exits_with_1() -> None:
    write("a.tar", archive_of(shapes.big(100_000))[:50_000])
    write("text.tar", b"not a tar" * 100)
    for command in ("verify", "inspect"):
        result = run(command, "a.tar")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "unexpected EOF: the archive ends after" in result.stderr
        result = run(command, "text.tar")
        assert (result.exit_code, "neither a tar nor a compressed tar" in result.stderr) == (1, True)


def test_several_archives() -> None:
    one, other = shapes.single(), shapes.multi(["linux/amd64", "linux/arm64"], salt="other")
    write("a.tar", archive_of(one))
    write("b.tar", archive_of(other, "registry.example/other:1"))
    write("c.tar", damaged(shapes.single(salt="third")))
    found = as_json(run("verify", "a.tar", "b.tar", "--format", "json", *QUIET))
    assert found["blobs"] == len(one.blobs) + len(other.blobs)
    assert found["platforms"] == ["linux/amd64"]
    assert [image["archive"] for image in found["images"]] == ["a.tar", "b.tar"]
    result = run("verify", "a.tar", "c.tar", *QUIET)
    assert result.exit_code == 4
    assert "\na.tar\n4 blobs" in result.stdout
    assert "\nc.tar\n3 blobs" in result.stdout


def test_a_delta_archive_and_an_inventory() -> None:
    graph = shapes.single()
    first = graph.document()["layers"][0]
    write("delta.tar", delta(graph))
    write("has.json", inventory(first["digest"]).to_json())
    write("empty.json", inventory().to_json())
    result = run("verify", "delta.tar", *QUIET)
    assert result.exit_code == 0
    assert f"left out: 1 blob, {first['size']} B" in result.stdout
    assert "\nLeft out\n1 blob" in result.stdout
    found = as_json(run("verify", "delta.tar", "--format", "json", *QUIET))
    assert found["presumed"] == [{"digest": first["digest"], "size": first["size"]}]
    assert (found["platforms"], found["images"][0]["manifests"][0]["state"]) == ([], "presumed")
    found = as_json(run("verify", "--have", "has.json", "delta.tar", "--format", "json", *QUIET))
    assert (found["platforms"], found["findings"]) == (["linux/amd64"], [])
    result = run("verify", "--have", "empty.json", "delta.tar", *QUIET)
    assert result.exit_code == 4
    assert "but the inventory lacks it" in result.stdout


# --- inspect ----------------------------------------------------------------------------------------------


def test_inspect_of_each_layout() -> None:
    graph = shapes.mixed()
    write("a.tar", archive_of(graph))
    result = run("inspect", "a.tar")
    assert result.exit_code == 0
    assert "layout: OCI layout, tar, not compressed\n" in result.stdout
    assert f"digest: {graph.digest}\n" in result.stdout
    assert "attestations: 1\n" in result.stdout
    found = as_json(run("inspect", "a.tar", "--format", "json"))
    assert (found["archive"], found["layout"], found["folder"], found["compression"]) == (
        *("a.tar", "oci", False, "none"),
    )
    assert found["bytes"] == sum(item["size"] for item in found["blobs"])
    assert found["images"][0]["attestations"] == 1
    write("d.tar", docker_archive(shapes.recompressed(""), "app:v1"))
    found = as_json(run("inspect", "d.tar", "--format", "json"))
    assert (found["layout"], found["images"][0]["name"]) == ("docker", "docker.io/library/app:v1")
    assert found["images"][0]["platforms"] == ["linux/amd64"]


def test_inspect_of_a_pipe_and_without_grpc() -> None:
    """In another process: stdin is a file descriptor."""
    program = (
        "import sys\nfrom pyctrd.cli.app import app\ntry:\n    app.main()\n"
        "finally:\n    assert not {'grpc', 'urllib3'} & set(sys.modules)"
    )
    data = archive_of(shapes.single())
    for command in ("verify", "inspect"):
        done = subprocess.run(
            [sys.executable, "-c", program, command, "-", "--format", "json"],
            input=data,
            env={**os.environ, "PYTHONPATH": str(Path(pyctrd.__file__).parent.parent)},
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert json.loads(done.stdout)["images"][0]["complete"]


def test_verify_of_a_silent_pipe_can_be_interrupted() -> None:
    data = archive_of(shapes.big(4 << 20, layers=2))
    with subprocess.Popen(
        [sys.executable, "-m", "pyctrd", "verify", "-", "--progress", "json"],
        env={**os.environ, "PYTHONPATH": str(Path(pyctrd.__file__).parent.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin
        assert process.stderr
        process.stdin.write(data[: 3 << 20])
        process.stdin.flush()
        assert json.loads(process.stderr.readline())["action"] == "verifying"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read().endswith(b"pyctrd: interrupted\n")


def test_it_fits_a_terminal_of_80_columns() -> None:
    graph = shapes.five_platform()
    write("a.tar", archive_of(graph, "registry.example/a-team/an-application:1.2.3"))
    write("d.tar", delta(shapes.single()))
    output = io.StringIO()
    page = TerminalPage(Console(file=output, width=80, force_terminal=True, color_system=None))
    for name in ("a.tar", "d.tar"):
        inspect.print_info(page, pyctrd.inspect_archive(name))
        for image in pyctrd.verify_archive(name).images:
            archives.print_image(page, image)
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    row = next(line for line in lines if line.startswith("linux/arm/v7"))
    assert "complete" in row
    assert any(line.rstrip().endswith(graph.digest) for line in lines)


def test_missing_content_is_summed_up_by_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    amd64, arm64 = Platform(os="linux", architecture="amd64"), Platform(os="linux", architecture="arm64")
    findings = [
        Finding(
            digest=Digest.of(bytes([number])),
            fault="missing",
            detail=f"content digest {Digest.of(bytes([number]))}: not found",
            size=1 << 20,
            images=("registry.example/app:1",),
            platform=amd64 if number < 3 else arm64,
        )
        for number in range(5)
    ]
    with_outcome(monkeypatch, VerifyResult(blobs=1, bytes_hashed=9, findings=tuple(findings)))
    result = run("verify", "registry.example/app:1")
    assert result.exit_code == 4
    assert result.stdout.splitlines()[:5] == [
        "1 blob, 9 B hashed: 5 problems found",
        "missing: linux/amd64: 3 blobs, 3.0 MiB of registry.example/app:1",
        f"content digest {findings[0].digest}: not found (and 2 more blobs)",
        "missing: linux/arm64: 2 blobs, 2.0 MiB of registry.example/app:1",
        f"content digest {findings[3].digest}: not found (and 1 more blob)",
    ]
    fixed = tuple(msgspec.structs.replace(item, repaired=True) for item in findings)
    with_outcome(monkeypatch, VerifyResult(blobs=1, bytes_hashed=9, findings=fixed))
    lines = run("verify", "--repair", "registry.example/app:1").stdout.splitlines()
    assert lines[1] == "missing: linux/amd64: 3 blobs, 3.0 MiB of registry.example/app:1 (all repaired)"
