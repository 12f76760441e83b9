#!/usr/bin/env python3
"""Scores a file of pairs on a Spark cluster, by the program on every executor.

    spark-submit --conf spark.task.cpus=4 spark_rerank.py PAIRS SCORES [--program reranker] [--model FOLDER]

PAIRS is JSON Lines of {"id", "query", "passage"}. SCORES becomes a folder of Parquet, a row for each pair, in no certain order: id, score, logit,
tokens and truncated, or error where a pair cannot be scored. The program and the model have the same path on every machine, and the machines
need pyarrow and pandas. A task's program has as many threads as spark.task.cpus. A lost executor's pairs are scored again.
"""

import argparse
import json
import os
import subprocess

import pyarrow
from pyspark.sql import SparkSession

COLUMNS = "id string, score double, logit double, tokens int, truncated boolean, error struct<code: string, message: string>"
TYPES = pyarrow.schema({
    "id": pyarrow.string(),
    "score": pyarrow.float64(),
    "logit": pyarrow.float64(),
    "tokens": pyarrow.int32(),
    "truncated": pyarrow.bool_(),
    "error": pyarrow.struct({"code": pyarrow.string(), "message": pyarrow.string()}),
})


def scorer(program, model, threads):
    command = [program, "score", "--jsonl", "-", *(["--model", model] if model else [])]

    def score(batches):
        for batch in batches:
            pairs = "".join(json.dumps(pair) + "\n" for pair in batch.to_pylist())
            done = subprocess.run(command, input=pairs, capture_output=True, encoding="utf-8", env={**os.environ, "THREADS": threads})
            # The exit code is 1 where rows have an error of their own.
            rows = [json.loads(line) for line in done.stdout.splitlines()]
            if done.returncode not in (0, 1) or len(rows) != batch.num_rows:
                raise RuntimeError(f"{program} ended with {done.returncode} after {len(rows)} of {batch.num_rows} pairs: {done.stderr[-2000:]}")
            yield pyarrow.RecordBatch.from_pylist(rows, TYPES)

    return score


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("pairs")
    options.add_argument("scores")
    options.add_argument("--program", default="reranker")
    options.add_argument("--model", help="where it is not given, MODEL_DIR or MODEL_NAME of the executors")
    options.add_argument("--tasks", type=int, help="pieces of work; a lost one is done again whole (default: as Spark reads PAIRS)")
    asked = options.parse_args()

    spark = SparkSession.builder.appName("rerank").getOrCreate()
    pairs = spark.read.schema("id string, query string, passage string").json(asked.pairs)
    if asked.tasks:
        pairs = pairs.repartition(asked.tasks)
    threads = spark.conf.get("spark.task.cpus", "1")
    pairs.mapInArrow(scorer(asked.program, asked.model, threads), COLUMNS).write.parquet(asked.scores)


if __name__ == "__main__":
    main()
