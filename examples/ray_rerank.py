#!/usr/bin/env python3
"""Scores a file of pairs on a Ray cluster, by the program on every worker.

    python ray_rerank.py PAIRS SCORES [--program reranker] [--model FOLDER] [--cpus 4]

PAIRS is JSON Lines of {"id", "query", "passage"}. SCORES becomes a folder of Parquet, a row for each pair, in no certain order: id, score, logit,
tokens and truncated, or error where a pair cannot be scored. The program and the model have the same path on every machine. A task's program has
as many threads as --cpus. A lost worker's pairs are scored again.
"""

import argparse
import json
import os
import subprocess

import pyarrow
import ray

TYPES = {
    "score": pyarrow.float64(),
    "logit": pyarrow.float64(),
    "tokens": pyarrow.int32(),
    "truncated": pyarrow.bool_(),
    "error": pyarrow.struct({"code": pyarrow.string(), "message": pyarrow.string()}),
}


def scorer(program, model, threads):
    command = [program, "score", "--jsonl", "-", *(["--model", model] if model else [])]

    def score(batch):
        pairs = "".join(json.dumps(pair) + "\n" for pair in batch.to_pylist())
        done = subprocess.run(command, input=pairs, capture_output=True, encoding="utf-8", env={**os.environ, "THREADS": threads})
        # The exit code is 1 where rows have an error of their own.
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        if done.returncode not in (0, 1) or len(rows) != batch.num_rows:
            raise RuntimeError(f"{program} ended with {done.returncode} after {len(rows)} of {batch.num_rows} pairs: {done.stderr[-2000:]}")
        return pyarrow.Table.from_pylist(rows, pyarrow.schema({"id": batch.schema.field("id").type, **TYPES}))

    return score


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("pairs")
    options.add_argument("scores")
    options.add_argument("--program", default="reranker")
    options.add_argument("--model", help="where it is not given, MODEL_DIR or MODEL_NAME of the workers")
    options.add_argument("--cpus", type=int, default=1, help="of a task")
    options.add_argument("--batch", type=int, default=1000, help="pairs of a task")
    asked = options.parse_args()

    pairs = ray.data.read_json(asked.pairs)
    score = scorer(asked.program, asked.model, str(asked.cpus))
    pairs.map_batches(score, batch_format="pyarrow", batch_size=asked.batch, num_cpus=asked.cpus).write_parquet(asked.scores)


if __name__ == "__main__":
    main()
