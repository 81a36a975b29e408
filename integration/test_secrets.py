"""No password or token, in any spelling, is in anything that pyctrd prints, logs or raises."""

from __future__ import annotations

import base64
import json
import logging
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote, quote_plus

import pytest

from integration.conftest import peer_required
from integration.locked import PAIR, Image, Login, login_at, one_containerd, pull_metadata, pull_whole
from integration.rig.containerd import Containerd
from integration.rig.registry import PASSWORD, USER, Registry
from integration.rig.tokens import TokenService
from integration.shell import on_a_terminal
from pyctrd import Client, redact
from pyctrd.errors import PyctrdError
from pyctrd.registry import RegistryOptions

PROGRESS: Final = ("bar", "plain", "json", "none")
Answer = tuple[int, Mapping[str, str], bytes]


class Rig:
    """A registry with a token server whose tokens are recorded, and with repositories that echo."""

    def __init__(self, folder: Path) -> None:
        self.issued: list[str] = []
        self.tokens = TokenService(folder / "tokens", anonymous=False)
        make = self.tokens.token

        def noted(user: str, scopes: list[str]) -> str:
            made = make(user, scopes)
            self.issued.append(made)
            return made

        self.tokens.token = noted  # type: ignore[method-assign, assignment]
        self.registry = Registry(folder / "registry", config=self.tokens)

    def echo(self, repository: str, status: int, where: str) -> str:
        """Publish an image that cannot be pulled: its registry echoes the credentials in `where`."""

        def answer(_query: str, headers: Mapping[str, str], _body: bytes) -> Answer:
            shown = headers.get("authorization", "")
            challenge = (
                f'Bearer realm="{self.registry.url}/token",service="rig-registry",'
                f'scope="repository:{repository}:pull"'
            )
            if not shown:
                return 401, {"WWW-Authenticate": challenge}, b""
            words = f"{shown} {PASSWORD} {quote(PASSWORD)} {quote_plus(PASSWORD)} {PAIR}"
            once_more = base64.b64encode(f"you sent {words}".encode()).decode()
            told = f"{words} {once_more}"
            body = json.dumps({"errors": [{"code": told, "message": told}]}).encode()
            in_header: Mapping[str, Mapping[str, str]] = {
                "body": {},
                "challenge": {"WWW-Authenticate": f'{challenge},error="{quote(told)}"'},
                "type": {"Content-Type": f"text/{quote(told)}", "Docker-Content-Digest": quote(told)},
                "location": {"Location": f"{self.registry.url}/v2/{quote(told)}?sig={quote(told)}"},
                "encoding": {"Content-Encoding": quote(words)},
            }
            return status, in_header[where], body

        self.registry.proxy.add_route(f"/v2/{repository}/manifests/latest", answer)
        return f"{self.registry.host}/{repository}:latest"

    def secrets(self) -> set[str]:
        """All secrets in all spellings, tokens also without their signature."""
        assert self.issued
        whole = {PASSWORD, quote(PASSWORD), quote_plus(PASSWORD), PAIR, PAIR.rstrip("=")}
        return whole | set(self.issued) | {token.rpartition(".")[2] for token in self.issued}


# Status, where the secrets are, and the exit code.
ECHOES: Final = (
    (400, "body", 5),
    (403, "body", 5),
    (401, "body", 5),
    (401, "challenge", 5),
    (403, "challenge", 5),
    (200, "type", 5),
    (302, "location", 3),
    (200, "encoding", 5),
)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    made = Rig(tmp_path_factory.mktemp("rig"))
    with peer_required():
        made.registry.__enter__()
    yield made
    made.registry.__exit__(None, None, None)


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    with one_containerd(tmp_path_factory.mktemp("containerd")) as daemon:
        yield daemon


@pytest.fixture
def login(rig: Rig, containerd: Containerd, namespace: str, tmp_path: Path) -> Login:
    """A login by a helper, so that the secret is not in the command line."""
    made = login_at(rig.registry, containerd, namespace, tmp_path)
    made.helper("rig")
    made.write(".docker/config.json", {"credHelpers": {rig.registry.host: "rig"}})
    return made


def check(rig: Rig, text: str) -> None:
    found = [text[max(text.index(secret) - 80, 0) :][:300] for secret in rig.secrets() if secret in text]
    assert found == []


def told(login: Login, *arguments: str, code: int) -> str:
    """Run, and return stdout and stderr."""
    done = login.shell.start(*arguments, stdout=-1, stderr=-1)
    out, err = done.communicate(timeout=60)
    assert done.returncode == code, err.decode(errors="replace")
    return (out + err).decode(errors="replace")


def library(login: Login, options: RegistryOptions | None = None) -> Client:
    return Client(str(login.shell.containerd.address), login.shell.namespace, registry=options)


@pytest.mark.parametrize("progress", PROGRESS)
def test_debug_of_successful_commands(rig: Rig, login: Login, repository: str, progress: str) -> None:
    images = [Image(rig.registry, f"{repository}/{number}") for number in range(4)]
    for image in images[1:3]:
        pull_metadata(login, image)
    pull_whole(login, images[3])
    commands = (["pull"], ["ensure"], ["save", "-o", "x.tar"], ["push"])
    for image, command in zip(images, commands, strict=True):
        text = told(login, "--debug", *command, "--progress", progress, image.name, code=0)
        check(rig, text)
        # The log is still useful: it has requests with status and time, and the source of the login.
        assert f"/v2/{image.repository}/" in text
        assert " ms 200 " in text
        assert f"credentials: {USER}, from docker-credential-rig (named in {login.home}" in text
        assert "urllib3" not in text


def test_debug_on_a_terminal(rig: Rig, login: Login, repository: str) -> None:
    image = Image(rig.registry, repository)
    code, text = on_a_terminal(login.shell, "--debug", "pull", image.name)
    assert code == 0
    assert " ms OK  Images.Create " in text
    check(rig, text)


@pytest.mark.parametrize(("status", "where", "code"), ECHOES)
def test_a_registry_that_echoes(
    rig: Rig, login: Login, repository: str, status: int, where: str, code: int
) -> None:
    name = rig.echo(repository, status, where)
    text = told(login, "--debug", "pull", "--progress", "json", name, code=code)
    check(rig, text)
    assert "Traceback" in text
    check(rig, told(login, "pull", name, code=code))


def test_a_token_server_that_echoes(rig: Rig, login: Login, repository: str) -> None:
    image = Image(rig.registry, repository)
    words = f"you said {PASSWORD} and {PAIR}"
    proxy = rig.registry.proxy
    proper = rig.tokens._answer
    body = json.dumps({"details": words, "error": quote_plus(words)}).encode()
    proxy.add_route("/token", lambda *_: (403, {"WWW-Authenticate": f'Basic realm="{PASSWORD}"'}, body))
    try:
        text = told(login, "--debug", "pull", image.name, code=5)
    finally:
        proxy.add_route("/token", proper)
    assert "you said *** and ***" in text
    check(rig, text)


# --- the library ------------------------------------------------------------------------------------------


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """All log records at the lowest level, with urllib3's log configured as in the docs."""
    found: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    handler, root = Handler(), logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in ("", "pyctrd", "urllib3")}
    requests = redact.logger("urllib3.connectionpool")
    root.addHandler(handler)
    for name in levels:
        logging.getLogger(name).setLevel(logging.NOTSET if not name else logging.DEBUG)
    yield found
    requests.filters.clear()
    root.removeHandler(handler)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize("how", ["helper", "given"])
def test_log_records_and_exceptions_of_the_library(
    rig: Rig,
    login: Login,
    repository: str,
    how: str,
    records: list[logging.LogRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HOME", "DOCKER_CONFIG", "PATH"):
        monkeypatch.setenv(name, login.shell.env[name])
    options = RegistryOptions(username=USER, password=PASSWORD) if how == "given" else None
    image = Image(rig.registry, repository)
    echoes = [rig.echo(f"{repository}/{status}/{where}", status, where) for status, where, _ in ECHOES]
    text = repr(options)
    with library(login, options) as client:
        client.images.pull(image.name, unpack=False, progress=lambda event: None)
        for name in echoes:
            with pytest.raises(PyctrdError) as caught:
                client.images.pull(name)
            text += "".join(traceback.format_exception(caught.value))
            error: BaseException | None = caught.value
            while error is not None:
                text += f"{error} {error!r} {vars(error)}"
                error = error.__cause__ or error.__context__
    for record in records:
        text += f"{record.getMessage()} {vars(record)} {logging.Formatter().format(record)}\n"
    names = {record.name.partition(".")[0] for record in records}
    assert names >= {"pyctrd", "urllib3"}
    check(rig, text)
