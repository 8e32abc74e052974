"""An OpenID provider on loopback: authorization code flow with PKCE, real signatures, and mistakes on request."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey


@dataclass
class IdentityProvider:
    """``claims`` of whoever signs in next; ``spoil`` changes a token's claims before it is signed, ``key`` signs."""

    url: str
    client: str = "review-page"
    claims: dict = field(default_factory=lambda: {"preferred_username": "doctor", "roles": ["radiology", "staff"]})
    spoil: Callable[[dict], dict] = dict
    key: RSAKey | OctKey = field(default_factory=lambda: RSAKey.generate_key(2048, auto_kid=True))
    algorithm: str = "RS256"
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.published = self.key

    def document(self) -> dict:
        parts = ("authorization", "token")
        return {"issuer": self.url, "jwks_uri": f"{self.url}/keys"} | {
            f"{p}_endpoint": f"{self.url}/{p}" for p in parts
        }

    def authorise(self, query: dict[str, str]) -> str:
        """Where the browser goes back to."""
        assert query["client_id"] == self.client
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        assert "openid" in query["scope"].split()
        code = secrets.token_urlsafe()
        self.codes[code] = query
        return f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"

    def token(self, form: dict[str, str]) -> dict | None:
        """None: refused."""
        asked = self.codes.pop(form.get("code", ""), None)
        challenge = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if asked is None or base64.urlsafe_b64encode(challenge).decode().rstrip("=") != asked["code_challenge"]:
            return None
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": self.client,
            "sub": "17",
            "iat": now,
            "exp": now + 600,
            "nonce": asked["nonce"],
        }
        header = {"alg": self.algorithm, "kid": self.key.kid}
        signed = jwt.encode(header, self.spoil(claims | self.claims), self.key, algorithms=[self.algorithm])
        return {"access_token": "none", "token_type": "Bearer", "id_token": signed}


@contextmanager
def identity_provider() -> Iterator[IdentityProvider]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path == "/authorization":
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                self.send_response(302)
                self.send_header("Location", provider.authorise(query))
                self.end_headers()
            elif parts.path == "/keys":
                self.tell(200, {"keys": [provider.published.as_dict(private=False)]})
            else:
                self.tell(200, provider.document())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            answer = provider.token({name: values[0] for name, values in parse_qs(body).items()})
            self.tell(200 if answer else 400, answer or {"error": "invalid_grant"})

        def tell(self, status: int, content: dict) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    provider = IdentityProvider(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join(240)
        server.server_close()
