"""PyTorch's best matrix product, in billions of operations a second: torch_peak.py THREADS f32|bf16|int8"""
import sys
import time

import torch

torch.set_num_threads(int(sys.argv[1]))
kind = sys.argv[2]
best = 0.0
with torch.no_grad():
    for rows in (256, 1024):
        if kind == "int8":
            x, w = (torch.randint(-127, 127, (n, 4096), dtype=torch.int8) for n in (rows, 4096))
            product = lambda: torch._int_mm(x, w.t())  # noqa: E731
        else:
            dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[kind]
            x, w = (torch.randn(n, 4096).to(dtype) for n in (rows, 4096))
            product = lambda: torch.nn.functional.linear(x, w)  # noqa: E731
        for _ in range(12):
            start = time.perf_counter()
            product()
            best = max(best, 2 * rows * 4096 * 4096 / (time.perf_counter() - start))
print(best / 1e9)
