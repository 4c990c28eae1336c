"""Credentials and tokens."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
import threading
import time
from typing import Any

from .errors import ApiError

API_VERSION = "2.31"
SERVER_VERSION = "2.0.0"


class Auth:
    """One pair of made-up credentials and the tokens given for it."""

    def __init__(self, token_lifetime: float = 30 * 86400.0) -> None:
        self.access_key = secrets.token_hex(10).upper()
        self.secret_key = secrets.token_urlsafe(32)
        self.token_lifetime = token_lifetime
        self._lock = threading.Lock()
        self._expiry: dict[str, float] = {}

    def login(self, authorization: str, expiration: float | None) -> dict[str, Any]:
        """``auth.login``: takes the credentials, or a token that is still good."""
        kind, _, value = authorization.partition(" ")
        if kind == "Basic":
            if value != self._basic():
                self._check_readable(value)
                raise ApiError(
                    401,
                    22,
                    "Unauthorized (invalid credentials) (failed to locate provided credentials)",
                )
        else:
            self.check(authorization)
        return {
            "token": self._new_token(min(expiration or self.token_lifetime, self.token_lifetime))
        }

    def check(self, authorization: str) -> str:
        """The token of a request; raises the 401 that it deserves."""
        kind, _, token = authorization.partition(" ")
        if not kind:
            raise ApiError(401, 20, "Unauthorized (missing credentials)")
        if kind != "Bearer":
            raise ApiError(401, 10, "Unauthorized (bad authentication header type)")
        with self._lock:
            expiry = self._expiry.get(token)
        if expiry is None:
            raise ApiError(401, 30, "Invalid token (invalid jwt token): reason=Invalid token")
        if expiry <= time.time():
            raise expired()
        return token

    def expire(self, token: str | None = None) -> None:
        """Makes `token`, or every token given so far, expire now."""
        with self._lock:
            for known in [token] if token is not None else list(self._expiry):
                self._expiry[known] = 0.0

    def _new_token(self, lifetime: float) -> str:
        expiry = time.time() + lifetime
        claims = {
            "exp": int(expiry),
            "iat": int(time.time()),
            "jti": secrets.token_hex(8),
            "auth_type": "Bearer",
            "api_version": API_VERSION,
            "server_version": SERVER_VERSION,
            "feature_set": "basic",
            "env": "test",
        }
        # Nobody verifies the signature: the client doesn't, and the server knows its tokens.
        parts = (json.dumps({"alg": "HS256", "typ": "JWT"}), json.dumps(claims), "unsigned")
        token = ".".join(
            base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts
        )
        with self._lock:
            self._expiry[token] = expiry
        return token

    def _basic(self) -> str:
        return base64.b64encode(f"{self.access_key}:{self.secret_key}".encode()).decode()

    @staticmethod
    def _check_readable(value: str) -> None:
        try:
            base64.b64decode(value.encode())
        except (binascii.Error, ValueError) as error:
            raise ApiError(401, 21, f"Unauthorized (malformed credentials) ({error})") from error


def expired() -> ApiError:
    return ApiError(401, 30, "Invalid token (invalid jwt token): reason=Signature has expired")
