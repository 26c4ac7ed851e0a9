#!/usr/bin/env python3
"""Try the playground in a real browser: Debian's Chromium, headless, with Playwright and axe.

    scripts/browser.py --server target/release/evotoken                      # the tests
    scripts/browser.py --server target/release/evotoken --pictures docs/img  # pictures of the page instead

It needs Python, Node with npm, the npm registry, and Chromium (`apt-get install chromium`, or $CHROMIUM). Packages are installed
in a folder outside the checkout (--cache) and kept there.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
from clients import ROOT, Server, node_packages, watched  # noqa: E402

TESTS = ROOT / "tests" / "browser"


def main():
    parser = argparse.ArgumentParser(description="Try the playground in a real browser.")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evotoken-browser"
    parser.add_argument("--server", type=Path, required=True, help="the server's program")
    parser.add_argument("--cache", type=Path, default=cache, help="where packages are installed (%(default)s)")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write pictures of the page to this folder")
    parser.add_argument("names", nargs="*", help="only the tests whose names hold one of these words")
    options = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        sys.exit("there is no Chromium: apt-get install chromium, or say in $CHROMIUM where it is")
    place = node_packages(TESTS, options.cache.resolve())
    # Node looks for packages beside the scripts.
    scripts = [Path(shutil.copy(script, place)) for script in sorted(TESTS.glob("*.mjs"))]
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        command = ["node", place / "pictures.mjs", options.pictures.resolve()]
    else:
        # One file after the other: tests look at the server's counts.
        command = ["node", "--test", "--test-concurrency=1", "--test-reporter=spec", "--test-timeout=900000"]
        command += [f"--test-name-pattern={name}" for name in options.names]
        command += [script for script in scripts if script.name.endswith(".test.mjs")]
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        program = options.server.resolve()
        servers = [
            Server(program, Path(folder) / "open.log"),
            Server(program, Path(folder) / "key.log", EVOTOKEN__SERVER__API_KEYS="sesame"),
        ]
        urls = dict(zip(("EVOTOKEN_URL", "EVOTOKEN_KEY_URL"), (server.url for server in servers)))
        try:
            _, code = watched(command, CHROMIUM=chromium, **urls)
            wrong += [f"it ended with {code}"] if code else []
            wrong += [f"the server: {complaint}" for server in servers for complaint in server.complaints()]
        finally:
            wrong += [f"the server: {complaint}" for server in servers for complaint in server.stop()]
    sys.exit("\n".join(wrong) or None)


if __name__ == "__main__":
    main()
