#!/usr/bin/env python3
"""How long do running streams wait when a long prompt arrives? Python's standard library only.

    scripts/random_model.py --out /tmp/random
    scripts/stall.py --model /tmp/random [--server target/release/evotoken]
    scripts/stall.py --url http://localhost:8000 --prompt-tokens 300

Keeps so many clients streaming, each its next answer as soon as it has the last, with a fixed number of steps per block.
In the middle one long prompt arrives, after which everything goes on until it has its answer. Prints the largest gap
between two chunks of any stream before and from then on, in milliseconds and in ticks (forward passes) of the time before,
and how long the long prompt waited for its first block. Start the server with a context that holds the prompt.
"""
import argparse
import json
import re
import subprocess
import threading
import time
import urllib.request


def post(url, body):
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    return urllib.request.urlopen(request, timeout=3600)


def chunks(url, prompt, tokens, block, steps):
    """The times at which chunks with text come."""
    diffusion = {"block_length": block, "steps": steps * -(-tokens // block)}
    body = {"prompt": prompt, "max_tokens": tokens, "stream": True, "diffusion": diffusion}
    done = False
    with post(url, body) as lines:
        for line in lines:
            if line.startswith(b"data: [DONE]"):
                done = True
            elif line.startswith(b"data: "):
                chunk = json.loads(line[6:])
                assert "error" not in chunk, chunk
                yield time.perf_counter()
    assert done, "a stream broke off"


def ids(seed, count):
    """A prompt of ordinary tokens: the first and the last of a vocabulary are often special."""
    return [10 + (seed * 31 + i * 7) % 400 for i in range(count)]


class Streams:
    """Clients that stream until they are told to stop, and the gaps between their chunks as (end, length)."""

    def __init__(self, url, count, arguments):
        self.gaps, self.lock, self.go_on, self.failures = [], threading.Lock(), True, []
        self.threads = [threading.Thread(target=self.client, args=(url, i, arguments)) for i in range(count)]
        for thread in self.threads:
            thread.start()

    def client(self, url, number, a):
        try:
            while self.go_on:
                last = None
                for now in chunks(url, ids(number, a.stream_prompt), a.max_tokens, a.block_length, a.steps):
                    if last is not None:
                        with self.lock:
                            self.gaps.append((now, now - last))
                    last = now
        except Exception as error:  # Whatever it is, the main thread must hear of it.
            self.failures.append(error)

    def stop(self):
        self.go_on = False
        for thread in self.threads:
            thread.join()
        if self.failures:
            raise self.failures[0]


def ticks(url):
    """-> (ticks so far, seconds in them)"""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as reply:
        text = reply.read().decode()

    def total(suffix):
        return sum(float(value) for value in re.findall(rf"^evotoken_step_seconds_{suffix}\{{[^}}]*\}} (\S+)$", text, re.M))

    return total("count"), total("sum")


def measure(url, a):
    streams = Streams(url, a.streams, a)
    time.sleep(a.seconds / 3)
    first, begin = ticks(url), time.perf_counter()
    time.sleep(a.seconds)
    last, arrival = ticks(url), time.perf_counter()
    tick = (last[1] - first[1]) / max(last[0] - first[0], 1)
    answer = list(chunks(url, ids(99, a.prompt_tokens), 2 * a.block_length, a.block_length, a.steps))
    streams.stop()
    before = [gap for end, gap in streams.gaps if begin <= end < arrival]
    # A gap that began before the arrival and ended behind it counts here: the arrival may have made it longer.
    behind = [gap for end, gap in streams.gaps if arrival <= end <= answer[-1]]
    assert before and behind, "too few chunks: give --seconds more"
    print(f"tick: {1e3 * tick:.1f} ms on average, {last[0] - first[0]:.0f} ticks")
    print(f"| {a.streams} streams | chunks | largest gap, ms | in ticks |\n|---|---|---|---|")
    for name, gaps in [("before", before), (f"with a prompt of {a.prompt_tokens}", behind)]:
        print(f"| {name} | {len(gaps)} | {1e3 * max(gaps):.0f} | {max(gaps) / tick:.1f} |")
    print(f"the long prompt had its first block after {1e3 * (answer[0] - arrival):.0f} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url")
    parser.add_argument("--server", default="target/release/evotoken")
    parser.add_argument("--model", help="folder for the server; without it the bundled model")
    parser.add_argument("--streams", type=int, default=15)
    parser.add_argument("--stream-prompt", type=int, default=32, help="tokens of the streams' prompts")
    parser.add_argument("--max-tokens", type=int, default=64, help="of the streams' answers")
    parser.add_argument("--block-length", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="of each block")
    parser.add_argument("--prompt-tokens", type=int, default=4000,
                        help="of the long prompt; with its answer of two blocks it must fit the model's positions")
    parser.add_argument("--seconds", type=float, default=30, help="to look at before the long prompt arrives")
    a = parser.parse_args()
    if a.url:
        measure(a.url.rstrip("/"), a)
        return
    command = [a.server, "--port", "0"] + (["--model", a.model] if a.model else [])
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        measure("http://" + re.search(r"http://([\d.]+:\d+)", server.stdout.readline().decode())[1], a)
    finally:
        server.kill()


if __name__ == "__main__":
    main()
