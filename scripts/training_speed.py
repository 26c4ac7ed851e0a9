#!/usr/bin/env python3
"""Training speed: `trainer finetune` against the same loop in PyTorch, in one run, taking turns.

    cargo build --release --bin trainer
    python3 -m venv VENV && VENV/bin/pip install torch safetensors tokenizers numpy
    VENV/bin/python scripts/training_speed.py [--updates 40] [--rounds 3] [--shape 8x192x4] [--no-compile]

Both train a LoRA adapter for the bundled base model with Continuous Trajectory Supervision: the same rows of Countdown
problems in batches of the same shape (answer tokens x rows x block), K stages with one backward pass each, clipping and
AdamW, f32, the same number of threads. PyTorch uses its fused attention, norm and optimizer kernels, one matrix for
q, k and v, and the head on the scored positions only; once as it is and once through torch.compile. Each turn is a
process of its own, so peak memory is that of one program; the first updates of each turn are not counted.

Prints tokens fed in per second (all stages), the ratio to the faster PyTorch, and peak memory. Before that it checks the
PyTorch loop itself: losses and gradients on the golden batch on which `cargo test --test train_golden` checks ours.
Run it on an otherwise idle machine.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests/fixtures/llada-tiny-lora"
RECIPE = ROOT / "config/trainer/countdown-evotoken.toml"
WAYS = ("eager", "compiled")
K_SOFT, STAGES, RANK, ALPHA, RATE = 3, 4, 8, 16.0, 1e-3

# ---- the loop in PyTorch; only in a worker process, so that the parent stays small ----


def worker(job):
    """One turn in PyTorch -> seconds per counted update, tokens per update, losses."""
    import torch
    import torch.nn.functional as F
    from safetensors.torch import load_file

    torch.set_num_threads(job["threads"])

    class Network:
        """LLaDA's layers on [rows, positions, D] with an adapter on q, k and v."""

        def __init__(self, folder, adapter=None, rank=RANK, scaling=ALPHA / RANK):
            self.c = json.loads((folder / "config.json").read_text())
            w = {name.removeprefix("model.transformer."): t.float()
                 for name, t in load_file(folder / "model.safetensors").items()}
            self.scaling, self.width, self.eps = scaling, self.c["d_model"], self.c["rms_norm_eps"]
            self.table, self.last_norm, self.head = w["wte.weight"], w["ln_f.weight"], w["ff_out.weight"]
            self.layers = []
            for n in range(self.c["n_layers"]):
                part = {k.split(".")[2]: t for k, t in w.items() if k.startswith(f"blocks.{n}.")}
                part["qkv"] = torch.cat([part.pop(f"{p}_proj") for p in "qkv"])
                self.layers.append(part)
            self.adapter = [self.layer_adapter(n, adapter, rank) for n in range(self.c["n_layers"])]
            self.compute = self.trunk

        def layer_adapter(self, n, adapter, rank):
            """A of q, k and v in one matrix [3 r, D], B of each [D, r]."""
            if adapter:
                of = lambda p, m: adapter[f"base_model.model.model.transformer.blocks.{n}.{p}_proj.lora_{m}.weight"]
                a, b = torch.cat([of(p, "A") for p in "qkv"]).float(), [of(p, "B").float() for p in "qkv"]
            else:
                a = torch.empty(3 * rank, self.width).uniform_(-1, 1) / math.sqrt(self.width)
                b = [torch.zeros(self.width, rank) for _ in "qkv"]
            return [t.clone().requires_grad_() for t in [a, *b]]

        def parameters(self):
            return [t for layer in self.adapter for t in layer]

        def angles(self, positions):
            half = self.width // self.c["n_heads"] // 2
            angle = torch.arange(positions, dtype=torch.float64)[:, None] * self.c["rope_theta"] ** (
                -torch.arange(half, dtype=torch.float64) / half)
            return angle.cos().float(), angle.sin().float()

        def trunk(self, x, cos, sin):
            B, N, D = x.shape
            heads = lambda t: t.view(B, N, self.c["n_heads"], -1).transpose(1, 2)

            def rotate(t):
                a, b = t.chunk(2, -1)
                return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

            for w, (a, *b) in zip(self.layers, self.adapter):
                y = F.rms_norm(x, (D,), w["attn_norm"], self.eps)
                low = F.linear(y, a).chunk(3, -1)
                change = [F.linear(t, m) for t, m in zip(low, b)]
                q, k, v = (t + self.scaling * c for t, c in zip(F.linear(y, w["qkv"]).chunk(3, -1), change))
                mixed = F.scaled_dot_product_attention(rotate(heads(q)), rotate(heads(k)), heads(v))
                x = x + F.linear(mixed.transpose(1, 2).reshape(B, N, D), w["attn_out"])
                y = F.rms_norm(x, (D,), w["ff_norm"], self.eps)
                x = x + F.linear(F.silu(F.linear(y, w["ff_proj"])) * F.linear(y, w["up_proj"]), w["ff_out"])
            return x

        def cts(self, batch, k_soft):
            """Losses of the stages; gradients of their mean are added to the adapter's."""
            noisy, truth, prompt_len, start, end, unmask, alphas = batch
            (B, N), mask = noisy.shape, self.c["mask_token_id"]
            at = torch.arange(N)
            rows = (at >= start[:, None]).flatten().nonzero()[:, 0]  # from the block on, of all rows
            row, position = rows // N, rows % N
            target = truth.flatten()[rows]
            scored = position <= end[row]
            soft = position >= prompt_len[row]
            x, best = noisy.clone().flatten(), torch.zeros(len(rows))
            decided = torch.zeros(unmask.shape[1], B, N, dtype=torch.bool).scatter_(2, unmask.transpose(0, 1), True)
            decided = decided.flatten(1)[:, rows]
            cos, sin = self.angles(N)
            inputs = F.embedding(noisy, self.table)
            losses = []
            for stage in range(unmask.shape[1]):
                hidden = self.compute(inputs, cos, sin).flatten(0, 1)[rows]
                logits = F.linear(F.rms_norm(hidden, (self.width,), self.last_norm, self.eps), self.head)
                loss = F.cross_entropy(logits[scored], target[scored])
                (loss / unmask.shape[1]).backward()
                losses.append(loss.item())
                with torch.no_grad():
                    top, ids = logits.detach().softmax(-1).topk(k_soft)
                    sure, guess = top[:, 0], ids[:, 0]
                    own = torch.where(decided[stage], guess, x[rows])
                    better = (own != mask) & soft & (sure > best)
                    own, best = torch.where(better, guess, own), torch.where(better, sure, best)
                    x[rows] = own
                    alpha = torch.where(own == mask, alphas[stage][row], 0.0)
                    share = top / top.sum(-1, keepdim=True) * (1 - alpha[:, None])
                    mixed = F.embedding_bag(torch.cat([ids, own[:, None]], -1), self.table, mode="sum",
                                            per_sample_weights=torch.cat([share, alpha[:, None]], -1))
                    inputs = F.embedding(x, self.table)
                    inputs[rows] = torch.where(soft[:, None], mixed, inputs[rows])
                    inputs = inputs.view(B, N, -1)
            return losses

    def golden():
        """Largest relative difference of losses and of gradients' norms on the golden batch."""
        cases = json.loads((GOLDEN / "cts.json").read_text())
        network = Network(GOLDEN, load_file(GOLDEN / "adapter/adapter_model.safetensors"), scaling=cases["scaling"])
        b = {k: torch.tensor(v) for k, v in cases["batches"][0].items()}
        batch = (b["noisy"], b["truth"], b["prompt_len"], b["start"], b["end"], b["unmask"], b["alphas"])
        losses = network.cts(batch, cases["k_soft"])
        off = [abs(a / b - 1) for a, b in zip(losses, cases["stage_losses"])]
        expected = load_file(GOLDEN / "cts.safetensors")
        for n, (a, *b) in enumerate(network.adapter):
            grads = dict(zip([(p, "A") for p in "qkv"], a.grad.chunk(3))) | {(p, "B"): t.grad for p, t in zip("qkv", b)}
            for (p, m), grad in grads.items():
                name = f"grad.base_model.model.model.transformer.blocks.{n}.{p}_proj.lora_{m}.weight"
                off.append(((grad - expected[name]).norm() / expected[name].norm()).item())
        return max(off)

    if job["way"] == "golden":
        return {"off": golden(), "torch": torch.__version__}

    def rows_of_tokens():
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(Path(job["model"]) / "tokenizer.json"))
        lines = [json.loads(line) for line in Path(job["data"]).read_text().splitlines()]
        prompts = [e.ids for e in tokenizer.encode_batch([r["prompt"] for r in lines])]
        answers = [e.ids for e in tokenizer.encode_batch([r["completion"] for r in lines], add_special_tokens=False)]
        eos = network.c["eos_token_id"]
        return torch.tensor([p + a + [eos] * (job["canvas"] - len(a)) for p, a in zip(prompts, answers)]), len(prompts[0])

    def draw(truth, prompt):
        """A batch with aligned blocks, as the recipe's sampler draws them."""
        (B, N), L, d = truth.shape, job["block"], job["per_stage"]
        last = min(job["canvas"] - L, job["latest_start"])
        start = prompt + torch.randint(0, last // L + 1, (B,)) * L
        order = torch.rand(B, L).argsort(-1) + start[:, None]
        visible = (torch.rand(B) * (L - job["stages"] * d + 1)).long()
        hidden = torch.arange(L) >= visible[:, None]
        noisy = truth.clone()
        mask = network.c["mask_token_id"]
        noisy.scatter_(1, order, torch.where(hidden, mask, truth.gather(1, order)))
        noisy[torch.arange(N) >= start[:, None] + L] = mask
        unmask = order.gather(1, visible[:, None] + torch.arange(job["stages"] * d)).view(B, job["stages"], d)
        alphas = 0.5 + 0.5 * torch.rand(job["stages"], B)
        return noisy, truth, torch.full((B,), prompt), start, start + L - 1, unmask, alphas

    torch.manual_seed(1)
    network = Network(Path(job["model"]))
    if job["way"] == "compiled":
        network.compute = torch.compile(network.trunk)
    truth, prompt = rows_of_tokens()
    adam = torch.optim.AdamW(network.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    order, seconds, losses = torch.randperm(len(truth)), 0.0, []
    for update in range(job["updates"]):
        began = time.perf_counter()
        rows = order[update * job["rows"] : (update + 1) * job["rows"]]
        losses.append(statistics.mean(network.cts(draw(truth[rows], prompt), K_SOFT)))
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        if update >= job["skip"]:
            seconds += time.perf_counter() - began
    return {"seconds": seconds, "positions": truth.shape[1], "losses": losses}


# ---- the parent ----


def child(command, threads):
    """Run to the end -> (standard output, peak memory in MB)."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)  # what tells the memory of this one child
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            raise RuntimeError(f"{command[0]} failed: {errors.read().strip()[-2000:]}")
    return out, usage.ru_maxrss / 1024


def python_turn(job):
    out, memory = child([sys.executable, __file__, "--worker", json.dumps(job)], job["threads"])
    return json.loads(out.splitlines()[-1]) | {"memory": memory}


def toml(table, name=None):
    """A TOML table of plain values and of tables."""
    lines = [f"[{name}]"] if name else []
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    lines += [f"{key} = {json.dumps(value)}" for key, value in table.items() if key not in inner]
    for key, value in inner.items():
        lines.append(toml(value, f"{name}.{key}" if name else key))
    return "\n".join(lines)


def recipe(job):
    """The shipped recipe with one canvas, one kind of block, an adapter, and a constant rate."""
    settings = tomllib.loads(RECIPE.read_text())
    settings |= {"updates": job["updates"], "threads": job["threads"], "evaluate_every": 0,
                 "checkpoint_every": job["updates"], "schedule": {"shape": "constant"}}
    settings["lora"] = {"rank": RANK, "alpha": ALPHA, "dropout": 0.0}
    settings["objective"] |= {"stages": job["stages"], "per_stage": [job["per_stage"]],
                              "block_lengths": [job["block"]], "latest_start": job["latest_start"], "k_soft": K_SOFT}
    settings["adam"] |= {"rate": RATE}
    canvas = settings.pop("canvases")[0] | {"length": job["canvas"], "rows": job["rows"], "weight": 1.0}
    return toml(settings) + "\n[[canvases]]\n" + toml(canvas) + "\n"


def trainer_turn(trainer, job, scratch):
    run = Path(tempfile.mkdtemp(dir=scratch))
    (run / "recipe.toml").write_text(recipe(job))
    command = [trainer, "finetune", "--config", run / "recipe.toml", "--model", job["model"], "--data", job["data"],
               "--run", run / "run", "--out", run / "out"]
    _, memory = child([str(part) for part in command], job["threads"])
    log = [json.loads(line) for line in (run / "run/log.jsonl").read_text().splitlines()]
    assert len(log) == job["updates"]
    seconds = log[-1]["seconds"] - log[job["skip"] - 1]["seconds"]
    return {"seconds": seconds, "losses": [line["loss"] for line in log], "memory": memory}


def measure(args, shape, scratch):
    canvas, rows, block = map(int, shape.split("x"))
    data = scratch / f"{shape}.jsonl"
    count = rows * args.updates
    child([str(args.trainer), "data", "countdown", "--rows", str(count), "--seed", "5", "--out", str(data)], 1)
    job = {"model": str(args.model), "data": str(data), "canvas": canvas, "rows": rows, "block": block,
           "stages": STAGES, "per_stage": max(1, block // STAGES), "latest_start": min(12, canvas - block),
           "updates": args.updates, "skip": args.skip, "threads": args.threads}
    ways = WAYS[: 1 if args.no_compile else 2]
    turns = {way: [] for way in ("trainer", *ways)}
    for _ in range(args.rounds):
        turns["trainer"].append(trainer_turn(args.trainer, job, scratch))
        for way in ways:
            turns[way].append(python_turn(job | {"way": way}))
    tokens = rows * turns["eager"][0]["positions"] * STAGES * (args.updates - args.skip)
    speed = {way: [tokens / turn["seconds"] for turn in turns[way]] for way in turns}
    middle = {way: statistics.median(speed[way]) for way in turns}
    print(f"\n{canvas} answer tokens ({turns['eager'][0]['positions']} positions) x {rows} rows, blocks of {block}, "
          f"{STAGES} stages, {args.updates - args.skip} updates counted, {args.rounds} rounds")
    for way in turns:
        memory = max(turn["memory"] for turn in turns[way])
        losses = turns[way][0]["losses"]
        half = len(losses) // 2
        print(f"  {way:9} {middle[way]:9.0f} tokens/s (rounds {', '.join(f'{s:.0f}' for s in speed[way])}), "
              f"peak {memory:.0f} MB, mean loss {statistics.mean(losses[:half]):.4f} then {statistics.mean(losses[half:]):.4f}")
    best = max(ways, key=middle.get)
    print(f"  trainer / PyTorch ({best}) = {middle['trainer'] / middle[best]:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainer", type=Path, default=ROOT / "target/release/trainer")
    parser.add_argument("--model", type=Path, default=ROOT / "models/countdown/base")
    parser.add_argument("--shape", action="append", help="answer tokens x rows x block; may be repeated")
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--skip", type=int, default=8, help="updates at the start of a turn that are not counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(worker(json.loads(args.worker))))
        return
    if not 1 <= args.skip < args.updates:
        parser.error("--skip must be at least 1 and less than --updates")
    golden = python_turn({"way": "golden", "threads": args.threads})
    load = os.getloadavg()[0]
    print(f"torch {golden['torch']}, {args.threads} threads of {os.cpu_count()}, load average at the start {load:.1f}")
    print(f"the PyTorch loop on the golden batch: losses and gradients within {golden['off']:.1e}")
    assert golden["off"] < 1e-4, "the PyTorch loop computes something else"
    with tempfile.TemporaryDirectory() as scratch:
        for shape in args.shape or ["8x192x4", "64x32x8"]:
            measure(args, shape, Path(scratch))


if __name__ == "__main__":
    main()
