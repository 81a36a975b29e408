"""The layers of the package: who may import whom, read from the sources, and what a start really loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final, NamedTuple

import pytest

import pyctrd

ROOT: Final = Path(pyctrd.__file__).parent

# A module imports from lower levels only. The second segment of its name decides; "" is the package itself.
LEVELS: Final = {
    "errors": 0,
    "waiting": 0,
    "redact": 0,
    "amounts": 0,
    "oci": 1,
    "ports": 2,
    "protos": 2,
    "documents": 3,
    "registry": 3,
    "containerd": 3,
    "archive": 3,
    "transfer": 4,
    "downloads": 4,
    "convert": 4,
    "keeping": 4,
    "coverage": 4,
    "pull": 4,
    "unpack": 4,
    "unpacking": 4,
    "ensure": 4,
    "nerdctl": 4,
    "save": 4,
    "repair": 4,
    "verify": 4,
    "lookup": 4,
    "overview": 4,
    "hold": 4,
    "shipment": 4,
    "sending": 4,
    "push": 4,
    "copy": 4,
    "diagnose": 4,
    "wiring": 5,
    "client": 5,
    "copier": 5,
    "": 6,
    "cli": 7,
    "__main__": 8,
}

# Within a level only these: one step of the work that is made of another.
PEERS: Final = {
    ("errors", "redact"),
    ("convert", "transfer"),
    ("ensure", "coverage"),
    ("downloads", "transfer"),
    ("ensure", "downloads"),
    ("ensure", "keeping"),
    ("ensure", "transfer"),
    ("ensure", "unpack"),
    ("overview", "unpack"),
    ("pull", "convert"),
    ("pull", "coverage"),
    ("pull", "downloads"),
    ("pull", "keeping"),
    ("pull", "transfer"),
    ("pull", "unpacking"),
    ("unpacking", "unpack"),
    ("repair", "transfer"),
    ("verify", "repair"),
    ("verify", "transfer"),
    ("save", "coverage"),
    ("save", "ensure"),
    ("save", "hold"),
    ("sending", "shipment"),
    ("push", "coverage"),
    ("push", "ensure"),
    ("push", "hold"),
    ("push", "sending"),
    ("push", "shipment"),
    ("push", "transfer"),
    ("copy", "coverage"),
    ("copy", "sending"),
    ("copy", "shipment"),
    ("client", "wiring"),
    ("copier", "wiring"),
    ("save", "nerdctl"),
    ("save", "transfer"),
    ("diagnose", "ensure"),
    ("diagnose", "nerdctl"),
    ("diagnose", "save"),
}

# The pipeline sees containerd and registries only through the ports; the command line sees the client.
NEVER: Final = {
    **{unit: {"containerd", "registry", "protos"} for unit, level in LEVELS.items() if level == 4},
    "registry": {"protos"},
    "archive": {"protos"},
    "client": {"protos"},
    "copier": {"containerd", "protos"},
}
CLI_SEES: Final = {
    "pyctrd",
    "pyctrd.amounts",
    "pyctrd.client",
    "pyctrd.copier",
    "pyctrd.diagnose",  # the models that it prints
    "pyctrd.errors",
    "pyctrd.ports",
    "pyctrd.redact",
    "pyctrd.registry",  # RegistryOptions
    "pyctrd.waiting",
}

# Third parties with one home: where an import of them may stand.
HOMES: Final[Mapping[str, tuple[str, ...]]] = {
    "grpc": ("pyctrd.containerd", "pyctrd.protos"),
    "google": ("pyctrd.containerd", "pyctrd.protos"),
    "urllib3": tuple(f"pyctrd.registry.http.{name}" for name in ("connections", "response", "transport")),
    "click": ("pyctrd.cli",),
    "rich": ("pyctrd.cli",),
    "http": ("pyctrd.registry.http.limited_response",),
    "requests": (),
    "httpx": (),
    "docker": (),
}


# The one edge that may close a cycle: an error names the descriptors it is about, for type checkers only.
LATE: Final = {("pyctrd.errors", "pyctrd.oci.model")}


class Import(NamedTuple):
    """One import: who imports what, and whether for type checkers only."""

    module: str
    target: str
    typing_only: bool


def unit(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def sources() -> dict[str, str]:
    """Read every module of the package but the generated ones, by its dotted name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        if parts[1] != "protos":
            found[".".join(parts).removesuffix(".__init__")] = path.read_text(encoding="utf-8")
    return found


def imports(module: str, source: str, modules: Mapping[str, str]) -> Iterator[Import]:
    """Find every import of a module, wherever it stands; `from a import b` is of a.b where that is one."""
    tree = ast.parse(source)
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for child in ast.walk(statement)
    }
    for node in ast.walk(tree):
        targets: list[str] = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative import"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                targets.append(full if full in modules or full == "pyctrd.protos" else node.module)
        elif isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        for target in targets:
            yield Import(module, target, id(node) in typing_only)


def faults(modules: Mapping[str, str]) -> list[str]:
    """Hold all imports against the tables; gives a line for each that breaks them."""
    found = []
    for module, source in modules.items():
        if unit(module) not in LEVELS:
            found.append(f"{module} has no level: add it to the table")
            continue
        for item in imports(module, source, modules):
            reason = fault(item)
            if reason:
                found.append(f"{module} imports {item.target}: {reason}")
    return found


def fault(item: Import) -> str | None:
    """Say what is wrong with one import, None for a good one."""
    top = item.target.partition(".")[0]
    if top != "pyctrd":
        homes = HOMES.get(top, (item.module,))
        at_home = any(item.module == home or item.module.startswith(f"{home}.") for home in homes)
        return None if at_home else f"{top} belongs to {', '.join(homes) or 'nobody'}"
    own, other = unit(item.module), unit(item.target)
    if own == other or (own, other, item.typing_only) == ("errors", "oci", True):
        return None
    if other not in LEVELS:
        return "it has no level"
    if other in NEVER.get(own, ()):
        return f"{own} must not know {other}"
    if own == "cli" and item.target not in CLI_SEES and other != "oci":
        return "not for the command line"
    if LEVELS[other] > LEVELS[own]:
        return "upwards"
    if LEVELS[other] == LEVELS[own] and (own, other) not in PEERS:
        return "the same level"
    return None


def cycle(modules: Mapping[str, str]) -> list[str]:
    """Give the modules of an import cycle, one of them twice; empty where there is none."""
    graph = {
        module: {
            item.target
            for item in imports(module, source, modules)
            if item.target in modules and item[:2] not in LATE
        }
        for module, source in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


# --- the package ------------------------------------------------------------------------------------------


def test_imports_go_downwards_and_third_parties_stay_at_home() -> None:
    assert faults(sources()) == []


def test_there_is_no_cycle() -> None:
    assert cycle(sources()) == []


def test_the_tables_name_nothing_that_is_gone() -> None:
    modules = sources()
    edges = {item[:2] for module, source in modules.items() for item in imports(module, source, modules)}
    assert edges >= LATE
    assert {(unit(module), unit(target)) for module, target in edges} >= PEERS
    assert {unit(module) for module in modules} == set(LEVELS) - {"protos"}


def test_the_package_itself_imports_nothing_at_run_time() -> None:
    modules = sources()
    own = [item for item in imports("pyctrd", modules["pyctrd"], modules) if item.target.startswith("pyctrd")]
    assert own
    assert all(item.typing_only for item in own)


def test_modules_annotate_lazily_and_stay_short() -> None:
    for module, source in sources().items():
        code = ast.parse(source).body[1:]  # after the docstring
        assert not code or ast.unparse(code[0]) == "from __future__ import annotations", module
        assert source.count("\n") <= 600, module


# --- the checks themselves --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("pyctrd.oci.model", "from pyctrd.ports import Store", "upwards"),
        ("pyctrd.oci.model", "from pyctrd import save", "upwards"),
        ("pyctrd.oci.model", "import pyctrd.registry.fetch", "upwards"),
        ("pyctrd.oci.model", "def late():\n    from pyctrd.client import Client", "upwards"),
        ("pyctrd.oci.model", "if TYPE_CHECKING:\n    from pyctrd.ports import Store", "upwards"),
        ("pyctrd.errors", "from pyctrd.oci.model import Digest", "upwards"),
        (
            "pyctrd.errors",
            "if TYPE_CHECKING:\n    x = 1\nelse:\n    from pyctrd.oci.model import Digest",
            "upwards",
        ),
        ("pyctrd.archive.tar", "from pyctrd.containerd import content", "the same level"),
        ("pyctrd.lookup", "from pyctrd.pull import pull", "the same level"),
        ("pyctrd.pull", "from pyctrd.containerd.content import ContentService", "must not know containerd"),
        ("pyctrd.diagnose.rows", "from pyctrd.registry import RegistryClient", "must not know registry"),
        ("pyctrd.client", "from pyctrd.protos import services", "must not know protos"),
        ("pyctrd.cli.app", "from pyctrd.containerd.version import DaemonVersion", "not for the command line"),
        ("pyctrd.cli.app", "from pyctrd.pull import pull", "not for the command line"),
        ("pyctrd.cli.app", "import grpc", "grpc belongs to"),
        ("pyctrd.cli.app", "from google.protobuf import message", "google belongs to"),
        ("pyctrd.registry.auth.authorizer", "import urllib3.util", "urllib3 belongs to"),
        ("pyctrd.diagnose.rows", "from rich.table import Table", "rich belongs to"),
        ("pyctrd.client", "import click", "click belongs to"),
        ("pyctrd.save", "import http.client", "http belongs to pyctrd.registry.http.limited_response"),
        ("pyctrd.surprise", "", "has no level"),
    ],
)
def test_a_bad_import_is_seen(module: str, source: str, reason: str) -> None:
    found = faults(sources() | {module: source})
    assert len(found) == 1
    assert reason in found[0]


def test_a_cycle_within_a_package_is_seen() -> None:
    extra = {
        "pyctrd.archive.one": "from pyctrd.archive import two",
        "pyctrd.archive.two": "import pyctrd.archive.one",
    }
    assert set(cycle(sources() | extra)) == set(extra)


# --- what is really loaded --------------------------------------------------------------------------------

HEAVY: Final = ("grpc", "google.protobuf", "urllib3", "pyctrd.protos", "pyctrd.client")


# (`-X importtime` would not do: it does not see what importlib.import_module loads.)
RUN: Final = """
import atexit, os, runpy, sys
def report(code=0, end=os._exit):
    print("loaded:", *sys.modules, file=sys.stderr, flush=True)
    end(code)
atexit.register(report)
os._exit = report  # how the command line leaves
if sys.argv[1:2] == ["-c"]:
    exec(sys.argv[2])
else:
    sys.argv = ["pyctrd", *sys.argv[1:]]
    runpy.run_module("pyctrd", run_name="__main__", alter_sys=True)
"""


def loaded(*arguments: str) -> set[str]:
    """Run `-c CODE`, or the command line with arguments, and give the names of all modules then loaded."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stderr.rpartition("loaded: ")[2].split())


def heavy(names: set[str]) -> list[str]:
    return sorted(name for name in names if any(name == top or name.startswith(f"{top}.") for top in HEAVY))


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "import pyctrd"),
        ("-c", "import pyctrd; pyctrd.PyctrdError, pyctrd.Descriptor"),
        ("-c", "import pyctrd.oci.reference, pyctrd.oci.platforms, pyctrd.oci.graph"),
        ("--version",),
        ("--help",),
        ("save", "--help"),
    ],
    ids=" ".join,
)
def test_a_light_start_loads_no_grpc_and_no_http(arguments: tuple[str, ...]) -> None:
    names = loaded(*arguments)
    assert "pyctrd" in names
    assert heavy(names) == []


def test_the_client_does_load_grpc() -> None:
    """Else the test above would prove nothing."""
    assert {"grpc", "pyctrd.client"} <= set(heavy(loaded("-c", "import pyctrd; pyctrd.Client")))
