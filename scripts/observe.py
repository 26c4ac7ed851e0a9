#!/usr/bin/env python3
"""A real Prometheus, with the configuration of docker/prometheus, watches two servers under load; every query of the Grafana
dashboard and of vLLM's must have an answer.

    scripts/observe.py --server target/release/evotoken [--log docs/logs/observe.txt] [--seconds 40]

Needs Debian's package prometheus (prometheus, promtool). Checks on the way: promtool on the configuration, on the alerts and their
tests, and on what /metrics says.
"""

import argparse
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

from running import ROOT, Program, Report, Server, completion, fetch, free_port, needed

CONFIGURATION = ROOT / "docker" / "prometheus"
DASHBOARD = ROOT / "docker" / "grafana" / "dashboards" / "evotoken.json"
# What Grafana puts in place of its variables.
VARIABLES = {"$__rate_interval": "30s", "$instance": ".*"}
P95 = 'histogram_quantile(0.95, sum by (le, phase) (rate(evotoken_step_seconds_bucket[30s])))'
# As in vLLM's own dashboard, in routers and in autoscalers.
VLLM = [
    'histogram_quantile(0.95, sum by (le) (rate(vllm:time_to_first_token_seconds_bucket{model_name="countdown"}[30s])))',
    'histogram_quantile(0.99, sum by (le) (rate(vllm:e2e_request_latency_seconds_bucket{model_name="countdown"}[30s])))',
    'sum(rate(vllm:request_queue_time_seconds_sum{model_name="countdown"}[30s]))',
    'sum by (finished_reason) (increase(vllm:request_success_total{model_name="countdown"}[30s]))',
    'sum by (le) (increase(vllm:request_prompt_tokens_bucket{model_name="countdown"}[30s]))',
    'sum by (le) (increase(vllm:request_generation_tokens_bucket{model_name="countdown"}[30s]))',
    'rate(vllm:prompt_tokens_total{model_name="countdown"}[30s])',
    'rate(vllm:generation_tokens_total{model_name="countdown"}[30s])',
    'vllm:num_requests_running{model_name="countdown", engine="0"}',
    'avg(vllm:num_requests_waiting{model_name="countdown"})',
    'vllm:kv_cache_usage_perc{model_name="countdown"}',
    'rate(vllm:prefix_cache_hits_total[30s]) / rate(vllm:prefix_cache_queries_total[30s])',
    'rate(vllm:diffusion_num_committed_tokens_total[30s]) / rate(vllm:diffusion_num_denoising_steps_total[30s])',
    'rate(vllm:diffusion_num_canvas_positions_total[30s])',
]


def promtool(report, *arguments, text=None):
    """Run promtool and say what it says; -> its exit status."""
    command = ["promtool", *map(str, arguments)]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    report.say(f"$ promtool {' '.join(Path(part).name if '/' in part else part for part in command[1:])}")
    for line in (done.stdout + done.stderr).splitlines():
        if line.strip():
            report.say(f"  {line.replace(str(CONFIGURATION) + '/', '').strip()}")
    return done.returncode


def check_metrics(report, text):
    """promtool on what a server exports; the colons are vLLM's names, and known."""
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    colons = [line for line in complaints if re.fullmatch(r"vllm:\w+ metric names should not contain ':'", line)]
    others = [line for line in complaints if line not in colons]
    families = len(re.findall(r"^# TYPE evotoken_", text, re.MULTILINE))
    report.say(f"$ promtool check metrics < /metrics: {families} families evotoken_*, {len(others)} complaints about them or "
               f"others; {len(colons)} about the colon in vllm:*")
    return others


def load(servers, stop, number):
    """One client: asks in turn, in several ways, until told to stop."""
    ways = [{}, {"stream": True}, {"diffusion": {"method": "mask"}}, {"diffusion": {"steps": 16}},
            {"n": 4}, {"model": "other"}, {"max_tokens": -1}, {"diffusion": {"method": "soft_mask", "cache": "prefix"}}]
    while not stop.is_set():
        fetch(f"{servers[number % len(servers)].url}/v1/completions", completion(number, **ways[number // 8 % len(ways)]))
        number += 8


def queries():
    """-> (title, query) of every panel, as Grafana would send them."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"]
            for name, value in VARIABLES.items():
                query = query.replace(name, value)
            yield panel["title"], query
    for query in VLLM:
        yield "vLLM", query


def number(text):
    value = float(text)
    return f"{value:.4g}" if math.isfinite(value) else text


def ask(prometheus, query):
    """-> [(labels, value)]"""
    status, text = fetch(f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
    reply = json.loads(text)
    if status != 200 or reply["status"] != "success":
        sys.exit(f"Prometheus refuses {query}: {text}")
    # A metric's name and where it came from say nothing here.
    hidden = ("__name__", "job")
    return [({key: value for key, value in found["metric"].items() if key not in hidden}, found["value"][1])
            for found in reply["data"]["result"]]


def labelled(labels, instances):
    inner = ", ".join(f"{key}={instances.get(value, value)}" for key, value in sorted(labels.items()))
    return f"{{{inner}}}" if inner else "all"


def asked(report, prometheus, servers):
    """Ask everything; -> what had no answer."""
    instances = {server.url.removeprefix("http://"): f"server {number}" for number, server in enumerate(servers, 1)}
    wrong = []
    last = None
    for title, query in [("Step latency, p95", P95), *queries()]:
        if title != last:
            report.say(f"\n{title}")
        last = title
        found = ask(prometheus, query)
        values = [float(value) for _, value in found]
        if not found or all(math.isnan(value) for value in values):
            wrong.append(f"no answer: {query}")
        shown = [f"{labelled(labels, instances)} {number(value)}" for labels, value in found]
        more = f"; … ({len(shown)} in all)" if len(shown) > 6 else ""
        report.say(f"  {query}\n    {'; '.join(shown[:6]) or 'nothing'}{more}")
    return wrong


def watched(report, options, folder, programs):
    """Servers, Prometheus, load, questions; -> what went wrong."""
    # The second one shares prefixes, so that there is something to see of that, too.
    for environment in ({}, {"EVOTOKEN__MODEL__ATTENTION": "block_causal"}):
        programs.append(Server(options.server, folder / f"server-{len(programs)}.log", environment=environment))
    servers = list(programs)
    # The same files as in docker/, but for the addresses.
    configuration = shutil.copytree(CONFIGURATION, folder / "prometheus")
    targets = json.dumps([{"targets": [server.url.removeprefix("http://") for server in servers]}])
    (configuration / "targets" / "evotoken.yml").write_text(targets)
    prometheus = f"http://127.0.0.1:{free_port()}"
    programs.append(Program(
        ["prometheus", f"--config.file={configuration / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
         f"--web.listen-address={prometheus.removeprefix('http://')}", "--log.level=warn"],
        folder / "prometheus.log").until(f"{prometheus}/-/ready"))
    stop = threading.Event()
    clients = [threading.Thread(target=load, args=(servers, stop, number)) for number in range(8)]
    for client in clients:
        client.start()
    time.sleep(options.seconds)
    wrong = asked(report, prometheus, servers)
    stop.set()
    for client in clients:
        client.join()
    report.say()
    for server in servers:
        wrong += check_metrics(report, fetch(f"{server.url}/metrics")[1])
    version = subprocess.run(["prometheus", "--version"], capture_output=True, text=True, check=True)
    report.say((version.stdout + version.stderr).splitlines()[0].split(" (")[0])
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", type=Path, required=True, help="the server's program")
    parser.add_argument("--log", type=Path, help="a file for what is printed")
    parser.add_argument("--seconds", type=int, default=40, help="of load before the questions (%(default)s)")
    options = parser.parse_args()
    needed("prometheus", "promtool")
    report = Report("scripts/observe.py")
    wrong = []
    for arguments in (("check", "config", CONFIGURATION / "prometheus.yml"),
                      ("test", "rules", CONFIGURATION / "alerts_test.yml")):
        if promtool(report, *arguments):
            wrong.append(f"promtool {arguments[0]} {arguments[1]} failed")
    with tempfile.TemporaryDirectory() as folder:
        programs = []
        try:
            wrong += watched(report, options, Path(folder), programs)
        finally:
            codes = [program.stop() for program in reversed(programs)]
    wrong += [f"a program ended with {code}" for code in codes if code]
    report.say(f"FAILED: {'; '.join(wrong)}" if wrong else "every query was answered")
    report.write(options.log)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
