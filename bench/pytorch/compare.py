#!/usr/bin/env python3
"""Compares our logits with PyTorch f32, pair by pair, one at a time and without padding.

usage: compare.py MODEL_DIR INPUT.jsonl OURS.jsonl [--tolerance 1e-4] [--max-length 512] [--truncation RULE]
       compare.py MODEL_DIR INPUT.jsonl --write LOGITS.jsonl
INPUT: a line is {"ids": [int], "token_type_ids"?: [int]} or {"query": str, "passage": str}
OURS:  a line is {"logit": float}, in the same order
exit:  0 within the tolerance, 1 over it, 2 when the files do not fit each other
"""

import argparse
import json
import math
import sys
import time

import torch

import torch_model
from pairs import RULES, PairEncoder


def fail(why: str):
    print(why, file=sys.stderr)
    sys.exit(2)


def read(path: str) -> list[dict]:
    try:
        with open(path, encoding="utf-8") as lines:
            return [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as why:
        fail(f"{path}: {why}")


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("model_dir")
    args.add_argument("input")
    args.add_argument("ours", nargs="?")
    args.add_argument("--tolerance", type=float, default=1e-4)
    args.add_argument("--max-length", type=int, default=512)
    args.add_argument("--truncation", choices=RULES, default="longest_first")
    args.add_argument("--attention", choices=("eager", "sdpa"), default="eager")
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--write", metavar="FILE", help="also write PyTorch's logits, one JSON object a line")
    args = args.parse_args()
    if args.ours is None and args.write is None:
        fail("give OURS.jsonl, --write FILE, or both")
    torch.set_num_threads(args.threads)

    rows = read(args.input)
    ours = read(args.ours) if args.ours else None
    if not rows:
        fail(f"{args.input}: no line to compare")
    if ours is not None and len(ours) != len(rows):
        fail(f"{args.ours}: {len(ours)} lines, {args.input} has {len(rows)}")

    encoder = None
    model = torch_model.load(args.model_dir, args.attention)
    worst, worst_at, total, failed, logits, start = 0.0, 0, 0.0, 0, [], time.perf_counter()
    for at, row in enumerate(rows):
        if "ids" in row:
            ids, types = row["ids"], row.get("token_type_ids")
        else:
            encoder = encoder or PairEncoder(f"{args.model_dir}/tokenizer.json")
            pair = encoder.encode(row["query"], row["passage"], args.max_length, args.truncation)
            ids, types = pair.ids, pair.type_ids
        want = torch_model.logit(model, ids, types)
        logits.append(want)
        if ours is None:
            continue
        got = ours[at].get("logit")
        if not isinstance(got, (int, float)):
            fail(f"{args.ours}: line {at + 1} has no logit")
        diff = abs(got - want)
        # a NaN compares false with everything, so ask for what is wanted, not for what is not
        if not diff <= args.tolerance:
            failed += 1
            print(f"line {at + 1}: {len(ids)} tokens, ours {got!r}, pytorch {want!r}, differ by {diff:.3g}")
        if not diff <= worst:
            worst, worst_at = (diff if math.isfinite(diff) else math.inf), at
        total += diff
    if args.write:
        with open(args.write, "w", encoding="utf-8") as out:
            out.writelines(json.dumps({"logit": value}) + "\n" for value in logits)
    summary = {
        "pairs": len(rows),
        "logit_min": min(logits),
        "logit_max": max(logits),
        "seconds": round(time.perf_counter() - start, 2),
        "torch": torch.__version__,
    }
    if ours is not None:
        summary |= {
            "max_abs_diff": worst,
            "at_line": worst_at + 1,
            "mean_abs_diff": total / len(rows),
            "tolerance": args.tolerance,
            "over": failed,
        }
    print(json.dumps(summary))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
