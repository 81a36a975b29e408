"""docs/howto/from-subprocess.md: each program with ctr does the same as the one with pyctrd after it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from integration.guides import Machine
from integration.rig.containerd import Containerd
from integration.rig.daemons import Registry
from integration.rig.peers import NEWEST
from integration.test_guides import API, APP, HOST, pull, pull_incomplete
from integration.test_guides import own_registry as own_registry
from tests.support.pages import DOCS, blocks

PAGE: Final = "howto/from-subprocess.md"
PROGRAMS: Final = [block.text for block in blocks(PAGE)]
PAIRS: Final = list(zip(PROGRAMS[::2], PROGRAMS[1::2], strict=True))
TITLES: Final = re.findall("^## (.*)$", (DOCS / PAGE).read_text(encoding="utf-8"), re.MULTILINE)
CHANGING: Final = (
    "Pull, and know that all of it is there",
    "Import an archive",
    "Give an image another name",
    "Remove an image",
)
STABLE: Final = f"{HOST}/team/app:stable"

pytestmark = pytest.mark.parametrize("generation", [NEWEST], indirect=True)


def test_there_are_ten_pairs(generation: str) -> None:
    assert len(PAIRS) == len(TITLES) == 10
    assert set(CHANGING) < set(TITLES)
    for before, after in PAIRS:
        assert '"ctr"' in before
        assert "pyctrd" not in before
        assert "subprocess" not in after


def test_both_do_the_same(fresh_containerd: Containerd, own_registry: Registry, tmp_path: Path) -> None:
    machine = Machine(fresh_containerd, tmp_path, {HOST: own_registry.host})
    # The registry here has no TLS.
    plain = '[ "$2" = pull ] && shift 2 && set -- images pull --plain-http "$@"'
    machine.program("ctr", f'{plain}; exec {fresh_containerd.peer.ctr} "$@"')
    begin(machine)
    for title, pair in zip(TITLES, PAIRS, strict=True):
        results = []
        for number, program in enumerate(pair):
            if title in CHANGING:
                begin(machine)
            script = machine.write(f"program{number}.py", program)
            printed = machine.run(f"python3 {script.name}")
            results.append((printed, machine.run("ctr images ls -q")))
        assert results[0] == results[1], title
        assert results[0][0].strip(), title


def begin(machine: Machine) -> None:
    """Have a complete image under two names, an incomplete one, and an archive."""
    names = machine.run("ctr images ls -q").split()
    if names:
        machine.run(f"ctr images rm --sync {' '.join(names)}")
    pull(machine, APP, "default")
    pull_incomplete(machine, API, "default")
    machine.run(f"pyctrd tag {APP} {STABLE}")
    machine.run(f"pyctrd save -q -o app.tar {APP}")
