#!/usr/bin/env python3
"""Write a LLaDA folder with random weights, to measure speed with. Python's standard library only.

    scripts/random_model.py --out DIR [--width 768] [--layers 12] [--mlp 2048] [--vocab 32000] [--positions 4608]

With a fixed number of steps the work does not depend on what the weights are, so a few hundred thousand random numbers
are enough, repeated through all matrices. The default has 110 million parameters (450 MB).
"""
import argparse
import array
import json
import pathlib
import random
import struct

HEAD = 64


def tensors(width, layers, mlp, vocab):
    """-> (name, shape) of every weight."""
    yield "model.transformer.wte.weight", (vocab, width)
    for number in range(layers):
        layer = f"model.transformer.blocks.{number}."
        for module, shape in [
            ("attn_norm", (width,)), ("q_proj", (width, width)), ("k_proj", (width, width)), ("v_proj", (width, width)),
            ("attn_out", (width, width)), ("ff_norm", (width,)), ("ff_proj", (mlp, width)), ("up_proj", (mlp, width)),
            ("ff_out", (width, mlp)),
        ]:
            yield f"{layer}{module}.weight", shape
    yield "model.transformer.ln_f.weight", (width,)
    yield "model.transformer.ff_out.weight", (vocab, width)


def write_weights(path, weights, seed):
    header, end = {}, 0
    for name, shape in weights:
        start = end
        end += 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    chance = random.Random(seed)
    # A prime, so that rows do not repeat.
    noise = array.array("f", (chance.gauss(0, 1) for _ in range(300_007)))
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape in weights:
            if len(shape) == 1:
                array.array("f", [1.0] * shape[0]).tofile(file)
                continue
            scaled = array.array("f", (value * shape[1] ** -0.5 for value in noise))
            left = shape[0] * shape[1]
            while left:
                part = scaled[:left]
                part.tofile(file)
                left -= len(part)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--width", type=int, default=768, help=f"a multiple of {HEAD}")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--mlp", type=int, default=2048)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--positions", type=int, default=4608)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    write_weights(a.out / "model.safetensors", list(tensors(a.width, a.layers, a.mlp, a.vocab)), a.seed)
    mask, end = a.vocab - 1, a.vocab - 2
    heads = a.width // HEAD
    config = {
        "model_type": "llada", "d_model": a.width, "n_layers": a.layers, "n_heads": heads, "n_kv_heads": heads,
        "mlp_hidden_size": a.mlp, "vocab_size": a.vocab, "embedding_size": a.vocab, "max_sequence_length": a.positions,
        "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "mask_token_id": mask, "eos_token_id": end, "weight_tying": False}
    (a.out / "config.json").write_text(json.dumps(config, indent=1))
    names = {f"t{number}": number for number in range(a.vocab - 2)} | {"<eos>": end, "<mask>": mask}
    special = [{"id": names[text], "content": text, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for text in ("<eos>", "<mask>")]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "decoder": None, "added_tokens": special, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": names, "unk_token": "t0"}}
    (a.out / "tokenizer.json").write_text(json.dumps(tokenizer))


if __name__ == "__main__":
    main()
