#!/usr/bin/env python3
"""Gives requests to a verifier: run.py VERIFIER.py CASES.json (secret|publicKey).

VERIFIER.py has `genuine(key, headers, body)`, as docs/verifying.md shows it. Prints what it says of
each case, as JSON: {"name": true, …}. An error of the verifier ends the program: to refuse is to
return False.
"""

import base64
import importlib.util
import json
import pathlib
import sys

verifier, cases, key = sys.argv[1:]
spec = importlib.util.spec_from_file_location("verifier", verifier)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
said = {}
for case in json.loads(pathlib.Path(cases).read_text(encoding="utf-8")):
    said[case["name"]] = module.genuine(case[key], case["headers"], base64.b64decode(case["body"]))
print(json.dumps(said))
