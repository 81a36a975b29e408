"""scripts/release: what it refuses, and what a dry run makes; the workflows run scripts that exist."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from integration.shell import REPOSITORY_ROOT
from pyctrd.version import __version__

# The first build downloads what it needs.
pytestmark = pytest.mark.timeout(600)

WORKFLOWS: Final = REPOSITORY_ROOT / ".github" / "workflows"


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    return subprocess.run(
        ["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the files of this one, and a changelog for the version."""
    folder = tmp_path_factory.mktemp("clone")
    files = git(REPOSITORY_ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = folder.parent / "files"
    listed.write_text("".join(f"{name}\0" for name in files.split("\0") if (REPOSITORY_ROOT / name).exists()))
    copied = f'tar -C "{REPOSITORY_ROOT}" --null -T "{listed}" -c | tar -x -C "{folder}"'
    subprocess.run(["bash", "-o", "pipefail", "-c", copied], check=True)
    git(folder, "init", "-q")
    for name in (".venv", ".venv-build"):
        (folder / name).symlink_to(REPOSITORY_ROOT / name)
    with (folder / ".git/info/exclude").open("a") as exclude:
        exclude.write(".venv\n.venv-build\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "all")
    return folder


def release(folder: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        ["scripts/release", *words], cwd=folder, capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode == code, done.stderr
    return done.stderr


def test_a_release(clone: Path) -> None:
    page = clone / "CHANGELOG.md"
    assert "has no section for this version" in release(clone, "--dry-run", code=1)
    page.write_text(page.read_text().replace("## [Unreleased]", f"## [{__version__}] - 2026-11-28"))
    assert "not committed" in release(clone, "--dry-run", code=1)
    git(clone, "commit", "-q", "-a", "-m", "release")
    git(clone, "tag", f"v{__version__}")
    assert f"the tag v{__version__} exists" in release(clone, "--dry-run", code=1)
    git(clone, "tag", "-d", f"v{__version__}")
    assert "usage" in release(clone, "--wet-run", code=2)

    release(clone, "--dry-run")
    dist = clone / "dist"
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=dist, check=True)
    sums = {line.split()[1] for line in (dist / "SHA256SUMS").read_text().splitlines()}
    assert sums == {path.name for path in dist.iterdir()} - {"SHA256SUMS"}
    (single,) = (name for name in sums if name.endswith(".pex"))
    kinds = (".tar.gz", "-py3-none-any.whl", ".cdx.json", ".provenance.txt")
    assert sums == {single, *(f"pyctrd-{__version__}{kind}" for kind in kinds)}
    bill: dict[str, Any] = json.loads((dist / f"pyctrd-{__version__}.cdx.json").read_text())
    listed = {re.sub("[._]", "-", item["name"]).lower(): item["version"] for item in bill["components"]}
    project = tomllib.loads((clone / "pyproject.toml").read_text())["project"]
    needed = {re.match(r"[a-z0-9-]+", text)[0] for text in project["dependencies"]}  # type: ignore[index]
    assert needed <= listed.keys()
    assert not {"pytest", "pip", "hatchling"} & listed.keys()
    assert git(clone, "rev-parse", "HEAD").strip() in (
        dist / f"pyctrd-{__version__}.provenance.txt"
    ).read_text(encoding="utf-8")
    assert git(clone, "tag") == ""
    assert git(clone, "status", "--porcelain") == ""


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_a_workflow_only_runs_our_scripts_and_pinned_actions(name: str) -> None:
    workflow = yaml.safe_load((WORKFLOWS / name).read_text())
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step["uses"])
            else:
                program = step["run"].removeprefix("sudo ").split()[0]
                assert (REPOSITORY_ROOT / program).is_file() or program == ".venv-build/bin/uv"
