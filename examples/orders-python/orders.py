"""A resource server in Python's standard library alone: it asks Curfew's introspection about every request (RFC 7662) and keeps no answer."""

import base64
import hmac
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ISSUER = os.environ["CURFEW_ISSUER"]
AUDIENCE = os.environ["CURFEW_AUDIENCE"]
# Another address of the same Curfew, where its public name leads elsewhere.
CURFEW = os.environ.get("CURFEW_URL", ISSUER).rstrip("/")
# The audience's name in Curfew's configuration, and its secret.
CLIENT = os.environ["CURFEW_CLIENT"]
SECRET = os.environ["CURFEW_CLIENT_SECRET"]

ORDERS = [{"id": 1, "item": "lamp"}, {"id": 2, "item": "chair"}]
WITHIN_SECONDS = 3
MAX_ANSWER = 65_536


class Refused(Exception):
    def __init__(self, status, error, says):
        super().__init__(says)
        self.status, self.error, self.says = status, error, says


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """Wherever a redirect leads, our secret and the caller's token would go there."""

    def redirect_request(self, *_):
        return None


# No proxy of the environment either: what is asked goes to Curfew alone.
opener = urllib.request.build_opener(NoRedirects, urllib.request.ProxyHandler({}))


def introspect(token):
    """What Curfew says of it now. No answer is no pass."""
    # RFC 6749 section 2.3.1: both parts are form-encoded before they are joined.
    pair = ":".join(urllib.parse.quote(part, safe="") for part in (CLIENT, SECRET))
    request = urllib.request.Request(
        f"{CURFEW}/oauth2/introspect",
        data=urllib.parse.urlencode({"token": token, "token_type_hint": "access_token"}).encode(),
        headers={"Authorization": "Basic " + base64.b64encode(pair.encode()).decode(), "Accept": "application/json"},
    )
    try:
        with opener.open(request, timeout=WITHIN_SECONDS) as answer:
            body = json.loads(answer.read(MAX_ANSWER + 1)[:MAX_ANSWER])
    except (OSError, ValueError) as cause:
        raise Refused(503, "temporarily_unavailable", "the issuer could not be asked") from cause
    if not isinstance(body, dict) or not isinstance(body.get("active"), bool):
        raise Refused(503, "temporarily_unavailable", "the issuer did not say")
    return body


def same(seen, wanted):
    return isinstance(seen, str) and hmac.compare_digest(seen.encode(), wanted.encode())


def admit(headers, scope):
    """Who asks. Raises Refused for everything but one bearer token, live, for us, with the scope, and bound to no key."""
    given = headers.get_all("Authorization") or []
    if len(given) != 1:
        raise Refused(401, None if not given else "invalid_token", "one access token is needed")
    scheme, _, token = given[0].partition(" ")
    if scheme.lower() != "bearer":
        raise Refused(401, None, "a bearer token is needed: this server cannot check a proof")
    if not token or len(token) > 8_192 or not token.isascii() or " " in token:
        raise Refused(401, "invalid_token", "the token is not one that is accepted here")
    seen = introspect(token)
    if not seen["active"]:
        raise Refused(401, "invalid_token", "the token is not live, or not for this server")
    if not (same(seen.get("iss"), ISSUER) and same(seen.get("aud"), AUDIENCE)):
        raise Refused(401, "invalid_token", "the token is of another issuer or for another server")
    # Bound to a key: whoever only copied it would pass here, since nobody checks the proof.
    if "cnf" in seen or seen.get("token_type") != "Bearer":
        raise Refused(401, "invalid_token", "the token is bound to a key and was presented as a bearer")
    if scope not in str(seen.get("scope", "")).split(" "):
        raise Refused(403, "insufficient_scope", f"the scope {scope} is needed")
    return seen


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # A connection that says nothing is let go. Seconds.
    timeout = 30

    def do_GET(self):
        if self.path != "/orders":
            return self.answer(404, {"error": "not_found"})
        try:
            seen = admit(self.headers, "orders:read")
        except Refused as no:
            return self.refuse(no)
        self.answer(200, {"for": seen["sub"], "orders": ORDERS})

    def refuse(self, no):
        headers = {"Cache-Control": "no-store"}
        if no.status == 503:
            headers["Retry-After"] = "1"
        else:
            headers["WWW-Authenticate"] = f'Bearer error="{no.error}", error_description="{no.says}"' if no.error else "Bearer"
        self.answer(no.status, {"error": no.error or "token_missing", "error_description": no.says}, headers)

    def answer(self, status, body, headers=()):
        text = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(text)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        """Of requests nothing is logged: a token in a log outlives its task."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8792"))), Handler)
    print(f"listening on http://127.0.0.1:{server.server_address[1]}/orders for {AUDIENCE}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit(0)
