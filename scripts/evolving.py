#!/usr/bin/env python3
"""Draw how an answer evolves, as an animated SVG, from the progress chunks of a running server. Python's standard library only.

    scripts/evolving.py --out docs/img/evolving.svg [--url http://localhost:8000]

Asked is one Countdown problem, with EvoToken and with hard masks, the same seed and as many steps as positions. What is drawn
is what the chunks say: states, tokens, probabilities (the line under a token), changed tokens (outlined).
"""
import argparse
import json
import urllib.request
from html import escape
from pathlib import Path

METHODS = {"evotoken": "EvoToken", "mask": "hard masks"}
# Seconds of a step, and of the last one.
STEP_S, LAST_S = 0.9, 3.6
WIDTH, CELL, GAP, LEFT, TOP, ROW = 740, 64, 8, 140, 64, 74

STYLE = """
text { font: 17px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #1f1d1a; text-anchor: middle; }
.words { font: italic 17px Palatino, Georgia, "DejaVu Serif", serif; text-anchor: start; fill: #645e55; }
.paper { fill: #faf8f4; stroke: #d9d3c7; }
rect.token { fill-opacity: 0; stroke-width: 1.5; }
.mask { stroke: #857e73; fill: #857e73; stroke-dasharray: 1.5 3; } text.mask { fill: #645e55; stroke: none; }
.soft_mask { stroke: #a85a08; fill: #a85a08; stroke-dasharray: 6 4; }
.soft { stroke: #1f6ba3; fill: #1f6ba3; } .decoded { stroke: #2c7a4b; fill: #2c7a4b; }
.revised { fill: none; stroke: #c2410c; stroke-width: 3; }
text.soft_mask { font-style: italic; } text.decoded { font-weight: 700; }
text.soft_mask, text.soft, text.decoded { stroke: none; fill: #1f1d1a; }
.line { stroke-dasharray: none; stroke-width: 3; }
@media (prefers-color-scheme: dark) {
  text, text.soft_mask, text.soft, text.decoded { fill: #ece7de; } .words, text.mask { fill: #aaa397; }
  .paper { fill: #171614; stroke: #3b3833; } .mask { stroke: #8f887c; }
  .soft_mask { stroke: #e0a252; fill: #e0a252; } .soft { stroke: #6db3e8; fill: #6db3e8; }
  .decoded { stroke: #6fc08f; fill: #6fc08f; } .revised { stroke: #ff8a5b; }
}
"""


def steps(url, prompt, method, length, seed):
    """-> (what each step left behind, the answer's text)"""
    diffusion = {"method": method, "steps": length, "block_length": length, "progress": True}
    body = {"prompt": prompt, "max_tokens": length, "seed": seed, "stream": True, "diffusion": diffusion}
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/v1/completions", data, {"content-type": "application/json"})
    found, text = [], ""
    with urllib.request.urlopen(request, timeout=300) as reply:
        for line in reply:
            if line.startswith(b"data: {"):
                choice = json.loads(line.removeprefix(b"data: "))["choices"][0]
                text += choice["text"]
                found += [part] if (part := (choice.get("diffusion") or {}).get("progress")) else []
    return found, text


def token(x, y, state, text, confidence, revised):
    """One position at one step."""
    middle = x + CELL / 2
    parts = [f'<rect class="token {state}" x="{x}" y="{y}" width="{CELL}" height="44" rx="5" style="fill-opacity:{confidence * 0.26:.2f}"/>']
    parts.append(f'<text class="{state}" x="{middle}" y="{y + 28}">{escape(text)}</text>')
    if confidence:
        parts.append(f'<path class="line {state}" d="M{x + 4} {y + 40}h{(CELL - 8) * confidence:.1f}"/>')
    if revised:
        parts.append(f'<rect class="revised" x="{x - 3}" y="{y - 3}" width="{CELL + 6}" height="50" rx="7"/>')
    return "".join(parts)


def row(y, length, step):
    """One answer at one step; `None`: before the first."""
    parts = []
    for position in range(length):
        x = LEFT + position * (CELL + GAP)
        at = position - step["positions"][0] if step else -1
        if step is None or step["states"][at] == "mask":
            parts.append(token(x, y, "mask", "·", 0, False))
        else:
            changed = position in step["revised"]
            parts.append(token(x, y, step["states"][at], step["texts"][at], step["confidences"][at], changed))
    return "".join(parts)


def drawing(prompt, answers, length):
    """The whole picture: one group per step, of which one shows at a time."""
    count = max(len(found) for found, _ in answers.values()) + 1
    total = STEP_S * (count - 1) + LAST_S
    height = TOP + ROW * len(answers) + 44
    heading = prompt.replace("\n", "   ")
    texts = "; ".join(f"{METHODS[method]}: {text}" for method, (_, text) in answers.items())
    frames = []
    for number in range(count):
        rows = []
        for line, (found, _) in enumerate(answers.values()):
            step = found[min(number, len(found)) - 1] if number else None
            rows.append(row(TOP + line * ROW, length, step))
        foot = f'<text class="words" x="24" y="{height - 20}">step {number} of {count - 1}</text>'
        last = " last" if number == count - 1 else ""
        frames.append(f'<g class="frame{last}" style="animation-delay:{number * STEP_S:.1f}s">{"".join(rows)}{foot}</g>')
    share, last = 100 * STEP_S / total, 100 * LAST_S / total
    style = STYLE + f"""
.frame {{ visibility: hidden; animation: step {total:.1f}s step-end infinite; }}
.last {{ animation-name: last; }}
@keyframes step {{ 0% {{ visibility: visible; }} {share:.3f}%, 100% {{ visibility: hidden; }} }}
@keyframes last {{ 0% {{ visibility: visible; }} {last:.3f}%, 100% {{ visibility: hidden; }} }}
@media (prefers-reduced-motion: reduce) {{ .frame {{ animation: none; }} .last {{ visibility: visible; }} }}
"""
    names = "".join(
        f'<text class="words" x="24" y="{TOP + line * ROW + 28}">{METHODS[method]}</text>' for line, method in enumerate(answers)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">'
        f"<title>{escape(heading)}. {escape(texts)}</title><style>{style}</style>"
        f'<rect class="paper" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>'
        f'<text class="words" x="24" y="36">{escape(heading)}</text>{names}{"".join(frames)}</svg>\n'
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--numbers", type=int, nargs="+", default=[64, 57, 7])
    parser.add_argument("--target", type=int, default=49)
    parser.add_argument("--length", type=int, default=8, help="positions, and steps")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    prompt = f"Numbers: [{', '.join(map(str, arguments.numbers))}]\nTarget: {arguments.target}"
    answers = {m: steps(arguments.url, prompt, m, arguments.length, arguments.seed) for m in METHODS}
    for method, (found, text) in answers.items():
        changed = sum(len(step["revised"]) for step in found)
        print(f"{METHODS[method]}: {text}, {len(found)} steps, {changed} tokens changed")
    arguments.out.write_text(drawing(prompt, answers, arguments.length))


if __name__ == "__main__":
    main()
