"""The fixed sequences that all engines are timed on: lengths, and ids that are the same in every run.

Speed does not depend on which ids there are, but each engine must get the same ones. They stay clear of the special tokens,
since a pad token in the middle would shift the positions behind it, and have those of a single text at their ends.
"""

from __future__ import annotations

import json
import random

# One request as a real one has its lengths: 4,443 tokens, the longest 497.
MIXED = [
    101, 81, 160, 52, 197, 356, 297, 96, 126, 47, 119, 91, 134, 171, 24, 213,
    183, 71, 66, 34, 107, 62, 113, 142, 57, 497, 234, 41, 260, 150, 76, 85,
]  # fmt: skip
TABLE = {"1x128": [128], "1x512": [512], "mixed": MIXED, "8x512": [512] * 8}
# The curve of latency against tokens.
CURVE = {f"1x{n}": [n] for n in (16, 32, 64, 128, 256, 512, 1024, 2048)}
# Requests of a retriever's passages. Cost must grow linearly in tokens, to a request as large as they get.
PASSAGES = {f"{n}x128": [128] * n for n in (10, 30, 100)}
LENGTHS = {**CURVE, **TABLE, **PASSAGES}

FIRST_ORDINARY, BEGIN, END = 5, 0, 2


def write(path: str, names: list[str], vocabulary: int) -> None:
    with open(path, "w", encoding="utf-8") as out:
        for name in names:
            draw = random.Random(name)
            for length in LENGTHS[name]:
                ids = [draw.randrange(FIRST_ORDINARY, vocabulary - 1) for _ in range(length - 2)]
                out.write(json.dumps({"workload": name, "ids": [BEGIN, *ids, END]}) + "\n")


def flop(name: str, config: dict) -> float:
    """Multiplications and additions of the encoder's layers, the linear ones and attention, without any padding."""
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    per_token = 2 * (4 * hidden * hidden + 2 * hidden * inner)
    return layers * sum(n * per_token + 4 * n * n * hidden for n in LENGTHS[name])
