#!/usr/bin/env python3
"""Write a checkpoint of a published shape with random weights, to measure memory, loading and speed with. Needs numpy.

    scripts/make_checkpoint.py --shape llada-8b --type bf16 --out DIR            # a folder: shards and their index
    scripts/make_checkpoint.py --shape llada-8b --type q4_k_m --out MODEL.gguf   # one file, as llama.cpp lays it out
    scripts/make_checkpoint.py --shape dream-7b --layers 2 --type f16 --out DIR  # only the first two layers

Tensor by tensor, in some 100 MB of memory whatever the size. The numbers are random but of the usual scale; those of a
GGUF file are random blocks of the format, not quantised ones. The tokenizer knows bytes; every other id is a name
such as "t4711", so that all ids can be read.
"""
import argparse
import json
import pathlib
import struct
import sys
import time

import numpy as np

LLADA = dict(family="llada", width=4096, layers=32, heads=32, kv_heads=32, mlp=12288, vocab=126464, positions=4096,
             theta=500000.0, eps=1e-5, bos=126080, eos=126081, mask=126336,
             special={126080: "<|startoftext|>", 126081: "<|endoftext|>", 126336: "<|mdm_mask|>",
                      126346: "<|start_header_id|>", 126347: "<|end_header_id|>", 126348: "<|eot_id|>"})
DREAM = dict(family="dream", width=3584, layers=28, heads=28, kv_heads=4, mlp=18944, vocab=152064, positions=131072,
             theta=1000000.0, eps=1e-6, bos=151643, eos=151643, mask=151666,
             special={151643: "<|endoftext|>", 151644: "<|im_start|>", 151645: "<|im_end|>",
                      151665: "<|beginoftext|>", 151666: "<|mask|>"})
SMALL = dict(width=256, layers=2, heads=4, mlp=512, vocab=640, positions=512, eos=600, bos=601, mask=602,
             special={600: "<|endoftext|>", 601: "<|startoftext|>", 602: "<|mask|>"})
SHAPES = {"llada-8b": LLADA, "dream-7b": DREAM,
          "llada-small": LLADA | SMALL | {"kv_heads": 4}, "dream-small": DREAM | SMALL | {"kv_heads": 2}}

# Module names of (Hugging Face LLaDA, Hugging Face Dream, GGUF). {} is a layer's number.
NAMES = {
    "embedding": ("model.transformer.wte", "model.embed_tokens", "token_embd"),
    "final_norm": ("model.transformer.ln_f", "model.norm", "output_norm"),
    "head": ("model.transformer.ff_out", "lm_head", "output"),
    "norm1": ("model.transformer.blocks.{}.attn_norm", "model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    "q": ("model.transformer.blocks.{}.q_proj", "model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
    "k": ("model.transformer.blocks.{}.k_proj", "model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
    "v": ("model.transformer.blocks.{}.v_proj", "model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    "o": ("model.transformer.blocks.{}.attn_out", "model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    "norm2": ("model.transformer.blocks.{}.ff_norm", "model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    "gate": ("model.transformer.blocks.{}.ff_proj", "model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
    "up": ("model.transformer.blocks.{}.up_proj", "model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
    "down": ("model.transformer.blocks.{}.ff_out", "model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
}

# GGUF type: (number in the file, values per block, bytes per block, `general.file_type`).
GGUF = {"f32": (0, 1, 4, 0), "f16": (1, 1, 2, 1), "bf16": (30, 1, 2, 32), "q8_0": (8, 32, 34, 7),
        "q4_k": (12, 256, 144, 15), "q6_k": (14, 256, 210, 18)}
SAFETENSORS = {"f32": ("F32", 4), "f16": ("F16", 2), "bf16": ("BF16", 2)}

# Blocks drawn at random, then repeated: a prime, so that the rows of a matrix do not repeat.
POOL = {1: 1_000_003, 32: 65_537, 256: 16_411}


class Tensor:
    """A tensor to be written; `part` is what it does in the network, `layer` where."""

    def __init__(self, shape, part, layer=None, bias=False):
        self.shape, self.part, self.layer, self.bias = shape, part, layer, bias

    def name(self, column):
        return NAMES[self.part][column].format(self.layer) + (".bias" if self.bias else ".weight")

    @property
    def count(self):
        return int(np.prod(self.shape))


def tensors(s):
    """All tensors of a model, in the order of the network."""
    d, kv, mlp = s["width"], s["width"] // s["heads"] * s["kv_heads"], s["mlp"]
    yield Tensor((s["vocab"], d), "embedding")
    for n in range(s["layers"]):
        yield Tensor((d,), "norm1", n)
        for part, rows in [("q", d), ("k", kv), ("v", kv)]:
            yield Tensor((rows, d), part, n)
            if s["family"] == "dream":
                yield Tensor((rows,), part, n, bias=True)
        yield Tensor((d, d), "o", n)
        yield Tensor((d,), "norm2", n)
        yield Tensor((mlp, d), "gate", n)
        yield Tensor((mlp, d), "up", n)
        yield Tensor((d, mlp), "down", n)
    yield Tensor((d,), "final_norm")
    yield Tensor((s["vocab"], d), "head")


class Numbers:
    """Random bytes of a format whose values have the scale 1 / sqrt(columns)."""

    def __init__(self, seed):
        self.seed, self.pools, self.matrices = seed, {}, 0

    def pool(self, kind, columns):
        key = kind, columns
        if key not in self.pools:
            self.pools[key] = self.draw(kind, columns ** -0.5)
        return self.pools[key]

    def draw(self, kind, scale):
        chance = np.random.default_rng(self.seed)
        values = GGUF[kind][1]
        n = POOL[values]
        half = lambda x: np.full((n, 1), x, "<f2").view(np.uint8).reshape(n, 2)
        if values == 1:
            return encode(chance.standard_normal(n, dtype=np.float32) * np.float32(scale), kind)
        if kind == "q8_0":  # value = d * q
            q = chance.integers(-127, 128, (n, 32), dtype=np.int8)
            return np.hstack([half(scale / 73), q.view(np.uint8)]).tobytes()
        if kind == "q6_k":  # value = d * scale of 16 * (q - 32)
            low, high = (chance.integers(0, 256, (n, width), dtype=np.uint8) for width in (128, 64))
            scales = chance.integers(64, 128, (n, 16)) * chance.choice([-1, 1], (n, 16))
            d = half(scale / (98 * 18.5))
            return np.hstack([low, high, scales.astype(np.int8).view(np.uint8), d]).tobytes()
        # q4_k: value = d * scale of 32 * q - dmin * min of 32; with min = scale and dmin = 7.5 d the mean is 0.
        d = scale / (48.6 * 4.6)
        s = chance.integers(32, 64, (n, 8), dtype=np.uint8)
        low, high = s[:, :4], s[:, 4:]
        packed = np.hstack([low | (high >> 4 << 6), low | (high >> 4 << 6), high & 15 | (high & 15) << 4])
        q = chance.integers(0, 256, (n, 128), dtype=np.uint8)
        return np.hstack([half(d), half(7.5 * d), packed, q]).tobytes()

    def write(self, file, tensor, kind):
        """-> bytes written."""
        number, values, size, _ = GGUF[kind]
        if len(tensor.shape) == 1:
            plain = np.zeros(tensor.count) if tensor.bias else np.ones(tensor.count)
            return file.write(encode(plain.astype(np.float32), kind))
        pool = self.pool(kind, tensor.shape[1])
        self.matrices += 1
        start = self.matrices * 7919 % POOL[values] * size  # another place for each matrix, so that none equals another
        left = total = tensor.count // values * size
        while left:
            left -= file.write(pool[start:start + left])
            start = 0
        return total


def encode(x, kind):
    if kind == "bf16":
        bits = x.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return x.astype({"f32": "<f4", "f16": "<f2"}[kind]).tobytes()


def write_folder(out, s, kind, shard_bytes, numbers):
    """Shards of safetensors with their index, and the configuration."""
    dtype, width = SAFETENSORS[kind]
    column = ["llada", "dream"].index(s["family"])
    shards, size = [[]], 0
    for t in tensors(s):
        if size and size + t.count * width > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(t)
        size += t.count * width
    out.mkdir(parents=True, exist_ok=True)
    index = {}
    for n, shard in enumerate(shards, 1):
        one = len(shards) == 1
        name = "model.safetensors" if one else f"model-{n:05}-of-{len(shards):05}.safetensors"
        header, end = {"__metadata__": {"format": "pt"}}, 0
        for t in shard:
            start, end = end, end + t.count * width
            header[t.name(column)] = {"dtype": dtype, "shape": t.shape, "data_offsets": [start, end]}
            index[t.name(column)] = name
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(out / name, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for t in shard:
                numbers.write(file, t, kind)
        print(f"{name}: {len(shard)} tensors", file=sys.stderr)
    if len(shards) > 1:
        total = sum(t.count * width for shard in shards for t in shard)
        index = {"metadata": {"total_size": total}, "weight_map": index}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    (out / "config.json").write_text(json.dumps(config(s, kind), indent=1))
    write_tokenizer(out, s)


def config(s, kind):
    """`config.json` with the fields that the published checkpoints have."""
    dtype = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[kind]
    if s["family"] == "llada":
        return {
            "architectures": ["LLaDAModelLM"], "model_type": "llada", "block_type": "llama", "block_group_size": 1,
            "activation_type": "silu", "alibi": False, "attention_layer_norm": False, "include_bias": False,
            "include_qkv_bias": False, "input_emb_norm": False, "layer_norm_type": "rms", "rope": True,
            "rope_full_precision": True, "rope_theta": s["theta"], "scale_logits": False, "weight_tying": False,
            "d_model": s["width"], "n_layers": s["layers"], "n_heads": s["heads"], "n_kv_heads": s["kv_heads"],
            "mlp_hidden_size": s["mlp"], "vocab_size": s["vocab"], "embedding_size": s["vocab"],
            "max_sequence_length": s["positions"], "rms_norm_eps": s["eps"], "mask_token_id": s["mask"],
            "eos_token_id": s["eos"], "pad_token_id": s["eos"], "torch_dtype": dtype}
    return {
        "architectures": ["DreamModel"], "model_type": "Dream", "hidden_act": "silu", "hidden_size": s["width"],
        "num_hidden_layers": s["layers"], "num_attention_heads": s["heads"], "num_key_value_heads": s["kv_heads"],
        "intermediate_size": s["mlp"], "vocab_size": s["vocab"], "max_position_embeddings": s["positions"],
        "rope_theta": s["theta"], "rope_scaling": None, "rms_norm_eps": s["eps"], "tie_word_embeddings": False,
        "use_sliding_window": False, "mask_token_id": s["mask"], "bos_token_id": s["bos"],
        "eos_token_id": s["eos"], "pad_token_id": s["eos"], "torch_dtype": dtype}


def vocabulary(s):
    """Token names by id: bytes in GPT-2's alphabet, one merged pair, names, special tokens."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    names = [chr(byte if byte in kept else next(others)) for byte in range(256)]
    names += ["Ġt"] + [f"t{i}" for i in range(257, s["vocab"])]
    for i, text in s["special"].items():
        names[i] = text
    return names


TEMPLATE = ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}")


def write_tokenizer(out, s):
    names = vocabulary(s)
    added = [{"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, text in s["special"].items()]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": added, "pre_tokenizer": level, "decoder": level,
        "model": {"type": "BPE", "vocab": {name: i for i, name in enumerate(names)}, "merges": [["Ġ", "t"]]}}
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    texts = {"eos_token": names[s["eos"]], "bos_token": names[s["bos"]], "mask_token": names[s["mask"]],
             "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}
    (out / "tokenizer_config.json").write_text(json.dumps(texts, indent=1))


def kinds(s, kind):
    """The format of each tensor, as llama.cpp mixes them: vectors in f32; in q4_k_m the head and, in half of the layers,
    v and down in q6_k."""
    def of(t):
        if len(t.shape) == 1:
            return "f32"
        if kind != "q4_k_m":
            return kind
        n, layers = t.layer, s["layers"]
        more = n is not None and (n < layers // 8 or n >= 7 * layers // 8 or (n - layers // 8) % 3 == 2)
        return "q6_k" if t.part == "head" or (t.part in ("v", "down") and more) else "q4_k"
    return of


def gguf_string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf_value(value):
    """Type and value; an integer is a u32, a float an f32."""
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + gguf_string(value)
    kind, encoded = (8, b"".join(map(gguf_string, value))) if isinstance(value[0], str) else (
        5, np.array(value, "<i4").tobytes())
    return struct.pack("<IIQ", 9, kind, len(value)) + encoded


def metadata(s, kind):
    a = s["family"]
    file_type = GGUF["q4_k" if kind == "q4_k_m" else kind][3]
    names = vocabulary(s)
    return {
        "general.architecture": a, "general.name": f"{a} with random weights", "general.file_type": file_type,
        "general.quantization_version": 2, f"{a}.context_length": s["positions"],
        f"{a}.embedding_length": s["width"], f"{a}.block_count": s["layers"], f"{a}.feed_forward_length": s["mlp"],
        f"{a}.attention.head_count": s["heads"], f"{a}.attention.head_count_kv": s["kv_heads"],
        f"{a}.attention.layer_norm_rms_epsilon": s["eps"], f"{a}.attention.causal": False,
        f"{a}.rope.freq_base": s["theta"], f"{a}.rope.dimension_count": s["width"] // s["heads"],
        f"{a}.vocab_size": s["vocab"], "diffusion.shift_logits": a == "dream",
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": [3 if i in s["special"] else 1 for i in range(len(names))],
        "tokenizer.ggml.merges": ["Ġ t"], "tokenizer.ggml.bos_token_id": s["bos"],
        "tokenizer.ggml.eos_token_id": s["eos"], "tokenizer.ggml.mask_token_id": s["mask"],
        "tokenizer.ggml.add_bos_token": False, "tokenizer.chat_template": TEMPLATE}


def write_gguf(out, s, kind, numbers):
    of = kinds(s, kind)
    every = list(tensors(s))
    infos, offset = b"", 0
    for t in every:
        number, values, size, _ = GGUF[of(t)]
        if t.shape[-1] % values:
            sys.exit(f"{t.name(2)}: {t.shape[-1]} columns are no multiple of {values}, as {of(t)} needs")
        infos += gguf_string(t.name(2)) + struct.pack(f"<I{len(t.shape)}QIQ", len(t.shape), *t.shape[::-1], number, offset)
        offset += -(-t.count // values * size // 32) * 32
    pairs = metadata(s, kind)
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "wb") as file:
        file.write(struct.pack("<4sIQQ", b"GGUF", 3, len(every), len(pairs)))
        for key, value in pairs.items():
            file.write(gguf_string(key) + gguf_value(value))
        file.write(infos)
        file.write(bytes(-file.tell() % 32))
        for t in every:
            written = numbers.write(file, t, of(t))
            file.write(bytes(-written % 32))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--type", choices=[*GGUF, "q4_k_m"], required=True,
                        help="bf16, f16 or f32; a GGUF file also q8_0, q6_k, q4_k, q4_k_m")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a folder, or a file that ends in .gguf")
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has")
    parser.add_argument("--shard-bytes", type=int, default=4 << 30, help="largest shard of a folder")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    s = SHAPES[a.shape] | ({"layers": a.layers} if a.layers else {})
    start, numbers = time.monotonic(), Numbers(a.seed)
    if a.out.suffix == ".gguf":
        write_gguf(a.out, s, a.type, numbers)
        files = [a.out]
    elif a.type in SAFETENSORS:
        write_folder(a.out, s, a.type, a.shard_bytes, numbers)
        files = list(a.out.glob("*.safetensors"))
    else:
        sys.exit(f"{a.type} is a format of GGUF files: let --out end in .gguf")
    size = sum(file.stat().st_size for file in files)
    seconds = time.monotonic() - start
    parameters = sum(t.count for t in tensors(s))
    print(f"{a.out}: {parameters / 1e6:.1f} million parameters, {size / 1e6:.1f} MB in {seconds:.1f} s")


if __name__ == "__main__":
    main()
