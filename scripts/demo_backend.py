"""A backend as its engineer would write it: it knows nothing of API keys, and verifies one kind of JWT.

Run: demo_backend.py PORT JWKS_URL ISSUER. It answers every request with what it received.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt

port, jwks_url, issuer = int(sys.argv[1]), sys.argv[2], sys.argv[3]
key_set = jwt.PyJWKClient(jwks_url)
served = 0


def verified(authorization: str) -> dict[str, Any]:
    """The claims of a bearer token; raises jwt.PyJWTError."""
    token = authorization.removeprefix("Bearer ")
    key = key_set.get_signing_key_from_jwt(token)
    return jwt.decode(token, key, algorithms=["RS256", "ES256", "EdDSA"], issuer=issuer, options={"require": ["exp"]})


class Api(BaseHTTPRequestHandler):
    """GET /count tells how many requests came; everything else needs a token."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer."""
        global served
        if self.path == "/count":
            return self.answer(200, {"served": served})
        served += 1
        try:
            claims = verified(self.headers.get("Authorization", ""))
        except jwt.PyJWTError as error:
            return self.answer(401, {"error": str(error)})
        return self.answer(200, {"path": self.path, "headers": dict(self.headers), "claims": claims})

    def answer(self, status: int, document: dict[str, Any]) -> None:
        """Send a JSON document."""
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Be quiet: the gateway's decision lines are what there is to see."""


ThreadingHTTPServer(("127.0.0.1", port), Api).serve_forever()
