#!/usr/bin/env python3
"""What this chip does at most with a product of square matrices of random values, in TFLOP/s, a line for each precision."""

import json
import os
import statistics
import time

import torch

DEVICE = os.environ.get("DEVICE", "cuda")
DTYPES = {"f32": torch.float32} if DEVICE == "cpu" else {"f16": torch.float16, "bf16": torch.bfloat16}
SIZE = 1024 if DEVICE == "cpu" else 8192

for name, dtype in DTYPES.items():
    a, b = (torch.randn(SIZE, SIZE, device=DEVICE).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(23):
        start = time.perf_counter()
        a @ b
        if DEVICE != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[3:])
    print(json.dumps({"precision": name, "size": SIZE, "tflops": 2 * SIZE**3 / median / 1e12, "by": f"torch {torch.__version__}"}))
