"""Programs that the other scripts start: on a free port, watched, and ended whatever happens."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START_S = 60
BUNDLED = "Numbers: [{}, {}, {}]\nTarget: {}"


def needed(*programs):
    """End with a sentence if one of the programs is not installed."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    found = {program: shutil.which(program, path=path) for program in programs}
    if missing := [program for program, place in found.items() if place is None]:
        sys.exit(f"not installed: {', '.join(missing)} (Debian: apt-get install prometheus haproxy nginx-light)")
    return found


# What they started ends with them, also when they are told to end.
signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fetch(url, body=None, timeout=60):
    """-> (status, text); an HTTP error is a status like any other."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def completion(number, **more):
    """A completion for the bundled model; every number asks something else."""
    numbers = [3 + number * 7 % 90, 5 + number * 11 % 90, 2 + number * 13 % 90, 1 + number * 17 % 97]
    return {"prompt": BUNDLED.format(*numbers), "max_tokens": 64, **more}


class Program:
    """A running program. Its output goes to a file, which is shown if it ends early."""

    def __init__(self, command, log, environment=None):
        self.command, self.log = [str(part) for part in command], Path(log)
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                self.command, stdout=file, stderr=file, env={**os.environ, **(environment or {})})

    def until(self, url):
        """Wait until a GET of `url` succeeds."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                if fetch(url, timeout=5)[0] == 200:
                    return self
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                sys.exit(f"{' '.join(self.command)} did not start:\n{self.log.read_text()}")
            time.sleep(0.05)

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self):
        """Ask it to end; -> its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(START_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def kill(self):
        """SIGKILL, as the kernel does when memory runs out."""
        self.signal(signal.SIGKILL)
        self.process.wait()


class Server(Program):
    """An evotoken server with the bundled model."""

    def __init__(self, program, log, port=None, environment=None):
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__([program, "--port", self.port], log, environment)
        self.until(f"{self.url}/ready")

    def metric(self, name):
        """The value of a metric without labels."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", fetch(f"{self.url}/metrics")[1], re.MULTILINE)
        return float(found[1])


class Report:
    """What a script shows: on standard output, and in a log."""

    def __init__(self, title):
        self.lines = []
        self.say(f"{title}, {time.strftime('%Y-%m-%d')}")

    def say(self, line=""):
        print(line, flush=True)
        self.lines.append(line)

    def write(self, path):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(self.lines) + "\n")
