#!/usr/bin/env python3
"""Makes long (query, passage) pairs of the texts of bench/pairs.jsonl, to compare logits at lengths nobody writes by hand.

usage: long_pairs.py PAIRS.jsonl WORDS...       a pair a line on stdout, each with a passage of that many words
"""

import itertools
import json
import sys


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as lines:
        pairs = [json.loads(line) for line in lines if line.strip()]
    words = " ".join(pair["passage"] for pair in pairs).split()
    for at, count in enumerate(map(int, sys.argv[2:])):
        # each begins elsewhere, or the shorter ones would be mere beginnings of the longest
        passage = " ".join(itertools.islice(itertools.cycle(words), at * 7, at * 7 + count))
        query = next(pair["query"] for pair in pairs[at:] if pair["query"].strip())
        print(json.dumps({"query": query, "passage": passage}, ensure_ascii=False))


if __name__ == "__main__":
    main()
