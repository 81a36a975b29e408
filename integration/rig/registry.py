"""A real docker-registry in a folder of its own, behind the logging proxy."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from integration.rig import peers
from integration.rig.process import Process, ending, free_port, tcp_answers
from integration.rig.proxy import Fault, LoggingProxy, Request

START_SECONDS = 20.0
USER, PASSWORD = "tester", "correct horse"
# docker-registry accepts only bcrypt, which the standard library lacks: made by `htpasswd -nbB -C 5`.
HTPASSWD = "tester:$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n"

_CONFIG = """\
version: 0.1
log:
  accesslog:
    disabled: true
  level: warn
storage:
  filesystem:
    rootdirectory: {root}/data
  delete:
    enabled: true
  maintenance:
    uploadpurging:
      enabled: false
http:
  addr: 127.0.0.1:{port}
  secret: rig
{extra}
"""


def basic(user: str, password: str) -> str:
    """The value of an Authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Certificate(NamedTuple):
    """PEM files of a server certificate and its key."""

    certificate: Path
    key: Path


class Registry:
    """A running docker-registry; a context manager.

    `auth` is htpasswd text (HTPASSWD is for USER and PASSWORD). With `tls` it serves https only.
    `config` is YAML appended to its configuration, or a function that gets the registry (its port is known
    by then) and returns it, for example a `tokens.TokenService`.
    """

    def __init__(
        self,
        root: Path,
        *,
        auth: str | None = None,
        tls: Certificate | None = None,
        config: str | Callable[[Registry], str] = "",
    ) -> None:
        self.root = root
        self.log = root / "registry.log"
        self.direct_host = ""
        """The registry without the proxy, for measurements; requests are not logged."""
        self.authorization: Callable[[str], str] = lambda _repository: ""
        """Returns the Authorization header for `publish.push` to a repository, "" for none."""
        self._auth = auth
        self._tls = tls
        self._config = config
        self._process: Process | None = None
        self._proxy: LoggingProxy | None = None

    def __enter__(self) -> Registry:
        binary = peers.tool("docker-registry")
        self.root.mkdir(parents=True, exist_ok=True)
        context = None
        if self._tls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(self._tls.certificate, self._tls.key)
        self._proxy = LoggingProxy(context)
        try:
            self._start(binary, free_port())
        except BaseException:
            self._proxy.close()
            raise
        return self

    def _start(self, binary: Path, port: int) -> None:
        extra = self._config if isinstance(self._config, str) else self._config(self)
        if self._auth:
            self.authorization = lambda _repository: basic(USER, PASSWORD)
            (self.root / "htpasswd").write_text(self._auth)
            extra += f"\nauth:\n  htpasswd:\n    realm: rig\n    path: {self.root}/htpasswd\n"
        settings = self.root / "config.yml"
        settings.write_text(_CONFIG.format(root=self.root, port=port, extra=extra))
        process = Process([binary, "serve", settings], self.log)
        with ending(process):
            process.wait_until(lambda: tcp_answers(port), START_SECONDS)
            self.proxy.serve(port)
        self._process = process
        self.direct_host = f"127.0.0.1:{port}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.proxy.close()
        finally:
            if self._process:
                self._process.stop()

    def kill(self) -> None:
        """Kill it, like a crash: connections are closed, and new ones are refused."""
        if self._process:
            self._process.kill()
        self.proxy.close()

    @property
    def proxy(self) -> LoggingProxy:
        """The proxy in front, for routes of its own."""
        assert self._proxy, "not started"
        return self._proxy

    @property
    def host(self) -> str:
        """ "127.0.0.1:PORT", as it stands in references."""
        return f"127.0.0.1:{self.proxy.port}"

    @property
    def url(self) -> str:
        """http:// or https:// and the host."""
        return f"{'https' if self._tls else 'http'}://{self.host}"

    def requests(self) -> list[Request]:
        """Every request since `clear_requests`, complete as soon as the client has its response."""
        return self.proxy.requests()

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        self.proxy.clear_requests()

    def fetched(self) -> set[str]:
        """Digests and tags of manifests and blobs that were successfully requested by GET."""
        answered = (one for one in self.requests() if one.method == "GET" and one.status in (200, 206, 307))
        return {one.path.rpartition("/")[2] for one in answered}

    def add_fault(self, fault: Fault) -> Fault:
        """Apply a fault to matching responses from now on."""
        return self.proxy.add_fault(fault)

    def clear_faults(self) -> None:
        """Remove all faults."""
        self.proxy.clear_faults()
