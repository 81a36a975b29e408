"""Registries that require a login, and every way to pass it to the command line."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from integration.conftest import peer_required, run_required
from integration.rig.containerd import Containerd
from integration.rig.peers import NEWEST
from integration.rig.publish import push
from integration.rig.registry import HTPASSWD, PASSWORD, USER, Registry
from integration.rig.tokens import TokenService
from integration.shell import Shell
from pyctrd import Client
from pyctrd.oci import reference
from pyctrd.registry import RegistryClient, RegistryOptions
from tests.support import shapes
from tests.support.images import Graph

PAIR: Final = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
KINDS: Final = ("basic", "token", "token-get")


def started(kind: str, folder: Path) -> Registry:
    """Start a registry: `basic` has htpasswd, `token` a token server, `token-get` one without POST."""
    with peer_required():
        if kind == "basic":
            registry = Registry(folder, auth=HTPASSWD)
        else:
            tokens = TokenService(folder / "tokens", anonymous=False, post=kind == "token")
            registry = Registry(folder, config=tokens)
        registry.__enter__()
    return registry


class Login:
    """A command line of a user whose home has only the files of one way to log in."""

    def __init__(self, shell: Shell, host: str) -> None:
        self.shell = shell
        self.host = host
        self.home = shell.folder / "home"
        self.home.mkdir()
        self.asked = shell.folder / "asked"
        for name in (
            "DOCKER_AUTH_CONFIG",
            "REGISTRY_AUTH_FILE",
            "XDG_RUNTIME_DIR",
            "XDG_CONFIG_HOME",
            "SUDO_USER",
        ):
            shell.env.pop(name, None)
        shell.env |= {
            "HOME": str(self.home),
            "DOCKER_CONFIG": str(self.home / ".docker"),
            "PATH": f"{shell.folder}:{shell.env['PATH']}",
        }

    def write(self, name: str, document: Mapping[str, object]) -> Path:
        """Write a JSON file below the home directory."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
        return path

    def helper(self, name: str, folder: Path | None = None) -> None:
        """Add an executable credential helper to PATH.

        It records its arguments, input, user, command line and its parent's command line.
        """
        answer = json.dumps({"ServerURL": self.host, "Username": USER, "Secret": PASSWORD})
        path = (folder or self.shell.folder) / f"docker-credential-{name}"
        path.write_text(
            f"#!/bin/sh\nread server\n"
            f'echo "$# $1 $server $(id -u) $HOME ${{CONTAINERD_NAMESPACE-}}" >> {self.asked}\n'
            f"cat /proc/$$/cmdline /proc/$PPID/cmdline | tr '\\0' ' ' >> {self.asked}-processes\n"
            f'[ "$1" = get ] && [ "$server" = {self.host} ] && echo \'{answer}\' && exit\n'
            f"echo credentials not found in native keychain; exit 1\n"
        )
        path.chmod(0o755)


@contextmanager
def one_containerd(folder: Path) -> Iterator[Containerd]:
    """Start a containerd of the newest generation: logins do not depend on containerd."""
    with run_required(lambda: Containerd(NEWEST, folder)) as daemon:
        yield daemon


Way = Callable[[Login, str], list[str]]
"""(who logs in, the repository) -> options of the command line."""


def _auths(key: str) -> dict[str, object]:
    return {"auths": {key: {"auth": PAIR}}}


def _by_docker_auth_config(login: Login, _repository: str) -> list[str]:
    login.shell.env["DOCKER_AUTH_CONFIG"] = json.dumps(_auths(login.host))
    return []


def _by_config(login: Login, _repository: str) -> list[str]:
    login.write(".docker/config.json", _auths(login.host))
    return []


def _by_helper(login: Login, _repository: str) -> list[str]:
    login.helper("rig")
    login.write(".docker/config.json", {"auths": {login.host: {}}, "credHelpers": {login.host: "rig"}})
    return []


def _by_store(login: Login, _repository: str) -> list[str]:
    login.helper("rig")
    login.write(".docker/config.json", {"credsStore": "rig"})
    return []


def _by_podman(login: Login, repository: str) -> list[str]:
    wrong = base64.b64encode(b"tester:another horse").decode()
    document = {"auths": {login.host: {"auth": wrong}, f"{login.host}/{repository}": {"auth": PAIR}}}
    login.write(".config/containers/auth.json", document)
    return []


def _by_podmans_helper(login: Login, _repository: str) -> list[str]:
    login.helper("rig")
    path = login.write("elsewhere.json", {"credHelpers": {login.host: "rig"}})
    login.shell.env["REGISTRY_AUTH_FILE"] = str(path)
    return []


WAYS: Final[Mapping[str, Way]] = {
    "-u": lambda _login, _repository: ["-u", f"{USER}:{PASSWORD}"],
    "DOCKER_AUTH_CONFIG": _by_docker_auth_config,
    "config.json": _by_config,
    "credHelpers": _by_helper,
    "credsStore": _by_store,
    "auth.json with a path": _by_podman,
    "auth.json with a helper": _by_podmans_helper,
}


class Image:
    """An image in a registry, no part of which is in the shared store."""

    def __init__(self, registry: Registry, repository: str) -> None:
        self.registry = registry
        self.repository = repository
        self.graph: Graph = shapes.single(salt=uuid.uuid4().hex)
        self.name = push(self.graph, registry, repository)


Action = Callable[[Login, Image, list[str]], None]
"""Runs its command with the options, and checks the result."""


def _pull(login: Login, image: Image, options: list[str]) -> None:
    login.shell("pull", "--no-unpack", *options, image.name)
    assert login.shell.have() == set(image.graph.blobs)


def pull_metadata(login: Login, image: Image) -> None:
    """Pull an image without its layers, so that a command has to contact the registry."""
    shell = login.shell
    options = RegistryOptions(username=USER, password=PASSWORD)
    with Client(str(shell.containerd.address), shell.namespace, registry=options) as client:
        client.images.pull(image.name, metadata_only=True)
    assert not set(image.graph.blobs) <= login.shell.have()


def _ensure(login: Login, image: Image, options: list[str]) -> None:
    pull_metadata(login, image)
    login.shell("ensure", *options, image.name)
    assert login.shell.have() == set(image.graph.blobs)


def _save(login: Login, image: Image, options: list[str]) -> None:
    pull_metadata(login, image)
    login.shell("save", *options, "-o", "image.tar", image.name)
    assert (login.shell.folder / "image.tar").stat().st_size > 0
    assert login.shell.have() == set(image.graph.blobs)


def pull_whole(login: Login, image: Image) -> None:
    """Pull a complete image, so that it can be pushed."""
    options = RegistryOptions(username=USER, password=PASSWORD)
    shell = login.shell
    with Client(str(shell.containerd.address), shell.namespace, registry=options) as client:
        client.images.pull(image.name, unpack=False)


def _push(login: Login, image: Image, options: list[str]) -> None:
    pull_whole(login, image)
    target = f"{login.host}/{image.repository}/pushed:1"
    login.shell("push", *options, image.name, target)
    with RegistryClient(RegistryOptions(username=USER, password=PASSWORD)) as client:
        assert client.remote(reference.parse(target)).resolve().digest == image.graph.digest


ACTIONS: Final[Mapping[str, Action]] = {"pull": _pull, "ensure": _ensure, "save": _save, "push": _push}


def login_at(registry: Registry, containerd: Containerd, namespace: str, folder: Path) -> Login:
    """Return the command line of a user who logs in to a registry."""
    registry.clear_faults()
    registry.clear_requests()
    return Login(Shell(containerd, namespace, folder), registry.host)
