"""A token service for the real docker-registry, which checks every token's signature and access list.

Sources: distribution's docs/spec/auth/token.md (GET), oauth.md (POST) and jwt.md. The standard library has no
RSA, so openssl makes keys and signatures.
"""

from __future__ import annotations

import base64
import json
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qs

from integration.rig.cache import PeerUnavailable
from integration.rig.registry import PASSWORD, USER, Registry, basic

_ISSUER, _SERVICE = "rig", "rig-registry"
_CONFIG = """
auth:
  token:
    realm: {url}/token
    service: {service}
    issuer: {issuer}
    rootcertbundle: {bundle}
"""
Answer = tuple[int, Mapping[str, str], bytes]


class TokenService:
    """`Registry(root, config=TokenService(folder))`: tokens for USER and PASSWORD at the registry's /token.

    `anonymous` lets everyone pull. With `post` OAuth2 requests are supported; otherwise they get 404, as from
    many registries. `lifetime` is a token's validity in seconds. Requests are in the registry's log.
    """

    def __init__(
        self, folder: Path, *, anonymous: bool = True, post: bool = True, lifetime: int = 300
    ) -> None:
        self.anonymous = anonymous
        self.post = post
        self.lifetime = lifetime
        self._folder = folder
        self._registry: Registry | None = None

    def __call__(self, registry: Registry) -> str:
        """Create the key, serve /token at the registry's port, and return the registry's configuration."""
        self._folder.mkdir(parents=True, exist_ok=True)
        subject = ("-subj", "/CN=rig", "-days", "2")
        out = ("-keyout", str(self._folder / "key.pem"), "-out", str(self._folder / "cert.pem"))
        _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject, *out)
        registry.proxy.add_route("/token", self._answer)
        registry.authorization = lambda repository: (
            "Bearer " + self.token(USER, [f"repository:{repository}:pull,push"])
        )
        bundle = self._folder / "cert.pem"
        return _CONFIG.format(url=registry.url, service=_SERVICE, issuer=_ISSUER, bundle=bundle)

    def _answer(self, query: str, headers: Mapping[str, str], body: bytes) -> Answer:
        oauth = bool(body)
        if oauth and not self.post:
            return 404, {}, b"not found"
        asked = parse_qs(body.decode() if oauth else query)
        user = self._user(asked, headers)
        if user is None or (not user and not self.anonymous):
            return 401, {}, b'{"details":"incorrect username or password"}'
        scopes = [scope for text in asked.get("scope", []) for scope in text.split()]
        made = self.token(
            user, scopes if user else [scope.replace("push", "").rstrip(",") for scope in scopes]
        )
        reply = {"access_token": made, "expires_in": self.lifetime, "scope": " ".join(scopes)}
        if not oauth:
            reply["token"] = made
        return 200, {"Content-Type": "application/json"}, json.dumps(reply).encode()

    def _user(self, asked: Mapping[str, Sequence[str]], headers: Mapping[str, str]) -> str | None:
        """Return the user of the request, "" for an anonymous one, None for wrong credentials."""
        given = headers.get("authorization", "")
        if "username" in asked:
            given = basic(asked["username"][0], asked.get("password", [""])[0])
        if not given:
            return ""
        return USER if given == basic(USER, PASSWORD) else None

    def token(self, user: str, scopes: Sequence[str]) -> str:
        """A signed JSON web token that grants the scopes ("repository:name:pull,push")."""
        certificate = (self._folder / "cert.pem").read_text().splitlines()
        head = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(certificate[1:-1])]}
        now = int(time.time())
        granted = [scope.split(":", 1) for scope in scopes]
        claims = {
            "iss": _ISSUER,
            "sub": user,
            "aud": _SERVICE,
            "exp": now + self.lifetime,
            "nbf": now - 10,
            "iat": now,
            "jti": uuid.uuid4().hex,
            "access": [
                {"type": kind, "name": rest.rpartition(":")[0], "actions": rest.rpartition(":")[2].split(",")}
                for kind, rest in granted
            ],
        }
        signed = b".".join(_base64url(json.dumps(part).encode()) for part in (head, claims))
        signature = _openssl("dgst", "-sha256", "-sign", str(self._folder / "key.pem"), stdin=signed)
        return (signed + b"." + _base64url(signature)).decode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _openssl(*arguments: str, stdin: bytes = b"") -> bytes:
    try:
        return subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, check=True).stdout
    except OSError as error:
        raise PeerUnavailable(f"openssl: {error.strerror}") from error
