#!/usr/bin/env python3
"""Aggregate speed of a running server at rising concurrency. Python's standard library only.

    scripts/throughput.py [--url http://localhost:8000] [--requests 64] [--max-tokens 64] [--steps 32]
                          [--concurrency 1,2,4,8,16,32]

At each level so many clients stream completions, each its next as soon as it has the last, until all requests are done.
Prints visible tokens per second over all clients, the ratio to the first level, and the time from sending a request to
its first block (median and 95th percentile). The same requests are sent at every level, after some to warm up.

A trained model decides as many tokens a step as it is sure of. One of random weights is sure of none and decides one
a step, so give --steps to measure it in reasonable time, and then compare with runs of the same --steps only.
"""
import argparse
import json
import statistics
import threading
import time
import urllib.request


def stream(url, number, arguments):
    """-> (visible tokens, seconds to the first block)"""
    numbers = [3 + number * 7 % 90, 5 + number * 11 % 90, 2 + number * 13 % 90]
    body = {"prompt": f"Numbers: {numbers}\nTarget: {1 + number * 17 % 97}", "max_tokens": arguments.max_tokens,
            "stream": True, "stream_options": {"include_usage": True}}
    if arguments.steps is not None:
        body["diffusion"] = {"steps": arguments.steps}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    started, first, tokens, done = time.perf_counter(), None, None, False
    with urllib.request.urlopen(request, timeout=600) as lines:
        for line in lines:
            line = line.decode().strip()
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                first = first or time.perf_counter() - started
                chunk = json.loads(line[6:])
                if chunk.get("usage"):
                    tokens = chunk["usage"]["completion_tokens"]
    assert done and tokens is not None, f"request {number}: the stream broke off"
    return tokens, first


def level(clients, arguments):
    """-> (tokens per second, sorted seconds to the first block)"""
    requests = max(arguments.requests, clients)
    results, lock, numbers = [], threading.Lock(), iter(range(requests))

    def client():
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            result = stream(arguments.url, number, arguments)
            with lock:
                results.append(result)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    assert len(results) == requests, "a client failed"
    return sum(tokens for tokens, _ in results) / seconds, sorted(first for _, first in results)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, help="of a whole answer (diffusion.steps); without it the model's default")
    parser.add_argument("--concurrency", default="1,2,4,8,16,32")
    arguments = parser.parse_args()
    for number in range(4):
        stream(arguments.url, number, arguments)
    print("| clients | tokens/s | ratio | first block p50, ms | p95, ms |\n|---|---|---|---|---|")
    base = None
    for clients in map(int, arguments.concurrency.split(",")):
        speed, firsts = level(clients, arguments)
        base = base or speed
        p95 = firsts[min(len(firsts) - 1, int(0.95 * len(firsts)))]
        print(f"| {clients} | {speed:.1f} | {speed / base:.2f} | {1e3 * statistics.median(firsts):.1f} | {1e3 * p95:.1f} |")


if __name__ == "__main__":
    main()
