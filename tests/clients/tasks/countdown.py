"""Whether an answer solves a Countdown problem."""

import re


def process_results(doc, results):
    """Score of one answer: 1.0 for an expression of all three numbers, each used once, that has the target's value."""
    text = results[0].strip()
    numbers = sorted(int(number) for number in re.findall(r"\d+", text))
    # Nothing but numbers, operators and brackets is ever evaluated.
    if not re.fullmatch(r"[\d+*/() -]{1,40}", text) or "**" in text or numbers != sorted(doc["numbers"]):
        return {"solved": 0.0}
    try:
        return {"solved": float(eval(text) == doc["target"])}
    except (SyntaxError, TypeError, ZeroDivisionError):
        return {"solved": 0.0}
