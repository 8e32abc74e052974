"""Single sign-on: authorization code flow with PKCE, state and nonce, each bound to the browser that started it.

Source: OpenID Connect Core 1.0 3.1; RFC 7636 (PKCE); RFC 9700 (security of OAuth 2.0).
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from med_transfer.errors import ConfigError
from med_transfer.hospital.review.access.database import Database, digest
from med_transfer.hospital.review.access.sessions import ROLES
from med_transfer.hospital.review.access.users import User
from med_transfer.hospital.settings.page import Oidc, Role

_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]  # no HMAC
_TIMEOUT_SECONDS, _FLOW_SECONDS, _KNOWN_SECONDS, _LEEWAY_SECONDS = 10.0, 600.0, 3600.0, 60


class SignOnFailed(Exception):
    """The provider's answer is missing or not trustworthy; ``reason`` is a code for page and record."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class _Known:
    """The provider's metadata and keys, with the time when they were fetched."""

    at: float
    authorization_endpoint: str
    token_endpoint: str
    keys: KeySet


class Provider:
    """The hospital's identity provider. Raises ConfigError if the client secret cannot be read."""

    def __init__(self, settings: Oidc, database: Database) -> None:
        self._settings, self._database = settings, database
        self._secret = read_client_secret(settings.client_secret) if settings.client_secret else None
        self._known: _Known | None = None

    def begin(self, browser: str, redirect_uri: str, goal: str) -> str:
        """Start a sign-on bound to the browser's cookie; return the URL to redirect to. Raises SignOnFailed."""
        state, nonce, verifier = (secrets.token_urlsafe(48) for _ in range(3))
        with self._client(redirect_uri) as client:
            url, _ = client.create_authorization_url(
                self._provider().authorization_endpoint, state=state, nonce=nonce, code_verifier=verifier
            )
        now = time.time()
        with self._database.writing() as database:
            database.execute("DELETE FROM sign_on WHERE began < ?", (now - _FLOW_SECONDS,))
            row = (digest(state), digest(browser), nonce, verifier, goal, now)
            database.execute("INSERT INTO sign_on VALUES (?, ?, ?, ?, ?, ?)", row)
        return url

    def finish(self, browser: str, redirect_uri: str, state: str, code: str) -> tuple[User, str]:
        """Finish a sign-on; return the user and the page that they wanted. Raises SignOnFailed."""
        with self._database.writing() as database:
            row = database.execute(
                "DELETE FROM sign_on WHERE state = ? RETURNING browser, nonce, verifier, goal, began", (digest(state),)
            ).fetchone()
        if row is None or row[0] != digest(browser) or time.time() - row[4] > _FLOW_SECONDS:
            raise SignOnFailed("state")
        _, nonce, verifier, goal, _ = row
        claims = self._claims(self._id_token(redirect_uri, code, verifier), nonce)
        return self._user(claims), goal

    def _client(self, redirect_uri: str) -> Any:
        """An OAuth2Session, which is a requests.Session, although authlib's types do not say so."""
        client: Any = OAuth2Session(
            self._settings.client_id,
            self._secret,
            token_endpoint_auth_method="client_secret_basic" if self._secret else "none",
            scope="openid profile",
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
        )
        client.verify = str(self._settings.trusted) if self._settings.trusted else True
        return client

    def _id_token(self, redirect_uri: str, code: str, verifier: str) -> str:
        try:
            with self._client(redirect_uri) as client:
                token = client.fetch_token(
                    self._provider().token_endpoint,
                    code=code,
                    code_verifier=verifier,
                    grant_type="authorization_code",
                    timeout=_TIMEOUT_SECONDS,
                )
        except (requests.RequestException, OAuthError, ValueError) as error:
            raise SignOnFailed("code") from error
        if not isinstance(token, dict) or not isinstance(token.get("id_token"), str):
            raise SignOnFailed("no_id_token")
        return token["id_token"]

    def _claims(self, id_token: str, nonce: str) -> dict[str, Any]:
        rules = jwt.JWTClaimsRegistry(
            leeway=_LEEWAY_SECONDS,
            iss={"essential": True, "value": self._settings.issuer},
            aud={"essential": True, "value": self._settings.client_id},
            exp={"essential": True},
            iat={"essential": True},
            sub={"essential": True},
            nonce={"essential": True, "value": nonce},
        )
        try:
            claims = self._verified(id_token)
            rules.validate(claims)
        except (JoseError, ValueError) as error:
            raise SignOnFailed("id_token") from error
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1  # then azp says which of them it is for
        if ("azp" in claims or several) and claims.get("azp") != self._settings.client_id:
            raise SignOnFailed("id_token")
        return claims

    def _verified(self, id_token: str) -> dict[str, Any]:
        """Claims of a token signed with a key of the provider; if that fails, its keys are fetched again once."""
        try:
            return jwt.decode(id_token, self._provider().keys, algorithms=_ALGORITHMS).claims
        except (JoseError, ValueError):
            return jwt.decode(id_token, self._provider(anew=True).keys, algorithms=_ALGORITHMS).claims

    def _user(self, claims: dict[str, Any]) -> User:
        name, words = claims.get(self._settings.name_claim), claims.get(self._settings.role_claim)
        if not isinstance(name, str) or not 1 <= len(name) <= 128 or not name.isprintable():
            raise SignOnFailed("no_name")
        given = [words] if isinstance(words, str) else words if isinstance(words, list) else []
        roles: list[Role] = [role for word, role in self._settings.roles.items() if word in given]
        if not roles:
            raise SignOnFailed("no_role")
        return User(name, max(roles, key=ROLES.index))

    def _provider(self, *, anew: bool = False) -> _Known:
        if anew or self._known is None or time.time() - self._known.at > _KNOWN_SECONDS:
            told = self._get(self._settings.issuer.rstrip("/") + "/.well-known/openid-configuration")
            if told.get("issuer") != self._settings.issuer:
                raise SignOnFailed("issuer")
            try:
                endpoints = told["authorization_endpoint"], told["token_endpoint"]
                self._known = _Known(time.time(), *endpoints, KeySet.import_key_set(self._get(told["jwks_uri"])))
            except (KeyError, ValueError, JoseError) as error:
                raise SignOnFailed("provider") from error
        return self._known

    def _get(self, url: str) -> Any:
        trusted = str(self._settings.trusted) if self._settings.trusted else True
        try:
            answer = requests.get(url, timeout=_TIMEOUT_SECONDS, verify=trusted, allow_redirects=False)
            answer.raise_for_status()
            found = answer.json()
        except (requests.RequestException, ValueError) as error:
            raise SignOnFailed("provider") from error
        if not isinstance(found, dict):
            raise SignOnFailed("provider")
        return found


def read_client_secret(path: Path) -> str:
    """Read the page's secret at the provider. Raises ConfigError."""
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("cannot be read", where=path, expected="a file with the client's secret") from error
    if not secret:
        raise ConfigError("is empty", where=path, expected="a file with the client's secret")
    return secret
