"""Whether a running server is what its description says: openapi-spec-validator reads the description, schemathesis makes
requests from it (proper ones and others) and compares every reply with it. No reply may be a server error, have a status,
a content type or a body that is not described, or accept what the description forbids.

    pip install -r tests/clients/api_description.txt
    python tests/clients/api_description.py http://127.0.0.1:8000
"""

import subprocess
import sys
import tempfile
import urllib.request
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]


def tool(name, *arguments, folder):
    """Run a program of this environment in a folder of its own, show what it says, and end with it if it fails."""
    program = Path(sys.executable).with_name(name)
    if subprocess.run([program, *arguments], cwd=folder, stdin=subprocess.DEVNULL, timeout=900).returncode:
        sys.exit(f"{name} failed")


def main():
    url = sys.argv[1].rstrip("/")
    packages = ("openapi-spec-validator", "schemathesis")
    print(", ".join(f"{name} {version(name)}" for name in packages), flush=True)
    with urllib.request.urlopen(f"{url}/openapi.yaml") as reply:
        assert reply.read() == (ROOT / "openapi.yaml").read_bytes(), "the server has another description"
    print("ok the server's description is openapi.yaml", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        tool("openapi-spec-validator", ROOT / "openapi.yaml", folder=folder)
        print("ok openapi.yaml is valid OpenAPI 3.1", flush=True)
        config = ROOT / "tests" / "clients" / "schemathesis.toml"
        tool("schemathesis", "--config-file", config, "run", f"{url}/openapi.yaml", folder=folder)
    print("ok every reply is as described", flush=True)


if __name__ == "__main__":
    main()
