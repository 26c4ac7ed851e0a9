"""NVIDIA's AIPerf, a load generator, against a running server with the bundled model.

    pip install -r tests/clients/aiperf_load.txt
    python tests/clients/aiperf_load.py http://127.0.0.1:8000

It shows that all requests are answered as asked for. The speeds it prints are those of whatever else the machine did.
"""

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
REQUESTS = 32
TOKENS = 16


def profile(url, endpoint, *options):
    """Send requests of 20 random prompt tokens, four at a time; each must get exactly the tokens that it asks for."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(Path(sys.executable).with_name("aiperf"), "profile", "--url", url, "--model-names", "countdown"),
            *("--endpoint-type", endpoint, "--tokenizer", "models/countdown/evotoken", "--random-seed", "1"),
            *("--request-count", str(REQUESTS), "--concurrency", "4", "--synthetic-input-tokens-mean", "20"),
            *("--output-tokens-mean", str(TOKENS), "--output-artifact-dir", folder, "--ui", "none", *options),
        ]
        environment = {**os.environ, "HF_HOME": folder}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        results = json.loads((Path(folder) / "profile_export_aiperf.json").read_text())
        asked = json.loads((Path(folder) / "inputs.json").read_text())["data"][0]["payloads"][0]
    assert results["error_summary"] == [] and results["request_error_rate"]["avg"] == 0, results["error_summary"]
    assert results["request_count"]["avg"] == REQUESTS, results["request_count"]
    length = results["output_sequence_length"]
    assert (length["min"], length["max"]) == (TOKENS, TOKENS), length
    sent = ", ".join(f"{key} {json.dumps(value)}" for key, value in asked.items() if key not in ("messages", "prompt"))
    print(f"ok {endpoint}: {REQUESTS} requests with {sent}", flush=True)
    for name in ("request_latency", "time_to_first_token", "inter_token_latency", "output_token_throughput"):
        if name in results:
            print(f"   {name.replace('_', ' ')}: mean {results[name]['avg']:.1f} {results[name]['unit']}", flush=True)
    return results


def main():
    url = sys.argv[1].rstrip("/")
    print(f"aiperf {version('aiperf')}", flush=True)
    whole = ("--extra-inputs", "ignore_eos:true", "--use-server-token-count")
    results = profile(url, "chat", *whole, "--streaming", "--per-chunk-usage")
    # A chunk is a block of four tokens. Only who knows that divides the time behind the first chunk by the 12 tokens that
    # it was spent on, and not by 15.
    per_token = results["decode_duration"]["avg"] / results["inter_token_latency"]["avg"]
    assert abs(per_token - (TOKENS - 4)) < 0.1, per_token
    print("ok chat: usage on every chunk tells how many tokens came with the first", flush=True)
    profile(url, "completions", *whole, "--streaming")
    vllm = '{"ignore_eos": true, "min_tokens": 16, "repetition_penalty": 1.0, "top_k": -1, "logprobs": null}'
    profile(url, "chat", "--extra-inputs", vllm, "--use-server-token-count", "--use-legacy-max-tokens")


if __name__ == "__main__":
    main()
