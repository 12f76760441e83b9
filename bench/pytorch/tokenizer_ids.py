#!/usr/bin/env python3
"""Token ids of (query, passage) pairs from Hugging Face's fast tokenizer, to compare ours with on any amount of text.

usage: tokenizer_ids.py TOKENIZER_JSON [--max-length 512] [--truncation longest_first|flag|none] [--type-ids] \
           < pairs.jsonl > ids.jsonl
in:  one {"query": str, "passage": str} a line      out: one {"ids": [int]} a line, in the same order
"""

import argparse
import json
import sys

from pairs import RULES, PairEncoder


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("tokenizer_json")
    args.add_argument("--max-length", type=int, default=512)
    args.add_argument("--truncation", choices=RULES, default="longest_first")
    args.add_argument("--type-ids", action="store_true", help="also write token_type_ids")
    args = args.parse_args()
    encoder = PairEncoder(args.tokenizer_json)
    for number, line in enumerate(sys.stdin.buffer, 1):
        if not line.strip():
            continue
        row = json.loads(line)
        try:
            pair = encoder.encode(row["query"], row["passage"], args.max_length, args.truncation)
        except (KeyError, ValueError) as why:
            sys.exit(f"line {number}: {why!r}")
        out = {"ids": pair.ids}
        if args.type_ids:
            out["token_type_ids"] = pair.type_ids
        print(json.dumps(out, separators=(",", ":")))


if __name__ == "__main__":
    main()
