#!/usr/bin/env python3
"""Adapters both ways between `trainer` and Python's `peft`: written by one, loaded by the other, merged by both.

    cargo build --bins
    python3 -m venv VENV && VENV/bin/pip install torch peft safetensors numpy
    VENV/bin/python scripts/peft_round_trip.py [--model DIR] [--adapter DIR] [--bin target/debug]

1. `peft` loads an adapter folder of ours on a tree of torch modules with the model's own names and merges it;
   `trainer merge` merges the same folder. All weights are compared.
2. `peft` makes and saves an adapter with random matrices for that tree; `trainer merge` and `peft` merge it. All weights
   are compared. Where the model has a tokenizer, `evotoken --adapter` also answers with it, and with a folder of the
   weights that `peft` merged: the texts must be the same.

Prints the versions and the largest differences; ends with status 1 if a weight differs by more than the rounding of the
type it is stored in. Needs about 1 GB of memory and no accelerator.
"""
import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # an adapter names its base model, which peft would look up

import peft  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "base_model.model."
EMBEDDINGS = ("wte.weight", "embed_tokens.weight")
PROBLEMS = ["Numbers: [30, 100, 93]\nTarget: 23", "Numbers: [7, 12, 5]\nTarget: 24", "Numbers: [3, 9, 50]\nTarget: 77"]


class Vector(torch.nn.Module):
    """A norm: one vector called `weight`."""

    def __init__(self, size):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(size))


class Tree(torch.nn.Module):
    """Modules that are there for their names and weights; nothing calls them."""

    def prepare_inputs_for_generation(self, *_, **__):
        raise NotImplementedError("the tree holds weights only")


def leaf(name, tensor, with_bias):
    if tensor.dim() == 1:
        return Vector(tensor.shape[0])
    if name.endswith(EMBEDDINGS):
        return torch.nn.Embedding(*tensor.shape)
    out, width = tensor.shape
    return torch.nn.Linear(width, out, bias=with_bias)


def tree(weights):
    """A module tree whose state dict has exactly these tensors."""
    root = Tree()
    for name, tensor in weights.items():
        path, _, kind = name.rpartition(".")
        if kind == "bias":
            continue
        *parents, last = path.split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, torch.nn.Module())
            module = getattr(module, parent)
        module.add_module(last, leaf(name, tensor, f"{path}.bias" in weights))
    root.load_state_dict(weights)
    return root


def base_weights(model):
    return {name: t.float() for name, t in load_file(model / "model.safetensors").items()}


def merged_by_peft(model, adapter):
    """-> (weights with the adapter merged, number of adapter tensors), after a check that every tensor was loaded."""
    wrapped = peft.PeftModel.from_pretrained(tree(base_weights(model)), str(adapter))
    stored = load_file(adapter / "adapter_model.safetensors")
    loaded = peft.get_peft_model_state_dict(wrapped)
    assert stored.keys() == loaded.keys(), f"tensors that did not load: {stored.keys() ^ loaded.keys()}"
    assert all(name.startswith(PREFIX) for name in stored)
    for name, tensor in stored.items():
        assert torch.equal(loaded[name].float(), tensor.float()), f"{name} changed on the way in"
    return wrapped.merge_and_unload().state_dict(), len(stored)


def random_adapter(model, folder):
    """Let `peft` make an adapter in which no matrix is zero, and save it."""
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=6, lora_alpha=9, lora_dropout=0.1, target_modules=["q_proj", "k_proj", "v_proj"], init_lora_weights=False
    )
    wrapped = peft.get_peft_model(tree(base_weights(model)), config)
    wrapped.save_pretrained(str(folder))


def merged_by_trainer(binaries, model, adapter, out):
    command = [binaries / "trainer", "merge", "--model", model, "--adapter", adapter, "--out", out]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return load_file(out / "model.safetensors")


def compare(ours, theirs, base):
    """Print the largest difference; whether it is explained by the type the weights are stored in."""
    assert ours.keys() == theirs.keys() == base.keys(), f"different tensors: {ours.keys() ^ theirs.keys()}"
    moved, worst, unequal, explained = 0.0, 0.0, 0, True
    for name, stored in ours.items():
        exact = theirs[name].float()
        gap = (stored.float() - exact).abs()
        moved = max(moved, (exact - base[name]).abs().max().item())
        worst = max(worst, gap.max().item())
        unequal += int((stored != exact.to(stored.dtype)).sum())
        # Half a unit in the last place of the stored type, and a few of f32 for the order of additions.
        explained &= bool((gap <= exact.abs() * torch.finfo(stored.dtype).eps / 2 + 4e-6).all())
    kinds = ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in ours.values()}))
    print(f"  {len(ours)} merged weights, which the adapter moves by up to {moved:.1e}: trainer and peft differ by at most "
          f"{worst:.1e}; {unequal} values differ once both are {kinds}{'' if explained else '; ROUNDING EXPLAINS LESS'}")
    return explained


def answers(binaries, model, adapter=None):
    """The texts that a server of this model, or of its adapter, gives for a few problems."""
    command = [binaries / "evotoken", "--host", "127.0.0.1", "--port", "0", "--model", model]
    command += ["--adapter", f"asked={adapter}"] if adapter else []
    asked = {"model": "asked"} if adapter else {}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        url = next(word for line in server.stdout for word in line.split() if word.startswith("http://")).rstrip("/.,")
        texts = []
        for problem in PROBLEMS:
            body = json.dumps({**asked, "prompt": problem, "max_tokens": 16, "diffusion": {"method": "evotoken", "steps": 16}})
            request = urllib.request.Request(f"{url}/v1/completions", body.encode(), {"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as reply:
                texts.append(json.load(reply)["choices"][0]["text"])
        return texts
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def served_alike(binaries, model, adapter, merged, folder):
    if not (model / "tokenizer.json").is_file():
        print("  served: the model has no tokenizer, nothing was asked")
        return True
    for file in model.iterdir():
        if file.is_file() and file.name != "model.safetensors":
            shutil.copy(file, folder)
    save_file({name: t.contiguous() for name, t in merged.items()}, folder / "model.safetensors", {"format": "pt"})
    theirs, ours, plain = answers(binaries, folder), answers(binaries, model, adapter), answers(binaries, model)
    print(f"  served: with the adapter {ours}, merged by peft {theirs}, without {plain}")
    return ours == theirs != plain


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "tests/fixtures/llada-tiny-lora")
    parser.add_argument("--adapter", type=Path, help="an adapter of ours for it; by default the folder's own")
    parser.add_argument("--bin", type=Path, default=ROOT / "target/debug", help="folder of the two programs")
    args = parser.parse_args()
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("peft", "torch", "transformers", "safetensors")]
    print(f"python {platform.python_version()}, {', '.join(versions)}")
    adapter = args.adapter or args.model / "adapter"
    good = True
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        base = base_weights(args.model)
        theirs, count = merged_by_peft(args.model, adapter)
        print(f"an adapter of ours: {count} tensors, all loaded by peft")
        good &= compare(merged_by_trainer(args.bin, args.model, adapter, scratch / "merged"), theirs, base)

        saved, served = scratch / "from-peft", scratch / "served"
        random_adapter(args.model, saved)
        served.mkdir()
        theirs, count = merged_by_peft(args.model, saved)
        print(f"an adapter of peft's: {count} tensors")
        good &= compare(merged_by_trainer(args.bin, args.model, saved, scratch / "merged-from-peft"), theirs, base)
        good &= served_alike(args.bin, args.model, saved, theirs, served)
    print("same" if good else "DIFFERENT")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
