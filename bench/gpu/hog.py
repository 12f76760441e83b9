#!/usr/bin/env python3
"""Takes all of the GPU's memory but so many MiB, says so by a line of JSON, and keeps it until it is killed."""

import json
import sys
import time

import torch

left = int(sys.argv[1]) << 20
torch.zeros(1, device="cuda")
held = []
# In pieces: what is free is not in one.
for piece in (1 << 30, 64 << 20):
    while torch.cuda.mem_get_info()[0] - piece > left:
        held.append(torch.empty(piece, dtype=torch.uint8, device="cuda"))
print(json.dumps({"free": torch.cuda.mem_get_info()[0]}), flush=True)
time.sleep(600)
