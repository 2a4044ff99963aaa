"""Owns what Schemathesis must be told beside the document: credentials made for each request, and names of things that are there.

The document says which schemes an operation takes; here each scheme is answered by one function over the prepared request, so that what is signed
is what is sent. Generated values stay in the majority: only some are replaced, or nothing would ever get past the first check.
"""

import base64
import copy
import hashlib
import hmac
import json
import os
import random
import threading
import time
import uuid
from urllib.parse import urlsplit

import requests
import schemathesis
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from schemathesis.core.parameters import ParameterLocation

SERVER = os.environ["CURFEW_SERVER"]
FRIENDS = os.environ["CURFEW_FRIENDS"]
OPERATOR = os.environ["CURFEW_OPERATOR"]
GUARD = os.environ["CURFEW_GUARD"]
SIGNAL_SECRET = os.environ["CURFEW_SIGNAL_SECRET"].encode()
RESOURCE_SERVER = os.environ["CURFEW_RESOURCE_SERVER"]
RESOURCE = os.environ["CURFEW_RESOURCE"]
BASE = os.environ["CURFEW_URL"]
JWK = json.loads(os.environ["CURFEW_KEY"])
AUDIENCE = "legacy"
SOURCE = "github-org"

chance = random.Random(int(os.environ.get("CURFEW_SEED", "1")))


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(text):
    return int.from_bytes(base64.urlsafe_b64decode(text + "=="), "big")


KEY = ec.EllipticCurvePrivateNumbers(
    number(JWK["d"]), ec.EllipticCurvePublicNumbers(number(JWK["x"]), number(JWK["y"]), ec.SECP256R1())
).private_key()
PUBLIC = {name: JWK[name] for name in ("kty", "crv", "x", "y")}


def proof(method, path, token=None):
    """A DPoP proof (RFC 9449 section 4.2)."""
    payload = {"jti": uuid.uuid4().hex, "htm": method, "htu": SERVER + path, "iat": int(time.time())}
    if token is not None:
        payload["ath"] = b64(hashlib.sha256(token.encode()).digest())
    text = ".".join(b64(json.dumps(part).encode()) for part in ({"alg": "ES256", "typ": "dpop+jwt", "jwk": PUBLIC}, payload))
    r, s = utils.decode_dss_signature(KEY.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


class Held:
    """A task of ours and what was issued under it, opened anew now and then: the requests end it in many ways."""

    uses = 20

    def __init__(self):
        self.lock = threading.Lock()
        self.left = 0
        self.value = {"task": "tsk_00000000000000000000000000", "token": "none", "bearer": "none"}

    def now(self):
        with self.lock:
            if self.left <= 0:
                answer = requests.get(f"{FRIENDS}/held", timeout=20)
                if answer.ok:
                    self.value = answer.json()
                self.left = self.uses
            self.left -= 1
            return self.value


held = Held()


class Known:
    """Ids of things that are there, by their prefix; read again every so often through the door that operators use."""

    every = 150
    lists = {"credentials": "crd", "revocations": "rev", "signals": "sig", "quarantines": "qrn", "decisions": "dec"}

    def __init__(self):
        self.lock = threading.Lock()
        self.count = 0
        self.ids = {}

    def one(self, prefix):
        with self.lock:
            if self.count % self.every == 0:
                self.read()
            self.count += 1
            return chance.choice(self.ids.get(prefix) or [f"{prefix}_00000000000000000000000000"])

    def read(self):
        headers = {"Authorization": f"Bearer {OPERATOR}"}
        for name, prefix in self.lists.items():
            answer = requests.get(f"{BASE}/v1/{name}", headers=headers, timeout=20)
            if answer.ok:
                self.ids[prefix] = [thing["id"] for thing in answer.json()[name]]
                if name == "revocations":
                    self.ids["rcp"] = [thing["receipt"] for thing in answer.json()[name]]
        body = {"selector": {"identity": "nobody:1"}}
        plans = [requests.post(f"{BASE}/v1/plans", headers=headers, json=body, timeout=20) for _ in range(2)]
        self.ids["pln"] = [answer.json()["plan"]["id"] for answer in plans if answer.ok]
        name = f"g-{uuid.uuid4().hex[:12]}"
        guard = requests.post(f"{BASE}/v1/guards", headers=headers, json={"name": name}, timeout=20)
        self.ids["grd"] = [guard.json()["guard"]["id"]] if guard.ok else []


known = Known()


# How each scheme of the document is answered, over the request as it will be sent.


def bytes_of(request):
    body = request.body or b""
    return body if isinstance(body, bytes) else body.encode()


def task_token(request, path):
    # The path may name another task: then the answer is that there is none.
    token = held.now()["token"]
    request.headers["Authorization"] = f"DPoP {token}"
    request.headers["DPoP"] = proof(request.method, path, token)


def bare_proof(request, path):
    if "Authorization" not in request.headers:
        request.headers["DPoP"] = proof(request.method, path)


def signal_source(request, path):
    at = str(int(time.time()))
    mac = hmac.new(SIGNAL_SECRET, at.encode() + b"." + bytes_of(request), hashlib.sha256).hexdigest()
    request.headers["Curfew-Source"] = "edr"
    request.headers["Curfew-Signature"] = f"t={at},v1={mac}"


def github(request, path):
    mac = hmac.new(SIGNAL_SECRET, bytes_of(request), hashlib.sha256).hexdigest()
    request.headers["X-Hub-Signature-256"] = f"sha256={mac}"


def header(name, value):
    return lambda request, path: request.headers.update({name: value})


def bearer(text):
    return lambda request, path: request.headers.update({"Authorization": f"Bearer {text()}"})


ANSWERS = {
    "operator": bearer(lambda: OPERATOR),
    "guard": bearer(lambda: GUARD),
    "tokenUnderTest": bearer(lambda: held.now()["bearer"]),
    "resourceServer": lambda request, path: request.headers.update(
        {"Authorization": "Basic " + base64.b64encode(RESOURCE_SERVER.encode()).decode()}
    ),
    "taskToken": task_token,
    "proof": bare_proof,
    "signalSource": signal_source,
    "hookGithub": github,
    # No source of these kinds is registered in the world of the run.
    "hookGitlab": header("webhook-signature", "v1,AAAA"),
    "hookGitlabToken": header("X-Gitlab-Token", SIGNAL_SECRET.decode()),
    "hookBuildkite": header("X-Buildkite-Signature", "timestamp=1,signature=" + "0" * 64),
}


def often():
    return chance.random() < 0.7


class Signed(requests.auth.AuthBase):
    def __init__(self, schemes):
        self.schemes = schemes

    def __call__(self, request):
        path = urlsplit(request.url).path
        for scheme in self.schemes:
            ANSWERS[scheme](request, path)
        return request


@schemathesis.auth()
class ByTheDocument:
    """One of the alternatives that the operation declares, each time another."""

    def get(self, case, context):
        sets = context.operation.definition.raw.get("security") or [{}]
        return list(sets[0] if often() else chance.choice(sets))

    def set(self, case, schemes, context):
        if schemes:
            case._auth = Signed(schemes)


# Some of what is generated is replaced by what is there, and never what was made to be refused.

PREFIXES = {
    "/v1/credentials/": "crd",
    "/v1/decisions/": "dec",
    "/v1/plans/": "pln",
    "/v1/revocations/": "rev",
    "/v1/receipts/": "rcp",
    "/v1/quarantines/": "qrn",
    "/v1/signals/": "sig",
    "/v1/guards/": "grd",
}
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
CAPABILITIES = ["demo/orders-ro", "demo/orders-bearer", "demo/orders-db"]


def evidence():
    return requests.get(f"{FRIENDS}/evidence", timeout=20).json()["evidence"]


@schemathesis.hook
def map_case(context, case):
    def is_ours(location):
        return (case.meta is None or not case.meta.is_negative_at(location)) and often()

    # Copies: the cases after it are made from the same parts, and what they become here is not what their descriptions say.
    for part in ("path_parameters", "query", "headers", "body"):
        setattr(case, part, copy.deepcopy(getattr(case, part)))
    path = context.operation.path
    if is_ours(ParameterLocation.PATH):
        found = names(path, case.path_parameters)
        # What a step before has made goes on to the next; but a task is its holder's, and we hold another one.
        follows = case.meta is not None and case.meta.phase.name == "stateful"
        case.path_parameters.update({name: value for name, value in found.items() if not follows or name == "task"})
    if "audience" in case.query and is_ours(ParameterLocation.QUERY):
        case.query["audience"] = AUDIENCE
        case.query.pop("scope", None)
    if is_ours(ParameterLocation.HEADER):
        replace_headers(path, case.headers)
    if isinstance(case.body, dict):
        shorten(path, case.body)
        if is_ours(ParameterLocation.BODY):
            replace_body(path, case.body)
    return case


def names(path, parameters):
    found = {}
    for name in parameters:
        prefix = next((p for start, p in PREFIXES.items() if path.startswith(start)), None)
        if name == "task":
            found[name] = held.now()["task"]
        elif name == "source":
            found[name] = SOURCE
        elif name == "code":
            found[name] = chance.choice(["malformed", "policy_denied", "unavailable"])
        elif name == "id" and prefix:
            found[name] = known.one(prefix)
    return found


def replace_headers(path, headers):
    if path.startswith("/v1/forward-auth/envoy"):
        headers["X-Curfew-Audience"] = AUDIENCE
        headers.pop("X-Curfew-Scope", None)
    elif path.startswith("/v1/forward-auth"):
        for name in ("X-Forwarded-Method", "X-Forwarded-Uri"):
            headers.pop(name, None)
        headers.update({"X-Original-Method": "GET", "X-Original-URI": "/orders"})
    if path.startswith("/v1/hooks/"):
        headers["X-GitHub-Event"] = chance.choice(["workflow_job", "workflow_run", "ping", "push"])
        headers["X-GitHub-Delivery"] = str(uuid.uuid4())


def shorten(path, body):
    """Whoever may deny everything for a month leaves nothing to ask for. What is no valid time stays as it is."""
    if path in ("/v1/quarantines", "/v1/revocations"):
        for quarantine in (body, body.get("quarantine")):
            if isinstance(quarantine, dict) and isinstance(quarantine.get("ttl_seconds"), int) and 1 < quarantine["ttl_seconds"] <= 2_592_000:
                quarantine["ttl_seconds"] = 1


def replace_body(path, body):
    if path in ("/v1/tasks", "/v1/decisions:explain", "/v1/evidence:explain") and "subject_token" in body:
        body["subject_token"] = evidence()
        body.pop("parent_grant", None)
    if "capabilities" in body:
        body["capabilities"] = CAPABILITIES
    if "capability" in body:
        body["capability"] = chance.choice(CAPABILITIES)
        body.pop("params", None)
    if path.endswith("/credentials"):
        body.pop("subject_token", None)
    if "digest" in body:
        body["digest"] = b64(hashlib.sha256(held.now()["bearer"].encode()).digest())
    if path == "/oauth2/token":
        task = {"type": f"{SERVER}/rar/task/v1", "purpose": "requests of a stranger", "capabilities": CAPABILITIES[:1], "ttl": 60}
        body.clear()
        body.update(
            grant_type="urn:ietf:params:oauth:grant-type:token-exchange",
            subject_token=evidence(),
            subject_token_type=ID_TOKEN,
            authorization_details=json.dumps([task]),
            **({"resource": [RESOURCE]} if often() else {}),
        )
    elif path.startswith("/oauth2/"):
        body["token"] = held.now()["bearer"]
        for name in list(body):
            if name != "token":
                body.pop(name)


@schemathesis.hook
def filter_case(context, case):
    # A stream has no end: it is held against its description by the suite of the feed.
    return "event-stream" not in str(case.headers.get("Accept", ""))
