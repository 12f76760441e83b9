#!/usr/bin/env python3
"""Times PyTorch f32 on fixed id sequences: the yardstick of our own benchmark.

usage: speed.py MODEL_DIR [--workload 1x128 ...] [--how padded one_by_one] [--threads 2] [--repeats 5]
       speed.py MODEL_DIR --serve          answers each stdin line `run WORKLOAD HOW [REPEATS]` with one JSON line
       speed.py MODEL_DIR --dump-ids FILE  writes the sequences: {"workload", "ids"} a line; needs only config.json
--ids FILE takes the sequences from such a file, so that two engines compute exactly the same pairs.

`padded` runs a workload as one batch, padded to its longest pair; `one_by_one` runs each pair alone. A JSON line says
{"workload", "how", "pairs", "tokens", "seconds", "tokens_per_s", ...}: the median of the repeats after one warm-up;
tokens are the real ones, without padding. `--serve` first writes {"ready": true}, so that a driver can time two engines
in turn, within the same minute and under the same noise of the machine.
"""

import argparse
import json
import pathlib
import random
import statistics
import sys
import time

MIXED = [
    101, 81, 160, 52, 197, 356, 297, 96, 126, 47, 119, 91, 134, 171, 24, 213,
    183, 71, 66, 34, 107, 62, 113, 142, 57, 497, 234, 41, 260, 150, 76, 85,
]  # fmt: skip
WORKLOADS = {"1x128": [128], "1x512": [512], "8x512": [512] * 8, "mixed": MIXED}
HOWS = ("padded", "one_by_one")
FIRST_ORDINARY_ID = 5  # below it the RoBERTa family keeps its special tokens; a pad token would shift positions


def make_ids(vocab: int, seed: int) -> dict[str, list[list[int]]]:
    made = {}
    for name, lengths in WORKLOADS.items():
        rng = random.Random(f"{seed}:{name}")
        made[name] = [[rng.randrange(FIRST_ORDINARY_ID, vocab) for _ in range(n)] for n in lengths]
    return made


def read_ids(path: str) -> dict[str, list[list[int]]]:
    found: dict[str, list[list[int]]] = {}
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        if line.strip():
            row = json.loads(line)
            found.setdefault(row["workload"], []).append(row["ids"])
    return found


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("model_dir")
    args.add_argument("--workload", nargs="+", default=None)
    args.add_argument("--how", nargs="+", choices=HOWS, default=list(HOWS))
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--repeats", type=int, default=5)
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa", help="sdpa is PyTorch's fastest")
    args.add_argument("--ids", metavar="FILE")
    args.add_argument("--dump-ids", metavar="FILE")
    args.add_argument("--serve", action="store_true")
    args = args.parse_args()

    config = json.loads((pathlib.Path(args.model_dir) / "config.json").read_text(encoding="utf-8"))
    sequences = read_ids(args.ids) if args.ids else make_ids(config["vocab_size"], args.seed)
    if args.dump_ids:
        with open(args.dump_ids, "w", encoding="utf-8") as out:
            for name, rows in sequences.items():
                out.writelines(json.dumps({"workload": name, "ids": row}) + "\n" for row in rows)
        return

    # imported late: writing the ids needs neither PyTorch nor the weights
    import torch

    import torch_model

    torch.set_num_threads(args.threads)
    model = torch_model.load(args.model_dir, args.attention)

    warm: set[tuple[str, str]] = set()

    @torch.inference_mode()
    def run(name: str, how: str, repeats: int) -> dict:
        rows = sequences[name]
        batches = [rows] if how == "padded" else [[row] for row in rows]
        batches = [torch_model.tensors(batch, pad=config.get("pad_token_id", 1)) for batch in batches]
        seconds = []
        cold = (name, how) not in warm
        for _ in range(repeats + cold):
            start = time.perf_counter()
            for batch in batches:
                model(**batch).logits.sum().item()
            seconds.append(time.perf_counter() - start)
        del seconds[: int(cold)]
        warm.add((name, how))
        median, tokens = statistics.median(seconds), sum(map(len, rows))
        return {
            "workload": name,
            "how": how,
            "pairs": len(rows),
            "tokens": tokens,
            "seconds": round(median, 6),
            "tokens_per_s": round(tokens / median, 1),
            "min_seconds": round(min(seconds), 6),
            "repeats": repeats,
            "threads": torch.get_num_threads(),
            "engine": f"pytorch {torch.__version__} f32 {args.attention}",
        }

    def say(value: dict) -> None:
        print(json.dumps(value), flush=True)

    if not args.serve:
        for name in args.workload or sequences:
            if name not in sequences:
                sys.exit(f"unknown workload {name}; there are {', '.join(sequences)}")
            for how in args.how:
                say(run(name, how, args.repeats))
        return

    say({"ready": True, "workloads": list(sequences), "threads": torch.get_num_threads()})
    for line in sys.stdin:
        words = line.split()
        if not words:
            continue
        if words == ["quit"]:
            return
        bad = len(words) not in (3, 4) or words[0] != "run" or words[1] not in sequences or words[2] not in HOWS
        repeats = words[3] if len(words) == 4 else str(args.repeats)
        if bad or not repeats.isdecimal() or int(repeats) < 1:
            say({"error": f"not understood: {line.strip()}; write: run {'|'.join(sequences)} {'|'.join(HOWS)} [REPEATS]"})
            continue
        say(run(words[1], words[2], int(repeats)))


if __name__ == "__main__":
    main()
