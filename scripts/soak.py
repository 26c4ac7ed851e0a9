#!/usr/bin/env python3
"""Does a server under abuse give everything back? Python's standard library only.

    scripts/soak.py [--seconds 300] [--connections 32] [--server target/release/evotoken | --url http://HOST:PORT]

Starts a server on a free port and keeps all connections busy with completions of random length, method, cache and
number of choices, streaming or not. A part of the clients is rude: they leave at once or in the middle of an answer,
send half a request, or send nonsense. During a warm-up of a third of the time (at most 60 s), and as long at the end,
all clients pause every sixth part of it: then no sequence may run or wait, no K/V byte may be in use. Memory at rest
varies by some percent with where the allocator happened to put what is left, so six rests are compared with six: the
median of the last ones may be at most 5 % above that of the first ones. Ends with status 1 if one of these does not hold.
With --url the server is somebody else's, and its memory is not looked at.
"""
import argparse
import collections
import http.client
import json
import random
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

RESTS = 6
IDLE = ["evotoken_sequences_running", "evotoken_sequences_waiting", "evotoken_kv_bytes_used"]


def metrics(address):
    found = {}
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as lines:
        for line in lines:
            name, _, value = line.decode().rpartition(" ")
            if name and not name.startswith("#"):
                found[name] = float(value)
    return found


def memory(pid):
    """Resident memory in KiB."""
    with open(f"/proc/{pid}/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def body(chance):
    numbers = [chance.randint(1, 99) for _ in range(3)]
    diffusion = {"method": chance.choice(["evotoken", "mask"]), "cache": chance.choice(["none", "prefix", "dual"]),
                 "block_length": chance.choice([4, 8, 32])}
    return json.dumps({
        "prompt": f"Numbers: {numbers}\nTarget: {chance.randint(1, 99)}", "max_tokens": chance.choice([8, 16, 64, 200]),
        "n": chance.choice([1, 1, 1, 3]), "temperature": chance.choice([0, 0.8]), "stream": chance.random() < 0.5,
        "diffusion": diffusion})


def request(text):
    head = f"POST /v1/completions HTTP/1.1\r\nHost: soak\r\nContent-Type: application/json\r\nContent-Length: {len(text)}"
    return f"{head}\r\n\r\n{text}".encode()


def polite(address, chance):
    """A whole answer -> its status."""
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=120)
    try:
        connection.request("POST", "/v1/completions", body(chance), {"content-type": "application/json"})
        reply = connection.getresponse()
        text = reply.read()
        if reply.status == 200 and b'"finish_reason"' not in text:
            return "200 without an end"
        return str(reply.status)
    finally:
        connection.close()


def rude(address, chance):
    """A client that does not wait for its answer -> what it did."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        message = request(body(chance))
        deed = chance.choice(["leaves at once", "leaves in the middle", "resets", "half a request", "nonsense"])
        if deed == "half a request":
            message = message[:chance.randrange(1, len(message))]
        elif deed == "nonsense":
            message = bytes(chance.randrange(256) for _ in range(200)) + b"\r\n\r\n"
        connection.sendall(message)
        if deed == "leaves in the middle":
            connection.recv(200)
        elif deed != "nonsense":
            time.sleep(chance.random() * 0.05)
        if deed == "resets":
            # Closing now sends a reset instead of an orderly end.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return deed


def client(address, seed, until, counts):
    chance = random.Random(seed)
    while time.monotonic() < until:
        kind = rude if chance.random() < 0.3 else polite
        try:
            counts[kind(address, chance)] += 1
        except OSError as error:
            counts[f"{kind.__name__}: {type(error).__name__}"] += 1


def storm(address, seconds, connections, seed):
    """Keep so many connections busy for so long -> what happened how often."""
    counts = [collections.Counter() for _ in range(connections)]
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=client, args=(address, seed + i, until, counts[i])) for i in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts, collections.Counter())


def settled(address):
    """The metrics once nothing is left, or after a minute."""
    for _ in range(600):
        found = metrics(address)
        if not any(found[name] for name in IDLE):
            break
        time.sleep(0.1)
    return found


def with_rests(address, pid, seconds, connections, seed):
    """A storm with RESTS pauses -> what happened how often, the metrics and the memory at each pause."""
    counts, found, memories = collections.Counter(), [], []
    for number in range(RESTS):
        counts += storm(address, seconds / RESTS, connections, seed + 1000 * number)
        found.append(settled(address))
        memories.append(memory(pid) if pid else 0)
    return counts, found, memories


def check(address, pid, seconds, connections):
    warm_up = min(60, seconds / 3)
    counts, before, memory_before = with_rests(address, pid, warm_up, connections, 1)
    counts += storm(address, seconds - 2 * warm_up, connections, 101)
    later, after, memory_after = with_rests(address, pid, warm_up, connections, 201)
    counts += later
    print(f"clients: {dict(counts)}")
    failures = []
    for name in IDLE:
        left = [found[name] for found in before + after]
        print(f"{name}: {max(left):.0f} at {len(left)} rests")
        failures += [name] if any(left) else []
    for name in after[-1]:
        if re.match(r"evotoken_sequences_finished_total|evotoken_ticks_total", name):
            print(f"{name}: {after[-1][name]:.0f}")
    if pid:
        growth = statistics.median(memory_after) / statistics.median(memory_before) - 1
        print(f"memory at rest in the warm-up: {memory_before} KiB")
        print(f"memory at rest at the end: {memory_after} KiB ({growth:+.1%} by their medians)")
        failures += ["memory"] if growth > 0.05 else []
    strange = [name for name in counts if name.startswith(("5", "polite", "200 "))]
    print(f"failed: {', '.join(failures + strange)}" if failures or strange else "all given back")
    return not (failures or strange)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--server", default="target/release/evotoken")
    parser.add_argument("--url")
    arguments = parser.parse_args()
    if arguments.url:
        address = arguments.url.removeprefix("http://").rstrip("/")
        sys.exit(not check(address, None, arguments.seconds, arguments.connections))
    server = subprocess.Popen([arguments.server, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        address = re.search(r"http://([\d.]+:\d+)", server.stdout.readline().decode())[1]
        good = check(address, server.pid, arguments.seconds, arguments.connections)
        server.terminate()
        status = server.wait(60)
        print(f"SIGTERM: status {status}")
    finally:
        server.kill()
    sys.exit(not good or status != 0)


if __name__ == "__main__":
    main()
