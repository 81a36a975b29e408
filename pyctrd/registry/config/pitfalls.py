"""Find what is wrong with the directories that configure registries, without asking any registry.

Sources: containerd docs/hosts.md, core/remotes/docker/config/hosts.go and config_unix.go.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from pyctrd.errors import InvalidInput
from pyctrd.registry.config.certs_d import read_file
from pyctrd.registry.config.hosts_toml import HostsFile, HostTable, parse

# A host, host:port, or host_port_ (config_unix.go hostPaths).
_FOLDER: Final = re.compile(
    r"_default|(?:[0-9a-z](?:[0-9a-z.-]*[0-9a-z])?|\[[0-9a-f:]+\])(?::\d{1,5}|_\d{1,5}_)?"
)
_NEAR_PORT: Final = re.compile(r"(.+)_(\d{1,5})")
# Other names of Docker Hub, which a reference never has.
_DOCKER_HUB: Final = frozenset({"registry-1.docker.io", "index.docker.io", "hub.docker.com", "docker.com"})
_CERTIFICATES: Final = (".crt", ".cert", ".key")


class HostsPitfall(NamedTuple):
    """Something wrong: a stable code, whether pulls may fail by it, where, what, and what helps."""

    code: str
    is_error: bool
    where: str
    text: str
    advice: str


def pitfalls(roots: Sequence[Path], *, must_exist: bool) -> Iterator[HostsPitfall]:
    """Find what is wrong in root directories; with `must_exist`, also that one does not exist."""
    for root in roots:
        try:
            names = sorted(os.listdir(root))  # noqa: PTH208 - the names are what is wanted
        except FileNotFoundError:
            if must_exist:
                yield HostsPitfall(
                    "hosts-dir-absent",
                    True,
                    str(root),
                    "there is no such directory, so no registry is configured",
                    "create it, or name the right one",
                )
            continue
        except OSError as error:
            yield _unreadable(root, error)
            continue
        for name in names:
            yield from _entry(root, name)


def _entry(root: Path, name: str) -> Iterator[HostsPitfall]:
    path = root / name
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        yield _unreadable(path, error)
        return
    if not is_folder:
        if name.endswith((".toml", *_CERTIFICATES)):
            yield HostsPitfall(
                "hosts-folder-name",
                False,
                str(path),
                f"{name} is not in a folder for a registry, so it has no effect",
                f"move it to {root}/HOST/{name}, or to {root}/_default/{name} for all registries",
            )
        return
    wrong = _folder_name(root, name)
    if wrong:
        yield wrong
    yield from _folder(path)


def _folder_name(root: Path, name: str) -> HostsPitfall | None:
    where = str(root / name)
    if name in _DOCKER_HUB:
        return HostsPitfall(
            "hosts-folder-name",
            False,
            where,
            f"{name} is no name that an image begins with, so the folder has no effect",
            f"rename it to {root}/docker.io",
        )
    if near := _NEAR_PORT.fullmatch(name):
        return HostsPitfall(
            "hosts-folder-name",
            False,
            where,
            f"{name} is neither a host nor a host with a port, so the folder has no effect",
            f"rename it to {root}/{near[1]}_{near[2]}_ or {root}/{near[1]}:{near[2]}",
        )
    if _FOLDER.fullmatch(name):
        return None
    meant = name.lower()
    hint = f"rename it to {root}/{meant}" if _FOLDER.fullmatch(meant) else "rename it to HOST or HOST_PORT_"
    return HostsPitfall(
        "hosts-folder-name",
        False,
        where,
        f"{name} is not the name of a registry as images have it, so the folder has no effect",
        hint,
    )


def _folder(path: Path) -> Iterator[HostsPitfall]:
    try:
        names = sorted(os.listdir(path))  # noqa: PTH208 - the names are what is wanted
        text = read_file(path / "hosts.toml") if "hosts.toml" in names else ""
    except OSError as error:
        yield _unreadable(path, error)
        return
    except InvalidInput as error:
        yield _invalid(path, error)
        return
    certificates = [name for name in names if name.endswith(_CERTIFICATES)]
    if not text.strip():
        if not certificates:
            yield HostsPitfall(
                "hosts-folder-empty",
                False,
                str(path),
                "the folder has neither hosts.toml nor certificates, but stands in front of _default",
                "remove the folder, or add hosts.toml",
            )
        return
    if certificates:
        yield HostsPitfall(
            "hosts-certificates-ignored",
            False,
            str(path),
            f"{', '.join(certificates[:5])}: not used, because there is a hosts.toml",
            "name them in hosts.toml by `ca` and `client`",
        )
    file = path / "hosts.toml"
    try:
        parsed = parse(text, file)
    except InvalidInput as error:
        yield _invalid(path, error)
        return
    yield from _in_file(text, parsed, file)


def _in_file(text: str, parsed: HostsFile, file: Path) -> Iterator[HostsPitfall]:
    for warning in parsed.warnings:
        where, _, what = warning.partition(": ")
        yield HostsPitfall("hosts-toml-ignored", False, where, what, "correct or remove it")
    for table in (parsed.root, *parsed.hosts):
        yield from _absent_files(table)
    for name in _without_scheme(tomllib.loads(text)):
        yield HostsPitfall(
            "hosts-no-scheme",
            False,
            str(file),
            f"{name} has no scheme: it is taken for https://{name}",
            "write http:// or https:// in front of it",
        )


def _absent_files(table: HostTable) -> Iterator[HostsPitfall]:
    files = [*table.ca_files, *(name for pair in table.client_certs for name in pair if name)]
    for name in dict.fromkeys(files):
        try:
            Path(name).open("rb").close()
        except OSError as error:
            yield HostsPitfall(
                "hosts-file-absent",
                True,
                table.where,
                f"{name} cannot be read: {error.strerror or error}; relative names are relative to the "
                "folder of hosts.toml",
                "correct the name, or put the file there",
            )


def _without_scheme(document: Mapping[str, Any]) -> Iterator[str]:
    tables = document.get("host", {})
    urls = [document.get("server", ""), *(tables if isinstance(tables, dict) else ())]
    yield from (url for url in urls if isinstance(url, str) and url and "://" not in url)


def _invalid(path: Path, error: InvalidInput) -> HostsPitfall:
    where, colon, what = error.message.partition(": ")
    return HostsPitfall(
        "hosts-toml-invalid",
        True,
        where if colon else str(path),
        f"{what or error.message}: a pull from this registry fails, or goes past its mirrors",
        "correct the line",
    )


def _unreadable(path: Path, error: OSError) -> HostsPitfall:
    return HostsPitfall(
        "hosts-unreadable",
        False,
        str(error.filename or path),
        f"it cannot be read: {error.strerror or error}",
        "run as root, as containerd does, or make it readable",
    )
