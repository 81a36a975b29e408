"""Layers: which package may import which, and which modules are loaded at startup."""

from __future__ import annotations

import ast
import re
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final, NamedTuple

import pytest

import pyctrd
from pyctrd import registry
from tests.containerd.fake import FakeDaemon, serve
from tests.support.startup import costly, loaded, named

ROOT: Final = Path(pyctrd.__file__).parent

# Package -> the packages that its modules may import besides their own; "" is pyctrd/__init__.py. A module
# at the top level is a package of its own. CONTRIBUTING.md explains each one.
MAY_IMPORT: Final[Mapping[str, str]] = {
    "amounts": "",
    "redact": "",
    "version": "",
    "waiting": "",
    "protos": "",
    "errors": "redact",
    "arguments": "errors",
    "tracing": "errors redact version",
    "oci": "errors",
    "progress": "oci",
    "ports": "errors oci",
    "containerd": "errors oci ports protos redact tracing",
    "registry": "errors oci ports redact tracing version",
    "archive": "errors oci ports",
    "steps": "amounts arguments errors oci ports progress waiting",
    "operations": "amounts archive errors oci ports progress redact steps",
    "registries": "arguments errors oci operations ports progress registry steps tracing waiting",
    "archives": "archive arguments oci operations progress",
    "connection": "arguments containerd errors registries registry tracing waiting",
    "namespaces": "arguments containerd errors oci operations ports",
    "hostfacts": "containerd operations redact registry version",
    "images": "arguments archive connection containerd errors namespaces oci operations ports progress "
    "registries steps",
    "services": "archive arguments connection containerd errors images namespaces oci operations "
    "ports progress",
    "client": "arguments connection hostfacts images oci operations registry services tracing",
    "aio": "arguments client errors images oci operations ports progress registry services tracing",
    "": "aio archive archives client errors oci operations progress registries registry services steps "
    "version",
    "cli": "amounts archives client errors oci progress redact registries registry waiting",
    "pytest_plugin": "client errors oci",
    "__main__": "cli",
}

# Third-party packages that only some modules may import.
HOMES: Final[Mapping[str, tuple[str, ...]]] = {
    "grpc": ("pyctrd.containerd", "pyctrd.protos"),
    "google": ("pyctrd.containerd", "pyctrd.protos"),
    "backports": ("pyctrd.archive.compress", "pyctrd.archive.decompress"),
    "urllib3": tuple(f"pyctrd.registry.http.{name}" for name in ("connections", "response", "transport")),
    "click": ("pyctrd.cli",),
    "rich": ("pyctrd.cli",),
    "http": ("pyctrd.registry.http.limited_response",),
    "opentelemetry": ("pyctrd.tracing",),
    "requests": (),
    "httpx": (),
    "docker": (),
    "pytest": ("pyctrd.pytest_plugin",),
}


class Import(NamedTuple):
    """One import: who imports what, and whether for type checkers only."""

    module: str
    target: str
    typing_only: bool


def unit(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


@cache
def sources() -> dict[str, str]:
    """Read every module of the package but the generated ones, by its dotted name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        if parts[1] != "protos":
            found[".".join(parts).removesuffix(".__init__")] = path.read_text(encoding="utf-8")
    return found


def imports(module: str, source: str, modules: Mapping[str, str]) -> Iterator[Import]:
    """Find every import of a module, at any level; `from a import b` imports a.b if that is a module."""
    for base, name, typing_only in written(module, source):
        full = f"{base}.{name}" if name else base
        yield Import(module, full if full in modules or full == "pyctrd.protos" else base, typing_only)


@cache
def written(module: str, source: str) -> tuple[tuple[str, str, bool], ...]:
    """Read the imports of a module: its source, the imported names, and whether only for type checkers."""
    tree = ast.parse(source)
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for child in ast.walk(statement)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative import"
            assert node.module is not None
            found += [(node.module, alias.name, id(node) in typing_only) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "", id(node) in typing_only) for alias in node.names]
    return tuple(found)


def faults(modules: Mapping[str, str]) -> list[str]:
    """Compare all imports with the tables; return a line for each violation."""
    found = []
    for module, source in modules.items():
        if unit(module) not in MAY_IMPORT:
            found.append(f"{module} is not in the table")
            continue
        for item in imports(module, source, modules):
            reason = fault(item)
            if reason:
                found.append(f"{module} imports {item.target}: {reason}")
    return found


def fault(item: Import) -> str | None:
    """Return what is wrong with an import, or None."""
    top = item.target.partition(".")[0]
    if top != "pyctrd":
        homes = HOMES.get(top, (item.module,))
        at_home = any(item.module == home or item.module.startswith(f"{home}.") for home in homes)
        return None if at_home else f"{top} belongs to {', '.join(homes) or 'no module'}"
    own, other = unit(item.module), unit(item.target)
    allowed = own == other or other in MAY_IMPORT[own].split() or (own == "cli" and not other)
    return None if allowed else f"{own} must not import {other}"


def cycle(modules: Mapping[str, str]) -> list[str]:
    """Return the modules of an import cycle, one of them twice, or nothing."""
    graph = {
        module: {item.target for item in imports(module, source, modules) if item.target in modules}
        for module, source in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


# --- the package ------------------------------------------------------------------------------------------


def test_imports_are_those_that_the_tables_allow() -> None:
    assert faults(sources()) == []


def test_there_are_no_import_cycles() -> None:
    assert cycle(sources()) == []


def test_every_allowed_import_is_used() -> None:
    modules = sources()
    edges = {
        (unit(item.module), unit(item.target))
        for module, source in modules.items()
        for item in imports(module, source, modules)
        if item.target.startswith("pyctrd")
    }
    used = {
        own: {other for one, other in edges if one == own and other not in (own, "")} for own in MAY_IMPORT
    }
    assert used == {own: set(others.split()) for own, others in MAY_IMPORT.items()}


def test_imports_between_packages_have_no_cycle() -> None:
    TopologicalSorter({own: others.split() for own, others in MAY_IMPORT.items()}).prepare()


def test_the_table_in_contributing_is_up_to_date() -> None:
    text = (ROOT.parent / "CONTRIBUTING.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_]*)/?` \|.*\| ([^|]*) \|$", text, re.MULTILINE))
    assert {name: others.replace("`", "").split() for name, others in rows.items()} == {
        name: others.split() for name, others in MAY_IMPORT.items() if name not in ("", "__main__", "protos")
    }


def test_the_top_level_package_imports_nothing_at_run_time() -> None:
    modules = sources()
    own = [item for item in imports("pyctrd", modules["pyctrd"], modules) if item.target.startswith("pyctrd")]
    assert own
    assert all(item.typing_only for item in own)


def test_unit_tests_do_not_import_integration_or_benchmarks() -> None:
    """What tests, integration, benchmarks and the demo share is in tests/support."""
    found = [
        f"{path.name} imports {item.target}"
        for path in sorted((ROOT.parent / "tests").rglob("*.py"))
        for item in imports(path.stem, path.read_text(encoding="utf-8"), {})
        if item.target.partition(".")[0] in ("integration", "benchmarks")
    ]
    assert found == []


def test_modules_have_lazy_annotations_and_at_most_600_lines() -> None:
    for module, source in sources().items():
        code = ast.parse(source).body[1:]  # after the docstring
        assert not code or ast.unparse(code[0]) == "from __future__ import annotations", module
        assert source.count("\n") <= 600, module


# --- the checks themselves --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("pyctrd.oci.model", "from pyctrd.ports import Store", "oci must not import ports"),
        ("pyctrd.oci.model", "from pyctrd import redact", "oci must not import redact"),
        ("pyctrd.oci.model", "import pyctrd.registry.fetch", "oci must not import registry"),
        ("pyctrd.oci.model", "def late():\n    from pyctrd.client import Client", "must not import client"),
        (
            "pyctrd.oci.model",
            "if TYPE_CHECKING:\n    from pyctrd.ports import Store",
            "must not import ports",
        ),
        (
            "pyctrd.errors",
            "if TYPE_CHECKING:\n    from pyctrd.oci.model import Digest",
            "must not import oci",
        ),
        ("pyctrd.archive.tar", "from pyctrd.containerd import content", "archive must not import containerd"),
        ("pyctrd.steps.fetch", "from pyctrd.operations.pull import pull", "steps must not import operations"),
        ("pyctrd.operations.pull", "from pyctrd.containerd.content import ContentService", "must not import"),
        ("pyctrd.operations.diagnose.rows", "from pyctrd.registry import RegistryClient", "must not import"),
        ("pyctrd.client", "from pyctrd.protos import services", "client must not import protos"),
        ("pyctrd.cli.app", "from pyctrd.containerd.version import DaemonVersion", "cli must not import"),
        ("pyctrd.cli.app", "import grpc", "grpc belongs to"),
        ("pyctrd.cli.app", "from google.protobuf import message", "google belongs to"),
        ("pyctrd.registry.auth.tokens", "import urllib3.util", "urllib3 belongs to"),
        ("pyctrd.operations.save", "from rich.table import Table", "rich belongs to"),
        ("pyctrd.client", "import click", "click belongs to"),
        ("pyctrd.client", "from opentelemetry.trace import Tracer", "opentelemetry belongs to"),
        ("pyctrd.operations.save", "import http.client", "http belongs to"),
        ("pyctrd.surprise", "", "not in the table"),
    ],
)
def test_a_forbidden_import_is_detected(module: str, source: str, reason: str) -> None:
    found = faults(sources() | {module: source})
    assert len(found) == 1
    assert reason in found[0]


def test_a_cycle_within_a_package_is_detected() -> None:
    extra = {
        "pyctrd.archive.one": "from pyctrd.archive import two",
        "pyctrd.archive.two": "import pyctrd.archive.one",
    }
    assert set(cycle(sources() | extra)) == set(extra)


# --- modules that are loaded ------------------------------------------------------------------------------

HEAVY: Final = ("grpc", "google.protobuf", "urllib3", "pyctrd.protos", "pyctrd.client")


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
def test_commands_without_a_daemon_load_no_grpc_and_no_http(arguments: tuple[str, ...]) -> None:
    names = loaded(*arguments)
    assert "pyctrd" in names
    assert heavy(names) == []


def test_the_client_loads_grpc() -> None:
    """Otherwise the test above would prove nothing."""
    assert {"grpc", "pyctrd.client"} <= set(heavy(loaded("-c", "import pyctrd; pyctrd.Client")))


@pytest.fixture
def address() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="pyctrd-", dir="/tmp") as folder:
        path = Path(folder) / "c.sock"
        server = serve(path, FakeDaemon())
        yield str(path)
        server.stop(None).wait()


def test_a_list_loads_no_registry_client_no_archives_and_no_other_service(address: str) -> None:
    names = loaded("-a", address, "images", "-q")
    assert costly(names) == []
    services = {name for name in named(names, "pyctrd.protos.services.") if name.endswith("_pb2")}
    assert {name.rpartition(".")[2] for name in services} == {"version_pb2", "images_pb2"}
    assert named(names, "pyctrd.operations.") == {"pyctrd.operations.lookup"}


def test_the_version_loads_no_other_service_and_no_operation(address: str) -> None:
    names = loaded("-a", address, "version")
    assert costly(names) == []
    assert not named(
        names, "pyctrd.protos.services.images", "pyctrd.operations", "pyctrd.steps", "pyctrd.images"
    )


PULL: Final = """
import sys, pyctrd
with pyctrd.Client(sys.argv[3]) as client:
    try:
        client.images.pull("localhost:1/no:1")
    except pyctrd.RegistryError:
        pass
"""


def test_a_pull_loads_only_what_reads_from_a_registry(address: str) -> None:
    names = loaded("-c", PULL, address)
    assert "pyctrd.registry.resolve" in names
    unused = (
        "upload",
        "upload_session",
        "listing",
        "pagination",
        "config.explain",
        "auth.credential_helpers",
    )
    assert not named(names, *(f"pyctrd.registry.{name}" for name in unused))
    assert not {"html", "rich", "tenacity", "tomllib", "pyctrd.aio", "pyctrd.services"} & names


def test_the_names_of_a_package_that_are_imported_on_first_use_exist() -> None:
    for name in registry.__all__:
        assert getattr(registry, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        _ = registry.nothing  # type: ignore[attr-defined]
