#!/usr/bin/env python3
"""Run other people's clients against a server: each gets a server of its own and its own environment.

    scripts/clients.py --server target/release/evotoken                # all of them
    scripts/clients.py --server target/release/evotoken --light        # those that install in a minute
    scripts/clients.py --server target/release/evotoken curl litellm_python

A client is a script of tests/clients that gets the server's address, prints a line per feature, and ends with an error at the
first that fails. After it, the server must have answered nothing with a 5xx, have nothing left to do, and stop when
asked. What is installed goes to a folder outside the checkout (--cache) and is kept there. --logs keeps what is printed.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CLIENTS = ROOT / "tests" / "clients"
LIGHT = ["openai_python", "openai_node", "curl"]
HEAVY = ["langchain_python", "litellm_python", "lm_evaluation", "aiperf_load", "api_description"]
START_S = 60
CLIENT_S = 1200


def installed(folder, sources, install):
    """A folder made by `install` from source files; made anew when they change."""
    content = b"".join(source.read_bytes() for source in sources)
    place = folder.with_name(f"{folder.name}-{hashlib.sha256(content).hexdigest()[:12]}")
    if not (place / "complete").exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        install(place)
        (place / "complete").touch()
    return place


def node_packages(folder, place):
    """A folder with the packages that `folder` locks."""

    def npm(place):
        for file in ("package.json", "package-lock.json"):
            shutil.copy(folder / file, place)
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=place, check=True)

    return installed(place, [folder / "package-lock.json"], npm)


def command_of(name, cache):
    """How a client is started, without the server's address; installs what it needs."""
    if (script := CLIENTS / f"{name}.sh").exists():
        return [script]
    if (folder := CLIENTS / name).is_dir():
        place = node_packages(folder, cache / name)
        # Node looks for packages beside the script.
        return [place / "node_modules" / ".bin" / "node", shutil.copy(folder / "client.mjs", place)]
    requirements = CLIENTS / f"{name}.txt"

    def pip(place):
        venv.create(place, with_pip=True)
        subprocess.run([place / "bin" / "pip", "install", "--quiet", "-r", requirements], check=True)

    return [installed(cache / name, [requirements], pip) / "bin" / "python", CLIENTS / f"{name}.py"]


class Server:
    """A running server on a free port; `settings` are variables of its environment."""

    def __init__(self, program, log, **settings):
        self.log = log
        with log.open("w") as file:
            environment = {**os.environ, **settings}
            self.process = subprocess.Popen([program, "--port", "0"], stdout=file, stderr=file, env=environment)
        deadline = time.monotonic() + START_S
        while not (ready := re.search(r"ready address=([\d.]+:\d+)", log.read_text())):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                sys.exit(f"{program} did not start:\n{log.read_text()}")
            time.sleep(0.05)
        self.url = f"http://{ready[1]}"

    def complaints(self):
        """What a server that has nothing to do any more should not say of itself."""
        states = ("evotoken_sequences_running ", "evotoken_sequences_waiting ", "evotoken_kv_bytes_used ")
        deadline = time.monotonic() + START_S
        while True:
            with urllib.request.urlopen(f"{self.url}/metrics") as reply:
                lines = reply.read().decode().splitlines()
            busy = [line for line in lines if line.startswith(states) and not line.endswith(" 0")]
            if not busy or time.monotonic() > deadline:
                failed = re.compile(r'evotoken_http_requests_total\{.*status="5\d\d"')
                return busy + [line for line in lines if failed.match(line)]
            time.sleep(0.1)

    def stop(self):
        """Ask it to stop; how it did not, if it did not."""
        self.process.terminate()
        try:
            code = self.process.wait(START_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return ["it did not stop when asked"]
        return [f"it ended with {code}"] if code else []


def watched(command, **settings):
    """Run a command, show its lines, and return them with its exit status; `settings` are variables of its environment."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1", **settings}
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipe)
    watchdog = threading.Timer(CLIENT_S, process.kill)
    watchdog.start()
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    code = process.wait()
    watchdog.cancel()
    return lines, code


def tried(name, options):
    """Run one client; returns what it printed and what went wrong."""
    command = command_of(name, options.cache)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(options.server, Path(folder) / "server.log")
        wrong = []
        try:
            lines, code = watched([*command, server.url])
            wrong += [f"it ended with {code}"] if code else []
            wrong += [f"the server: {complaint}" for complaint in server.complaints()]
        finally:
            wrong += [f"the server: {complaint}" for complaint in server.stop()]
        if wrong:
            print(*server.log.read_text().splitlines()[-40:], *wrong, sep="\n")
    # Logs are read elsewhere: no ports, and no places of this machine.
    text = "".join(lines).replace(server.url, "http://localhost:8000")
    return text.replace(f"{options.cache}/", "").replace(f"{ROOT}/", ""), wrong


def main():
    parser = argparse.ArgumentParser(description="Run other people's clients against a server.")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evotoken-clients"
    parser.add_argument("--server", type=Path, required=True, help="the server's program")
    parser.add_argument("--cache", type=Path, default=cache, help="where clients are installed (%(default)s)")
    parser.add_argument("--logs", type=Path, help="a folder for what the clients print")
    parser.add_argument("--light", action="store_true", help=f"only {', '.join(LIGHT)}")
    parser.add_argument("names", nargs="*", metavar="CLIENT", help=f"{', '.join(LIGHT + HEAVY)}; default: all")
    options = parser.parse_args()
    names = options.names or (LIGHT if options.light else LIGHT + HEAVY)
    if unknown := set(names) - set(LIGHT + HEAVY):
        parser.error(f"no such client: {', '.join(unknown)}")
    options.server, options.cache = options.server.resolve(), options.cache.resolve()
    program = subprocess.run([options.server, "--version"], capture_output=True, text=True, check=True)
    results = {}
    for name in names:
        print(f"-- {name}", flush=True)
        start = time.monotonic()
        text, wrong = tried(name, options)
        features = len(re.findall("^ok ", text, re.MULTILINE))
        result = f"FAILED: {'; '.join(wrong)}" if wrong else f"{features} features passed"
        results[name] = f"{result} in {time.monotonic() - start:.0f} s, with {text.partition(chr(10))[0]}"
        if options.logs:
            options.logs.mkdir(parents=True, exist_ok=True)
            head = f"scripts/clients.py {name}, {time.strftime('%Y-%m-%d')}, {program.stdout.strip()}\n\n"
            (options.logs / f"client-{name}.txt").write_text(f"{head}{text}\n{result}\n")
    print("-- clients: summary")
    for name, result in results.items():
        print(f"{name}: {result}")
    sys.exit(any("FAILED" in result for result in results.values()))


if __name__ == "__main__":
    main()
