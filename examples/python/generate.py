#!/usr/bin/env python3
"""Makes Python code from the public protocol files: generate.py FOLDER [default: generated]."""

import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

PROTO = Path(__file__).resolve().parents[2] / "proto"


def main() -> int:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "generated")
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted(str(file) for file in (PROTO / "linkbreakers/webhooks/v1").glob("*.proto"))
    own = Path(grpc_tools.__file__).parent / "_proto"
    return protoc.main(
        ["protoc", f"-I{PROTO}", f"-I{own}", f"--python_out={folder}", f"--grpc_python_out={folder}", *files]
    )


if __name__ == "__main__":
    sys.exit(main())
