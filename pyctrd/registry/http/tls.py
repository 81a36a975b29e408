"""Load the files of TLS settings: authorities and client certificates, in PEM."""

from __future__ import annotations

import errno
import os
import ssl
import stat

from pyctrd.errors import RegistryError
from pyctrd.registry.config.endpoints import Tls
from pyctrd.registry.http import errors


def load(context: ssl.SSLContext, tls: Tls) -> None:
    """Load CA files and client certificates. Raises RegistryError, which names the unusable file."""
    for name in tls.ca_files:
        try:
            _check_regular(name)
            context.load_verify_locations(cafile=name)
        except (OSError, ssl.SSLError) as error:
            raise RegistryError(f"cannot use CA file {name}: {errors.plain_text(error)}") from error
    for certificate, key in tls.client_certs:
        try:
            _check_regular(certificate)
            _check_regular(key or certificate)
            # An encrypted key must fail here instead of asking on the terminal.
            context.load_cert_chain(certificate, key or None, password="")
        except (OSError, ssl.SSLError) as error:
            text = errors.plain_text(error)
            text += f" (key: {key})" if key else " (it must contain its key, since there is no key file)"
            raise RegistryError(f"cannot use client certificate {certificate}: {text}") from error


def _check_regular(name: str) -> None:
    """Raise OSError for anything but a regular file: OpenSSL would wait for a pipe forever."""
    if not stat.S_ISREG(os.stat(name).st_mode):  # noqa: PTH116 - names are texts here
        raise OSError(errno.EINVAL, "not a regular file")


def check(tls: Tls) -> None:
    """Try to load the files before a connection is opened. Raises the errors of `load`."""
    if tls.ca_files or tls.client_certs:
        load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), tls)
