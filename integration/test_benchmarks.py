"""scripts/bench works; its times are of no interest here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import msgspec
import pytest

from benchmarks import __main__ as bench
from benchmarks import line, results, tables
from benchmarks.cases import CALLS_ONLY, CASES, OURS
from benchmarks.limits import LIMITS, checks
from benchmarks.measuring import Run, run
from benchmarks.results import Report, Result
from integration.conftest import peer_required
from integration.rig import peers

ROOT = Path(__file__).parent.parent
NAMES = ("fetch/large", "pull/small", "save/150", "start/list")


def test_a_quick_run(tmp_path: Path) -> None:
    with peer_required():
        peers.containerd(peers.NEWEST)
        peers.tool("docker-registry")
    (tmp_path / "tmp").mkdir()
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--cases", ",".join(NAMES), "--json", str(file)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = results.read(file)
    assert [one.case for one in report.results] == list(NAMES)
    for result in report.results:
        assert next(iter(result.runs)) == OURS
        assert len(result.runs) > 1
        for runs in result.runs.values():
            assert all(run.seconds > 0 and run.cpu >= 0 and run.peak > 1 for run in runs)
        assert f"| `{result.case}`: {result.title} |" in done.stdout
    assert "4 × 4 MiB" in done.stdout
    assert list((tmp_path / "tmp").iterdir()) == []


def _report(seconds: float, peak: float = 50.0, *, calls_only: float = 0.1) -> Report:
    ours = [Run(seconds=seconds + extra, cpu=0.1, peak=peak) for extra in (0.1, 0.0, -0.1)]
    peer = [Run(seconds=4.0, cpu=1.0, peak=200.0)]
    calls = [Run(seconds=calls_only, cpu=0.1, peak=40.0)]
    runs = {OURS: ours, "ctr images export": peer, CALLS_ONLY: calls}
    result = Result("save/large", "save it", "2.4", runs)
    return Report(
        date="2026-11-27",
        machine="a machine",
        python="3.11",
        scale=1,
        versions={"2.4": "2.4.2"},
        minutes=1,
        results=[result],
    )


@pytest.mark.parametrize(
    ("report", "held", "code"),
    [
        (_report(0.8), 2, 0),
        (_report(1.0), 1, 1),
        (_report(0.8, peak=81.0), 1, 1),
        (_report(1.0, calls_only=0.9), 1, 1),
    ],
    ids=["within", "too slow", "too large", "minimal program too slow"],
)
def test_a_limit_that_is_exceeded_fails(
    report: Report, held: int, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    results.write(report, file)
    assert results.read(file) == report
    assert sum(check.holds for check in checks(report)) == held
    assert bench.main(["--from", str(file)]) == code
    shown = capsys.readouterr().out
    assert f"{held} of 2 limits hold" in shown
    assert ("**no**" in shown) == bool(code)
    assert shown.partition("\n\n")[2] in tables.page(report)


def test_a_limit_that_a_minimal_program_exceeds_is_marked() -> None:
    assert "(grpc, calls only: 0.23)" in "\n".join(tables.sections(_report(1.0, calls_only=0.9)))
    assert "(grpc, calls only" not in "\n".join(tables.sections(_report(1.0, calls_only=0.8)))


def test_a_pattern_that_matches_no_case_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(["--cases", "nothing/*"])
    assert ended.value.code == 2
    assert "no case matches 'nothing/*'; --list prints them" in capsys.readouterr().err


def test_a_case_that_failed_is_shown_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = _report(0.8)
    failed = Result("load/large", "load it", "2.4", {})
    file = tmp_path / "figures.json"
    results.write(msgspec.structs.replace(report, results=[*report.results, failed]), file)
    assert bench.main(["--from", str(file)]) == 1
    assert "| `load/large`: load it | failed |" in capsys.readouterr().out


def test_the_page_is_that_of_its_data() -> None:
    """If the tables were changed: scripts/bench --write-docs --from docs/benchmarks.json."""
    assert bench.PAGE.read_text() == tables.page(results.read(bench.DATA))


class _This:
    """This process as if it were a daemon."""

    pid = os.getpid()


def test_figures_are_those_of_the_command(tmp_path: Path) -> None:
    busy = "import os, time\nwhile sum(os.times()[:2]) < 0.3: pass"
    large = "held = bytearray(b'x') * (100 << 20)"
    piped = "import os, sys; os.write(1, bytes(1 << 20)); assert os.fstat(1).st_mode & 0o170000 == 0o010000"
    measured = {
        name: run(
            [sys.executable, "-Sc", code], env={}, folder=tmp_path, daemon=_This(), piped=name == "piped"
        )
        for name, code in {"busy": busy, "large": large, "piped": piped}.items()
    }
    assert measured["busy"].cpu >= 0.3
    assert measured["busy"].seconds >= 0.3
    assert measured["busy"].peak < 50 < 100 < measured["large"].peak
    assert all(one.daemon_peak > 10 for one in measured.values())
    with pytest.raises(RuntimeError, match="exit code 3: no luck"):
        run(
            [sys.executable, "-c", "import sys; sys.stderr.write('no luck'); sys.exit(3)"],
            env={},
            folder=tmp_path,
            daemon=_This(),
        )


def test_a_line_delays_and_changes_nothing() -> None:
    sent = os.urandom(3 << 20)

    def serve(listener: socket.socket) -> None:
        with listener.accept()[0] as server:
            assert server.recv(1) == b"?"
            server.sendall(sent)

    began = time.monotonic()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        ThreadPoolExecutor(1) as pool,
        line.running(listener.getsockname()[1], 0.05) as port,
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        serving = pool.submit(serve, listener)
        client.sendall(b"?")
        first = client.recv(1)
        assert time.monotonic() - began >= 0.1  # the handshake, and the request
        assert first + b"".join(iter(partial(client.recv, 1 << 16), b"")) == sent
        serving.result()


def test_every_case_has_a_limit_and_every_limit_a_case() -> None:
    specific = [limit for limit in LIMITS if limit.case != "*"]
    for limit in specific:
        assert any(fnmatchcase(case.name, limit.case) for case in CASES), limit
    without = {case.name for case in CASES if not any(fnmatchcase(case.name, one.case) for one in specific)}
    assert without == {"archive/programs"}  # nothing else goes through a containerd
