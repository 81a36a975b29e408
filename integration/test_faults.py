"""Every fault of the table, with the command line on a real containerd."""

from __future__ import annotations

import datetime as dt
import os
import socket
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme

from integration.conftest import chosen
from integration.faults import FAULTS, Case
from integration.faults.__main__ import render
from integration.faults.broken import plain
from integration.rig import store
from integration.rig.daemons import Containerd
from integration.rig.faultserver import FaultServer
from integration.rig.measure import Measured, measured
from integration.rig.peers import CURRENT, NEWEST
from integration.rig.process import free_port
from integration.shell import REPOSITORY_ROOT
from pyctrd.client import Client
from pyctrd.registry import RegistryOptions

MOST_SECONDS = 12.0
MOST_MEBIBYTES = 120.0
# Faults for which the generations could differ: in content stores and garbage collection.
ON_ALL = frozenset(
    {"connection-refused", "429-absurd", "json-twice", "index-deep", "manifest-wrong-bytes"}
    | {"blob-wrong-bytes", "blob-long", "cut-at-nothing", "cut-once"}
)
TIMING = ("--connect-timeout", "2", "--stall-timeout", "0.5", "--retry-budget", "1.2")
REPOSITORY = "team/app"


class Stage:
    """One fault on one containerd: the server, the pull, and what is compared before and after it."""

    def __init__(self, case: Case, containerd: Containerd, namespace: str, folder: Path) -> None:
        self.case = case
        self.containerd = containerd
        self.namespace = namespace
        self.folder = folder
        salt = f"{case.name}-{containerd.generation}"
        self.good = plain(salt)
        self.graph = case.image(salt) if case.image else self.good
        self.listener = socket.create_server(("127.0.0.1", 0))
        if case.image_at:
            address, port = self.listener.getsockname()
            self.graph = case.image_at(salt, f"{address}:{port}")

    def state(self) -> store.State:
        store.collect_garbage(self.containerd, self.namespace)
        return store.snapshot_of(self.containerd, self.namespace)

    def listen(self) -> FaultServer:
        tls = None
        if self.case.via.startswith("tls"):
            tls = self._tls(self.case.via)
        return FaultServer(
            self.graph, self.case.fault, tls=tls, greet=self.case.greet, listener=self.listener
        )

    def _tls(self, via: str) -> ssl.SSLContext:
        authority = trustme.CA()
        name = "registry.example" if via == "tls-other-name" else "127.0.0.1"
        expired = dt.datetime(2020, 1, 1, tzinfo=dt.UTC) if via == "tls-expired" else None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name, not_after=expired).configure_cert(context)
        (self.folder / "_default").mkdir()
        if via != "tls-unknown":
            authority.cert_pem.write_to_path(self.folder / "_default" / "ca.crt")
        return context

    def options(self, host: str) -> list[str]:
        if self.case.via == "greeting-tls" or self.case.via == "tls-unknown":
            (self.folder / "_default").mkdir(exist_ok=True)
            (self.folder / "_default" / "hosts.toml").write_text(f'server = "https://{host}"\n')
        if self.case.via == "connect":
            return []
        if self.case.via.startswith("pipe"):
            (self.folder / "_default").mkdir()
            os.mkfifo(self.folder / "_default" / self.case.via.removeprefix("pipe "))
            if self.case.via != "pipe hosts.toml":
                (self.folder / "_default" / "hosts.toml").write_text('ca = "ca.pem"\n')
        if (self.folder / "_default").exists():
            return ["--hosts-dir", str(self.folder)]
        return ["--plain-http"]

    def host(self, server: FaultServer) -> str:
        if self.case.via == "nobody":
            return f"127.0.0.1:{free_port()}"
        elsewhere = self.case.via in ("nowhere", "proxy", "connect", "through-proxy")
        return "registry.invalid" if elsewhere else server.host

    def pull(self, host: str, env: Mapping[str, str]) -> Measured:
        command = [sys.executable, "-m", "pyctrd", "pull", *TIMING, *self.options(host), *self.case.options]
        return measured([*command, f"{host}/{REPOSITORY}"], env=env, folder=self.folder)

    def environment(self, server: FaultServer) -> dict[str, str]:
        names = {name for name in os.environ if not name.lower().endswith("_proxy")}
        proxy = {"HTTP_PROXY": "http://me:hush@127.0.0.1:1"} if self.case.via == "proxy" else {}
        if self.case.via in ("connect", "through-proxy"):
            variable = "HTTPS_PROXY" if self.case.via == "connect" else "HTTP_PROXY"
            proxy = {variable: f"http://me:hush%40%21@{server.host}"}
        return {
            **{name: os.environ[name] for name in names},
            **proxy,
            "CONTAINERD_ADDRESS": str(self.containerd.address),
            "CONTAINERD_NAMESPACE": self.namespace,
            "PYTHONPATH": str(REPOSITORY_ROOT),
            "DOCKER_CONFIG": str(self.folder / "none"),
        }

    def words(self, host: str) -> dict[str, str]:
        """What the placeholders of `says` stand for."""
        manifest = self.good.child(0)
        document = manifest.document()
        return {
            "host": host,
            "repository": REPOSITORY,
            "root": self.graph.digest,
            "manifest": manifest.digest,
            "config": document["config"]["digest"],
        }

    @property
    def layers(self) -> list[str]:
        return [layer["digest"] for layer in self.good.child(0).document()["layers"]]


def test_the_document_is_up_to_date() -> None:
    assert (REPOSITORY_ROOT / "docs" / "faults.md").read_text() == render()
    assert len({case.name for case in FAULTS}) == len(FAULTS) >= 40


@pytest.fixture(scope="module")
def bystander(containerd: Containerd) -> str:
    """A namespace with an image, which no fault may change."""
    namespace = "faults"
    with FaultServer(plain("bystander")) as server:
        pull_well(containerd, namespace, f"{server.host}/by/stander")
    return namespace


def pull_well(containerd: Containerd, namespace: str, name: str) -> str:
    options = RegistryOptions(plain_http=True)
    with Client(str(containerd.address), namespace, registry=options) as client:
        return client.images.pull(name).image.target.digest


def _pairs() -> list[Any]:
    """All faults on the newest generation, some on the others; conftest's fixture would run all on all."""
    return [
        pytest.param(generation, case, id=f"{generation}-{case.name}")
        for generation in chosen()
        for case in FAULTS
        if generation in (case.generations or (CURRENT if case.name in ON_ALL else (NEWEST,)))
    ]


@pytest.mark.parametrize(("generation", "case"), _pairs(), indirect=["generation"])
def test_fault(case: Case, containerd: Containerd, bystander: str, tmp_path: Path) -> None:
    stage = Stage(case, containerd, bystander, tmp_path)
    before = stage.state()
    with stage.listen() as server:
        host = stage.host(server)
        done = stage.pull(host, stage.environment(server))
        _judge(stage, done, host, server)
        if case.code:
            assert stage.state() == before
    with FaultServer(stage.good) as server:
        assert pull_well(containerd, bystander, f"{server.host}/{REPOSITORY}") == stage.good.digest


def _judge(stage: Stage, done: Measured, host: str, server: FaultServer) -> None:
    case, words = stage.case, stage.words(host)
    assert done.code == case.code, done.stderr
    assert "Traceback" not in done.stderr
    assert "hush" not in done.stderr
    told = done.stderr[done.stderr.find("pyctrd: ") :] if case.code else ""
    for text in case.says:
        # The error names the layer that failed first.
        assert any(text.format(**words, layer=layer) in told for layer in stage.layers), (text, told)
    asked = [f"{one.method} {one.path}" for one in server.asked]
    assert len(asked) <= case.asks, asked
    assert done.seconds <= MOST_SECONDS
    assert done.mebibytes <= MOST_MEBIBYTES, f"{done.mebibytes:.0f} MiB"
