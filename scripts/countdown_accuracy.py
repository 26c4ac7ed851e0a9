#!/usr/bin/env python3
"""Accuracy of a running server on Countdown problems, through POST /v1/completions. Python's standard library only.

    scripts/countdown_accuracy.py TEST.jsonl [--url http://localhost:8000] [--sweep steps|length]

TEST.jsonl has lines {"input": "30,100,93", "output": "23"}. An answer counts if it uses exactly the given numbers, each
once, with + - * / and parentheses, and its value is the target.
"""
import argparse
import ast
import json
import re
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

OPERATIONS = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


def value(node):
    """Exact value of an expression tree; ValueError or ZeroDivisionError if it has none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        return OPERATIONS[type(node.op)](value(node.left), value(node.right))
    raise ValueError("not an expression")


def solves(text, numbers, target):
    if not re.fullmatch(r"[\d+\-*/() ]+", text) or "**" in text or "//" in text:
        return False
    if sorted(map(int, re.findall(r"\d+", text))) != sorted(numbers):
        return False
    try:
        return value(ast.parse(text.strip(), mode="eval").body) == target
    except (ValueError, SyntaxError, ZeroDivisionError):
        return False


def complete(url, numbers, target, body):
    prompt = f"Numbers: [{', '.join(map(str, numbers))}]\nTarget: {target}"
    data = json.dumps({"prompt": prompt, **body}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)["choices"][0]


def score(url, problems, clients, body):
    """-> (solved, forward passes in all, revisions in all)"""
    with ThreadPoolExecutor(clients) as pool:
        choices = list(pool.map(lambda p: complete(url, *p, body), problems))
    solved = sum(solves(c["text"], *p) for c, p in zip(choices, problems))
    return solved, sum(c["diffusion"]["nfe"] for c in choices), sum(c["diffusion"]["revisions"] for c in choices)


def settings(sweep):
    """(name, request body) of every row of the table."""
    if sweep == "steps":
        for method in ("mask", "evotoken"):
            for steps in (8, 4, 2):
                yield f"{method}, {steps} steps", {"max_tokens": 8, "diffusion": {"method": method, "steps": steps}}
    else:
        for length in (8, 16, 64, 256):
            for method in ("mask", "evotoken"):
                body = {"max_tokens": length, "diffusion": {"method": method}}
                yield f"{method}, max_tokens {length}, default schedule", body


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("test")
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--sweep", choices=("steps", "length"), default="steps")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--diffusion", default="{}", help="JSON merged into every request's diffusion object")
    arguments = parser.parse_args()
    problems = []
    with open(arguments.test, encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            problems.append(([int(n) for n in row["input"].split(",")], int(row["output"])))
    print("| setting | solved | % | forward passes per answer | revisions per answer |\n|---|---|---|---|---|")
    for name, body in settings(arguments.sweep):
        body["diffusion"].update(json.loads(arguments.diffusion))
        solved, nfe, revisions = score(arguments.url, problems, arguments.clients, body)
        n = len(problems)
        print(f"| {name} | {solved} of {n} | {100 * solved / n:.1f} | {nfe / n:.2f} | {revisions / n:.2f} |", flush=True)


if __name__ == "__main__":
    main()
