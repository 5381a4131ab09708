"""What Schemathesis has to know beyond the description: whose token opens what, ids of things that are
there, and that nothing may be named that is not of this machine. Told by the environment that
scripts/fuzz-api makes."""

import ipaddress
import json
import os
import random
import threading
from urllib.parse import urlsplit

import schemathesis

STAGE = json.loads(os.environ["FUZZ_STAGE"])
COUNT_FILE = os.environ["FUZZ_COUNT_FILE"]
# How often a path names something that is there.
KNOWN = 0.6

draw = random.Random(STAGE["seed"])
lock = threading.Lock()


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    """Half of all paths are about nothing; the others about something that is there."""
    if path_parameters and "id" in path_parameters and draw.random() < KNOWN:
        kind = STAGE["ids"].get(kind_of(context.operation.path))
        if kind:
            return {**path_parameters, "id": draw.choice(kind)}
    return path_parameters


def kind_of(path):
    parts = path.strip("/").split("/")
    return "operator-" + parts[2] if parts[1:2] == ["operator"] else parts[1]


@schemathesis.hook
def map_body(context, body):
    """Nothing outside of this machine is ever called: names do not resolve here, and addresses are
    replaced. Tokens that are made do not matter; the one in use is not among the ids."""
    if isinstance(body, dict) and isinstance(body.get("endpointUrl"), str):
        try:
            host = urlsplit(body["endpointUrl"]).hostname or ""
            ipaddress.ip_address(host)
        except ValueError:
            return body
        return {**body, "endpointUrl": "https://example.invalid/hook"}
    return body


@schemathesis.hook
def before_call(context, case, kwargs):
    """The operator's calls take the operator's token."""
    security = case.operation.definition.raw.get("security")
    if security:
        token = STAGE["operator_token"] if "operatorToken" in security[0] else STAGE["token"]
        case.headers = {**(case.headers or {}), "Authorization": "Bearer " + token}


@schemathesis.hook
def after_call(context, case, response):
    """Every request counts once, in one byte of a file."""
    with lock, open(COUNT_FILE, "ab") as count:
        count.write(b".")
