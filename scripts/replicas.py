#!/usr/bin/env python3
"""Three servers behind a real load balancer, HAProxy or nginx with the files of deploy/: what clients see while one is drained, one
is killed, and both come back.

    scripts/replicas.py --server target/release/evotoken [--log docs/logs/replicas.txt] [haproxy] [nginx]
    scripts/replicas.py --server target/release/evotoken --speed    # tokens per second of 1, 2 and 3 replicas

Needs Debian's packages haproxy and nginx-light. Counts are of requests whose first byte was sent in a phase.
"""

import argparse
import collections
import http.client
import itertools
import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from running import ROOT, START_S, Program, Report, Server, completion, fetch, free_port, needed

CLIENTS = 6
# Between a client's answer and its next request: the machine must not be what fails.
PAUSE_S = 0.15
PHASE_S = 4
# nginx has no health checks: it tries a server that failed again after fail_timeout.
BACK_S = 20
# Servers say that they will end, and take requests for so long, as a load balancer needs to notice.
DELAY_S = 4
# An answer that takes seconds: every step decides one token, and recomputes the canvas.
SLOW = {"max_tokens": 160, "ignore_eos": True, "diffusion": {"steps": 160, "block_length": 8, "cache": "none"}}


class Sent:
    """One request and what became of it."""

    def __init__(self, port, number, body):
        self.body, self.started = body, time.monotonic()
        self.status, self.server, self.error = None, None, None
        try:
            self.run(port, number)
        except (OSError, http.client.HTTPException) as error:
            self.error = f"{type(error).__name__}: {error}"
        self.ended = time.monotonic()

    def run(self, port, number):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        headers = {"content-type": "application/json", "x-request-id": str(number)}
        connection.request("POST", "/v1/completions", json.dumps(self.body), headers)
        reply = connection.getresponse()
        # nginx names every server that it tried; the last one answered.
        self.status = reply.status
        self.server = (reply.getheader("x-served-by") or "").split(",")[-1].strip()
        text = self.read(reply)
        connection.close()
        if reply.status != 200:
            self.error = f"status {reply.status}: {text[:120]}"
        elif self.body.get("stream") and not text.rstrip().endswith("data: [DONE]"):
            self.error = f"the stream broke off: {text[-80:]!r}"
        elif not self.body.get("stream"):
            json.loads(text)

    def read(self, reply):
        return reply.read().decode()


class Watched(Sent):
    """A stream that tells when its first chunk came."""

    def __init__(self, port, number, body):
        self.first = threading.Event()
        self.thread = threading.Thread(target=super().__init__, args=(port, number, body))
        self.thread.start()

    def read(self, reply):
        text = ""
        for line in reply:
            text += line.decode()
            if line.startswith(b"data: "):
                self.first.set()
        return text


class Balancer:
    """A load balancer with the project's configuration, its addresses changed."""

    def __init__(self, name, folder, servers):
        self.port = free_port()
        self.name = name
        addresses = iter(server.port for server in servers)
        file = ROOT / "deploy" / name / ("haproxy.cfg" if name == "haproxy" else "evotoken.conf")
        text = re.sub(r"127\.0\.0\.1:800([0-3])", lambda found: f"127.0.0.1:{self.port if found[1] == '0' else next(addresses)}",
                      file.read_text())
        configuration = folder / file.name
        if name == "haproxy":
            command = [needed("haproxy")["haproxy"], "-W", "-db", "-f", configuration]
        else:
            text = (f"daemon off; pid {folder}/nginx.pid; error_log stderr; events {{}}\nhttp {{ access_log off;\n"
                    f"client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;\n"
                    f"uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n{text}}}\n")
            command = [needed("nginx")["nginx"], "-e", "stderr", "-p", folder, "-c", configuration]
        configuration.write_text(text)
        self.program = Program(command, folder / f"{name}.log").until(f"http://127.0.0.1:{self.port}/ready")

    def version(self):
        command = [self.program.command[0], "-v"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return (done.stdout + done.stderr).splitlines()[0].split(" - ")[0]


class Load:
    """Clients that ask one request after another, half of them streams, until they are told to stop."""

    def __init__(self, port):
        self.port, self.done, self.stop, self.lock = port, [], threading.Event(), threading.Lock()
        self.numbers = itertools.count()
        self.threads = [threading.Thread(target=self.client) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def client(self):
        while not self.stop.is_set():
            number = next(self.numbers)
            sent = Sent(self.port, number, completion(number, stream=number % 2 == 0))
            with self.lock:
                self.done.append(sent)
            time.sleep(PAUSE_S)

    def phase(self, until=None, least_s=PHASE_S):
        """The requests that are sent from now on, for some seconds and until `until` says so."""
        start = time.monotonic()
        while time.monotonic() < start + least_s or not (until is None or until()):
            if time.monotonic() > start + START_S:
                sys.exit("what a phase waits for did not happen")
            time.sleep(0.05)
        return start, time.monotonic()

    def close(self):
        self.stop.set()
        for thread in self.threads:
            thread.join()


class Trial:
    """One balancer's phases."""

    def __init__(self, report, balancer, servers, start):
        self.report, self.balancer, self.servers, self.start = report, balancer, servers, start
        self.names = {name: f"server {number}" for number, server in enumerate(servers, 1)
                      for name in (f"127.0.0.1:{server.port}", ("one", "two", "three")[number - 1])}
        self.wrong, self.phases = [], []
        self.load = Load(balancer.port)

    def served(self, number, since):
        """Whether server `number` has answered something that was sent after `since`."""
        with self.load.lock:
            return any(sent.started > since and self.names.get(sent.server) == f"server {number}"
                       for sent in self.load.done)

    def phase(self, name, **more):
        self.phases.append((name, self.load.phase(**more)))

    def unbuffered(self):
        """A stream's first chunk must arrive while the server still works on the rest."""
        stream = Watched(self.balancer.port, "slow", completion(0, stream=True, **SLOW))
        arrived = stream.first.wait(START_S)
        before_end = arrived and stream.thread.is_alive()
        running = sum(server.metric("evotoken_sequences_running") for server in self.servers)
        stream.thread.join()
        seconds = stream.ended - stream.started
        self.report.say(f"  a stream of {seconds:.1f} s: first chunk before its end: {'yes' if before_end else 'NO'} "
                        f"({running:.0f} sequences still ran)")
        if not before_end or stream.error:
            self.wrong.append(f"a stream is held back or failed: {stream.error}")

    def back(self, number):
        """Start server `number` again; it must get requests."""
        since = time.monotonic()
        self.servers[number - 1] = self.start(number)
        self.phase(f"server {number} started again, until it answers", until=lambda: self.served(number, since), least_s=1)

    def drain(self, number, delay):
        """Ask a server to end, with a stream open on it; nobody may notice."""
        streams = self.streams(number)[f"server {number}"]
        server = self.servers[number - 1]
        server.signal(signal.SIGTERM)
        self.phase(f"server {number} drained ({delay})", until=lambda: server.process.poll() is not None)
        for stream in streams:
            stream.thread.join()
        code = server.process.wait()
        whole = sum(not stream.error for stream in streams)
        self.report.say(f"  slow streams that were open on server {number} when it was drained: {len(streams)}, whole: {whole}; the "
                        f"server ended with {code}")
        if whole < len(streams) or code:
            self.wrong.append("a drain was noticed")

    def streams(self, *numbers):
        """Slow streams that have begun, one on each of these servers at least; -> them all, by server."""
        open_on = collections.defaultdict(list)
        for _ in range(40):
            stream = Watched(self.balancer.port, "slow", completion(1, stream=True, **SLOW))
            if not stream.first.wait(START_S):
                sys.exit(f"a stream did not begin: {stream.error}")
            open_on[self.names.get(stream.server)].append(stream)
            if all(any(one.thread.is_alive() for one in open_on[f"server {number}"]) for number in numbers):
                return open_on
        sys.exit(f"no stream on one of the servers {numbers}")

    def kill(self, number):
        """SIGKILL with streams open on all servers."""
        open_on = self.streams(1, 2, 3)
        running = {server: [one for one in streams if one.thread.is_alive()] for server, streams in open_on.items()}
        killed = time.monotonic()
        self.servers[number - 1].kill()
        self.phase(f"server {number} killed (kill -9)")
        for server, streams in sorted(running.items()):
            for stream in streams:
                stream.thread.join()
            whole = sum(not stream.error for stream in streams)
            self.report.say(f"  slow streams that were open on {server}: {len(streams)}, whole: {whole}")
            if whole != (0 if server == f"server {number}" else len(streams)):
                self.wrong.append(f"the kill of server {number}: {[stream.error for stream in streams]} on {server}")
        return killed

    def run(self):
        self.phase("three servers", least_s=6)
        self.unbuffered()
        self.drain(1, f"{DELAY_S} s of delay")
        self.back(1)
        killed = self.kill(2)
        self.back(2)
        self.drain(3, "no delay")
        self.back(3)
        self.load.close()
        self.counts(killed)

    def counts(self, killed):
        """Say what became of all requests but the slow streams. One in flight belongs to the phase in which it was sent."""
        say = self.report.say
        say("\n  | phase | sent | succeeded | failed | of server 1, 2, 3 |\n  |---|---|---|---|---|")
        names = ("server 1", "server 2", "server 3")
        for at, (name, (start, _)) in enumerate(self.phases):
            stop = self.phases[at + 1][1][0] if at + 1 < len(self.phases) else float("inf")
            sent = [sent for sent in self.load.done if start <= sent.started < stop]
            failed = sum(one.error is not None for one in sent)
            shares = collections.Counter(self.names.get(one.server) for one in sent if not one.error)
            say(f"  | {name} | {len(sent)} | {len(sent) - failed} | {failed} | {', '.join(str(shares[name]) for name in names)} |")
        failed = [one for one in self.load.done if one.error]
        victims = [one for one in failed if one.started < killed <= one.ended and one.body.get("stream")
                   and self.names.get(one.server) == "server 2"]
        say(f"\n  failed of the {len(self.load.done)}: {len(failed)}, of which streams of server 2 when it was killed: {len(victims)}")
        self.wrong += [f"failed without need: {one.error} ({one.server})" for one in failed if one not in victims]
        start, stop = self.phases[0][1]
        shares = collections.Counter(self.names.get(one.server) for one in self.load.done if start <= one.started < stop)
        if min(shares[name] for name in names) < sum(shares.values()) / 6:
            self.wrong.append(f"requests are not spread: {shares}")


def tried(report, name, options, folder):
    """All phases with one balancer; -> what went wrong."""
    programs = []

    def start(number, port=None, delay=0):
        log = folder / f"server-{number}-{len(programs)}.log"
        environment = {"EVOTOKEN__SERVER__DRAIN_DELAY_S": str(delay), "EVOTOKEN__SERVER__DRAIN_TIMEOUT_S": "120"}
        programs.append(Server(options.server, log, port, environment))
        return programs[-1]

    try:
        servers = [start(number, delay=DELAY_S if number == 1 else 0) for number in (1, 2, 3)]
        ports = [server.port for server in servers]
        balancer = Balancer(name, folder, servers)
        programs.insert(0, balancer.program)
        report.say(f"\n{balancer.version()}")
        trial = Trial(report, balancer, servers, lambda number: start(number, ports[number - 1]))
        try:
            trial.run()
        finally:
            trial.load.close()
        return trial.wrong
    finally:
        for program in programs:
            program.stop()


def speed(report, options, folder):
    """Tokens per second through HAProxy with 1, 2, 3 servers, by scripts/throughput.py."""
    for count in (1, 2, 3):
        programs = [Server(options.server, folder / f"speed-{count}-{number}.log") for number in range(count)]
        # Servers that are not there are out of the balance.
        absent = [type("Absent", (), {"port": free_port()}) for _ in range(3 - count)]
        try:
            balancer = Balancer("haproxy", folder, [*programs, *absent])
            programs.insert(0, balancer.program)
            time.sleep(3)
            command = [sys.executable, ROOT / "scripts" / "throughput.py", "--url", f"http://127.0.0.1:{balancer.port}",
                       "--requests", "96", "--concurrency", "1,8,24"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            report.say(f"\n{count} server{'s' if count > 1 else ''}\n{done.stdout.strip()}")
        finally:
            for program in programs:
                program.stop()
    return []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", type=Path, required=True, help="the server's program")
    parser.add_argument("--log", type=Path, help="a file for what is printed")
    parser.add_argument("--speed", action="store_true", help="measure tokens per second of 1, 2 and 3 replicas")
    parser.add_argument("names", nargs="*", metavar="BALANCER", help="haproxy, nginx; default: both")
    options = parser.parse_args()
    names = options.names or ["haproxy", "nginx"]
    if unknown := set(names) - {"haproxy", "nginx"}:
        parser.error(f"no such load balancer: {', '.join(unknown)}")
    needed(*names)
    report = Report(f"scripts/replicas.py{' --speed' if options.speed else ''}")
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        if options.speed:
            wrong += speed(report, options, Path(folder))
        for name in [] if options.speed else names:
            place = Path(folder) / name
            place.mkdir()
            wrong += [f"{name}: {line}" for line in tried(report, name, options, place)]
    report.say("\n" + ("FAILED: " + "; ".join(wrong[:12]) if wrong else "all as claimed"))
    report.write(options.log)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
