#!/usr/bin/env python3
"""Eight streaming clients that differ in prompt, length, method and cache: do they get what each gets alone?

    scripts/concurrent_clients.py [--url http://localhost:8000] [--rounds 4]

Prints per client whether its text was the same, and the mean number of sequences per tick while all eight ran, from
/metrics. Ends with status 1 if a text differs. Python's standard library only.
"""
import argparse
import json
import sys
import threading
import time
import urllib.request

CLIENTS = [
    {"max_tokens": 64, "diffusion": {"method": "evotoken", "block_length": 64, "steps": 64, "cache": "dual"}},
    {"max_tokens": 96, "diffusion": {"method": "mask", "block_length": 96, "steps": 96, "cache": "prefix"}},
    {"max_tokens": 80, "diffusion": {"method": "evotoken", "block_length": 40, "steps": 80, "cache": "none"}},
    {"max_tokens": 128, "diffusion": {"method": "mask", "block_length": 128, "steps": 64, "cache": "none"}},
    {"max_tokens": 70, "diffusion": {"method": "evotoken", "block_length": 70, "steps": 70, "cache": "prefix"}},
    {"max_tokens": 100, "diffusion": {"method": "evotoken", "block_length": 50, "steps": 100, "boundary": "lagged"}},
    {"max_tokens": 72, "temperature": 0.8, "diffusion": {"method": "mask", "block_length": 72, "steps": 72}},
    {"max_tokens": 90, "temperature": 0.8, "diffusion": {"method": "evotoken", "block_length": 90, "steps": 90}},
]


def stream(url, client):
    """-> (text, number of chunks with text, finish reason)"""
    numbers = [7 + 11 * client, 95 - 4 * client, 21 + client]
    body = {"prompt": f"Numbers: {numbers}\nTarget: {12 + 6 * client}", "stream": True, "seed": client}
    data = json.dumps(body | CLIENTS[client]).encode()
    request = urllib.request.Request(f"{url}/v1/completions", data, {"content-type": "application/json"})
    text, chunks, reason, done = "", 0, None, False
    with urllib.request.urlopen(request, timeout=300) as lines:
        for line in lines:
            line = line.decode().strip()
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                choice = json.loads(line[6:])["choices"][0]
                text += choice["text"]
                chunks += bool(choice["text"])
                reason = choice["finish_reason"] or reason
    assert done, f"client {client}: the stream broke off"
    return text, chunks, reason


def ticks(url):
    """-> (ticks so far, sequences in all of them)"""
    found = {}
    with urllib.request.urlopen(f"{url}/metrics") as lines:
        for line in lines:
            name, _, value = line.decode().partition(" ")
            if name.startswith("evotoken_tick_sequences_"):
                found[name] = value
    return float(found["evotoken_tick_sequences_count"]), float(found["evotoken_tick_sequences_sum"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    started = time.perf_counter()
    alone = [stream(arguments.url, client) for client in range(len(CLIENTS))]
    alone_s = time.perf_counter() - started
    runs, same = [0] * len(CLIENTS), [0] * len(CLIENTS)
    barrier = threading.Barrier(len(CLIENTS))

    def run(client):
        barrier.wait()
        # Quick clients go on until the slowest is done, so that all eight are there all the time.
        while min(runs) < arguments.rounds:
            same[client] += stream(arguments.url, client) == alone[client]
            runs[client] += 1

    before = ticks(arguments.url)
    started = time.perf_counter()
    threads = [threading.Thread(target=run, args=(client,)) for client in range(len(CLIENTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together_s = time.perf_counter() - started
    after = ticks(arguments.url)
    for client, (text, chunks, reason) in enumerate(alone):
        print(f"client {client}: {same[client]} of {runs[client]} the same as alone; {reason}, {chunks} chunks: {text!r}")
    count = after[0] - before[0]
    print(f"{count:.0f} ticks, {(after[1] - before[1]) / count:.2f} sequences per tick on average")
    print(f"8 answers one after the other: {alone_s:.2f} s; {sum(runs)} answers at once: {together_s:.2f} s")
    sys.exit(runs != same)


if __name__ == "__main__":
    main()
