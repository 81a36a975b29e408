"""The packages of scripts/build: the same bytes each time, installed in each way without a compiler."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from integration.conftest import peer_required
from integration.rig import publish
from integration.rig.cache import cache_dir
from integration.rig.daemons import Containerd, Registry
from integration.rig.peers import NEWEST
from integration.rig.pythons import python
from integration.shell import REPOSITORY_ROOT
from pyctrd.version import __version__
from tests.support import shapes

INSTALLER_SECONDS = 250.0
OTHER_PYTHON = "3.13"
TOOLS = ("env", "sh", "dirname", "uname")
"""What the ways to install may run besides Python: no compiler, no git."""

KEPT = (
    "PIP_",
    "UV_",
    "SSL_CERT_",
    "REQUESTS_CA_BUNDLE",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTPS_PROXY",
)
"""The variables that say where packages come from."""


# The first build downloads what it needs.
pytestmark = pytest.mark.timeout(600)


class Packages(NamedTuple):
    """The files that scripts/build has made."""

    sdist: Path
    wheel: Path
    single: Path


def run(*command: str | Path, env: dict[str, str] | None = None, code: int = 0) -> str:
    """Run a command, which must exit with `code`; return what it prints."""
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=INSTALLER_SECONDS, check=False
    )
    assert done.returncode == code, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def built(folder: Path, *options: str) -> Packages:
    """Build the packages into a folder."""
    run(REPOSITORY_ROOT / "scripts/build", "--out", folder, *options)
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    (single,) = folder.glob("*.pex")
    return Packages(sdist, wheel, single)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    return built(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with a home of its own, and no programs but Python and TOOLS."""
    home = tmp_path_factory.mktemp("home")
    programs = home / "programs"
    programs.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found
        (programs / name).symlink_to(found)
    (programs / "python3").symlink_to(base_python())
    kept = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
    return {
        **kept,
        "HOME": str(home),
        "PATH": str(programs),
        "PIP_CACHE_DIR": run(sys.executable, "-m", "pip", "cache", "dir").strip(),
        "UV_CACHE_DIR": str(cache_dir() / "uv"),
    }


def base_python() -> Path:
    """The interpreter behind this virtual environment."""
    return Path(sysconfig.get_config_var("BINDIR")) / f"python{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture(scope="module")
def installers(bare: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with pipx and uv."""
    folder = tmp_path_factory.mktemp("installers")
    run(base_python(), "-m", "venv", folder, env=bare)
    run(folder / "bin/pip", "install", "-q", "pipx", "uv", env=bare)
    return folder / "bin"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """The packages of a second build, whose single file is for Debian's Python OTHER_PYTHON."""
    with peer_required():
        python(OTHER_PYTHON)
    return built(tmp_path_factory.mktemp("other"), "--python", OTHER_PYTHON)


def test_a_second_build_makes_the_same_bytes(packages: Packages, other: Packages) -> None:
    for name in ("sdist", "wheel"):
        one, two = getattr(packages, name), getattr(other, name)
        assert one.name == two.name
        assert hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(two.read_bytes()).digest(), name


def test_the_sdist_has_every_file_of_the_repository_and_no_other(packages: Packages) -> None:
    with tarfile.open(packages.sdist) as archive:
        top = f"pyctrd-{__version__}/"
        found = {entry.name.removeprefix(top) for entry in archive if entry.isfile()}
    listed = run("git", "-C", REPOSITORY_ROOT, "ls-files", "--cached", "--others", "--exclude-standard")
    assert found == {*listed.splitlines(), "PKG-INFO"}


def test_the_wheel_has_only_the_package_and_its_licence(packages: Packages) -> None:
    with zipfile.ZipFile(packages.wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(f"pyctrd-{__version__}.dist-info/METADATA").decode()
    data = f"pyctrd-{__version__}.data"
    assert {name.partition("/")[0] for name in names} == {"pyctrd", f"pyctrd-{__version__}.dist-info", data}
    manual = f"{data}/data/share/man/man1/pyctrd.1"
    assert [name for name in names if name.startswith(data)] == [manual]
    assert {"pyctrd/py.typed", f"pyctrd-{__version__}.dist-info/licenses/NOTICE"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]
    assert f"\nVersion: {__version__}\n" in metadata


def in_venv(package: Path, folder: Path, env: dict[str, str]) -> list[Path]:
    run(base_python(), "-m", "venv", folder, env=env)
    run(folder / "bin/pip", "install", "-q", package, env=env)
    return [folder / "bin/pyctrd"]


def by_pipx(installers: Path, package: Path, folder: Path, env: dict[str, str]) -> list[Path]:
    env |= {
        "PIPX_HOME": str(folder),
        "PIPX_BIN_DIR": str(folder / "bin"),
        "PIPX_MAN_DIR": str(folder / "man"),
    }
    run(installers / "pipx", "install", "-q", package, env=env)
    return [folder / "bin/pyctrd"]


def by_uv(installers: Path, package: Path, folder: Path, env: dict[str, str]) -> list[Path]:
    env |= {"UV_TOOL_DIR": str(folder / "tools"), "UV_TOOL_BIN_DIR": str(folder / "bin")}
    run(installers / "uv", "tool", "install", "-q", "--python", base_python(), package, env=env)
    return [folder / "bin/pyctrd"]


@pytest.fixture(
    params=["venv-wheel", "venv-sdist", "pipx", "uv", "single-file", f"single-file-{OTHER_PYTHON}"]
)
def installed(
    request: pytest.FixtureRequest, packages: Packages, bare: dict[str, str], tmp_path: Path
) -> list[Path]:
    """The start of a command line of pyctrd, installed in one of the ways."""
    folder, env = tmp_path / "installed", dict(bare)
    match request.param:
        case "venv-wheel":
            return in_venv(packages.wheel, folder, env)
        case "venv-sdist":
            return in_venv(packages.sdist, folder, env)
        case "pipx":
            return by_pipx(request.getfixturevalue("installers"), packages.wheel, folder, env)
        case "uv":
            return by_uv(request.getfixturevalue("installers"), packages.wheel, folder, env)
        case "single-file":
            return [packages.single]
        case _:
            return [python(OTHER_PYTHON), request.getfixturevalue("other").single]


@pytest.mark.parametrize("generation", [NEWEST], indirect=True)
def test_each_way_to_install_gives_a_command_that_completes_and_saves_an_image(
    installed: list[Path],
    bare: dict[str, str],
    isolated_containerd: Containerd,
    registry: Registry,
    repository: str,
    namespace: str,
    tmp_path: Path,
) -> None:
    daemon = isolated_containerd
    assert not [
        name for name in ("cc", "gcc", "g++", "make", "cargo") if shutil.which(name, path=bare["PATH"])
    ]
    name = publish.push(shapes.five_platform(), registry, repository)
    env = {**bare, "CONTAINERD_ADDRESS": str(daemon.address), "CONTAINERD_NAMESPACE": namespace}
    platforms = ("--platform", "linux/amd64,linux/arm64")

    def pyctrd(*arguments: str | Path, code: int = 0) -> str:
        return run(*installed, *arguments, env=env, code=code)

    assert pyctrd("--version") == f"pyctrd {__version__}\n"
    pyctrd("pull", "-q", "--platform", "linux/amd64", name)
    assert complete(pyctrd("diagnose", *platforms, "--format", "json", name, code=4)) == {"linux/amd64"}
    pyctrd("ensure", "-q", *platforms, name)
    assert complete(pyctrd("diagnose", *platforms, "--format", "json", name)) == {
        "linux/amd64",
        "linux/arm64",
    }
    archive = tmp_path / "image.tar"
    pyctrd("save", "-q", *platforms, "-o", archive, name)

    for number, platform in enumerate(("linux/amd64", "linux/arm64")):
        elsewhere = f"{namespace}-loaded-{number}"
        # ctr fails if the archive lacks a blob of the platform.
        daemon.ctr("images", "import", "--no-unpack", "--platform", platform, archive, namespace=elsewhere)


def complete(document: str) -> set[str]:
    """Return the complete platforms of a diagnosis."""
    return {row["platform"] for row in json.loads(document)["platforms"] if row["complete"]}
