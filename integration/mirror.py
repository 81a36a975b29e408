"""A mirror that serves what one containerd has, as Spegel does on each node, without finding other nodes.

Like Spegel it answers for the registry in `?ns=`, resolves tags by the image records, and responds 404 to
everything that the node lacks.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

from pyctrd import Client, NotFound
from tests.support.images import INDEX_TYPES, MANIFEST_TYPES

_PATH = re.compile(r"/v2/(?P<repository>.+)/(?P<kind>manifests|blobs)/(?P<reference>[^/]+)")


@dataclass(frozen=True)
class Asked:
    """One request: its digest or tag, the registry in ?ns=, and the headers (lower-case)."""

    method: str
    reference: str
    status: int
    registry: str
    headers: Mapping[str, str] = field(default_factory=dict, compare=False)


class Mirror:
    """Serves the content of a containerd's namespace on 127.0.0.1; a context manager."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.requests: list[Asked] = []

    def __enter__(self) -> Mirror:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Refuse connections from now on; may be repeated."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def find(self, registry: str, repository: str, reference: str) -> str:
        """Return the digest of what is requested; raises NotFound."""
        if ":" in reference:
            return reference
        return str(self.client.images.get(f"{registry}/{repository}:{reference}").target.digest)


def _media_type(body: bytes) -> str:
    """Return the media type of a manifest or index."""
    document = json.loads(body)
    types = INDEX_TYPES if "manifests" in document else MANIFEST_TYPES
    return str(document.get("mediaType", types[0]))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, mirror: Mirror, *arguments: object) -> None:
        self._mirror = mirror
        super().__init__(*arguments)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        url = urlsplit(self.path)
        registry = parse_qs(url.query).get("ns", [""])[0]
        found = _PATH.fullmatch(url.path)
        reference = found["reference"] if found else url.path
        headers = {"Content-Type": "application/octet-stream"}
        status, body = 404, b""
        if found:
            try:
                digest = self._mirror.find(registry, found["repository"], reference)
                body = self._mirror.client.content.read(digest)
            except NotFound:
                pass
            else:
                status = 200
                headers["Docker-Content-Digest"] = digest
                if found["kind"] == "manifests":
                    headers["Content-Type"] = _media_type(body)
        sent = {name.lower(): value for name, value in self.headers.items()}
        self._mirror.requests.append(Asked(self.command, reference, status, registry, sent))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
