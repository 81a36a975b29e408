"""The library does not change the loggers of other packages, nor the warning filters of the process."""

from __future__ import annotations

import logging
import ssl
import warnings

import trustme

from pyctrd.registry.config.endpoints import Tls
from pyctrd.registry.http.transport import Request, Transport
from tests.registry.server import Answer, ScriptedServer


def test_a_request_changes_no_loggers_and_no_warning_filters() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    filters = list(warnings.filters)
    with ScriptedServer(context) as server, Transport() as transport:
        server.always("GET", "/v2/", Answer(200))
        # urllib3 does not warn either: warnings are errors in these tests.
        with transport.send(Request("GET", f"{server.url}/v2/", tls=Tls(skip_verify=True))) as response:
            assert response.status == 200
    assert warnings.filters == filters
    others = {
        name: logger
        for name, logger in logging.root.manager.loggerDict.items()
        # OpenTelemetry's SDK, which other tests import, filters its own.
        if isinstance(logger, logging.Logger) and name.partition(".")[0] not in ("pyctrd", "opentelemetry")
    }
    assert "urllib3.connectionpool" in others
    assert [name for name, logger in others.items() if logger.filters] == []
