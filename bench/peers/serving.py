"""What every peer script has in common: it reads token ids, runs an engine over them, and says how long that took.

usage of every peer script: SCRIPT --model PATH --ids FILE [--threads 2] [--workload NAME ...] [--rounds 5]
                            SCRIPT --model PATH --ids FILE [--threads 2] --serve

--ids FILE holds a sequence a line: {"workload": str, "ids": [int]}, so that all engines compute exactly the same pairs.
Without --serve each workload is prepared and timed, and one JSON line says {"system", "workload", "way", "pairs", "tokens",
"seconds": [of each round], "median", "peak_rss_bytes"}.

With --serve a driver times several engines in turn, so that whatever else the machine does meets all of them alike. The script
first says {"ready": true, "system", "version", "threads"} and then answers each line of stdin by one line:
    prepare WORKLOAD [WAY]  runs it until it is warm, and finds the fastest of the engine's ways to batch it, unless WAY says
                            which; {"workload", "way", "tried": {way: seconds}, "logits"}
    run WORKLOAD            one timed run in that way; {"workload", "seconds"}

Ways: `one_by_one` runs each pair alone; `batched` pads all pairs to the longest; `grouped` sorts the pairs and makes batches
that pad at most a quarter of a sequence.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
from typing import Callable, NamedTuple

PAD = 1
# Padding that more than doubles the tokens costs more than any batch gains: measured, and not measured again each time.
WORST_PADDING = 2.0
GROUP_SPAN = 0.75


class Engine(NamedTuple):
    system: str
    version: str
    score: Callable[[list[list[int]]], list[float]]
    """Logits of one batch of sequences, which the engine itself pads to the longest."""


def padded(rows: list[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Ids and attention mask, as wide as the longest row."""
    width = max(map(len, rows))
    ids = [row + [PAD] * (width - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return ids, mask


def one_by_one(lengths: list[int]) -> list[list[int]]:
    return [[index] for index in range(len(lengths))]


def batched(lengths: list[int]) -> list[list[int]]:
    return [list(range(len(lengths)))]


def grouped(lengths: list[int]) -> list[list[int]]:
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups and lengths[index] >= GROUP_SPAN * lengths[groups[-1][0]]:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


WAYS = {"one_by_one": one_by_one, "batched": batched, "grouped": grouped}


def ways(lengths: list[int]) -> dict[str, list[list[int]]]:
    """The ways worth trying, as batches of indices."""
    found: dict[str, list[list[int]]] = {}
    for name, way in WAYS.items():
        batches = way(lengths)
        computed = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
        if batches not in found.values() and computed <= WORST_PADDING * sum(lengths):
            found[name] = batches
    return found


class Bench:
    def __init__(self, engine: Engine, workloads: dict[str, list[list[int]]]):
        self.engine = engine
        self.workloads = workloads
        self.chosen: dict[str, str] = {}

    def once(self, name: str, way: str) -> tuple[float, list[float]]:
        rows = self.workloads[name]
        logits = [0.0] * len(rows)
        start = time.perf_counter()
        for batch in WAYS[way](list(map(len, rows))):
            for index, logit in zip(batch, self.engine.score([rows[i] for i in batch])):
                logits[index] = logit
        return time.perf_counter() - start, logits

    def prepare(self, name: str, way: str | None = None) -> dict:
        tried = {}
        names = [way] if way else list(ways(list(map(len, self.workloads[name]))))
        for at in names:
            # once for every shape to have been seen, then timed
            _, logits = self.once(name, at)
            tried[at] = self.once(name, at)[0] if len(names) > 1 else 0.0
        self.chosen[name] = min(tried, key=tried.__getitem__)
        return {"workload": name, "way": self.chosen[name], "tried": tried, "logits": logits}

    def run(self, name: str) -> dict:
        return {"workload": name, "seconds": self.once(name, self.chosen[name])[0]}


def say(value: dict) -> None:
    print(json.dumps(value), flush=True)


def main(load: Callable[[str, int], Engine]) -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--model", required=True)
    args.add_argument("--ids", required=True)
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--workload", action="append", help="may be given more than once; all where it is not given")
    args.add_argument("--rounds", type=int, default=5)
    args.add_argument("--serve", action="store_true")
    args = args.parse_args()
    # Every library that keeps a pool of its own reads this when it is imported, which `load` does.
    os.environ["OMP_NUM_THREADS"] = str(args.threads)

    workloads: dict[str, list[list[int]]] = {}
    with open(args.ids, encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            workloads.setdefault(row["workload"], []).append(row["ids"])
    unknown = set(args.workload or ()) - set(workloads)
    if unknown:
        sys.exit(f"{args.ids} has no workload {', '.join(sorted(unknown))}, only {', '.join(workloads)}")
    engine = load(args.model, args.threads)
    bench = Bench(engine, workloads)

    if not args.serve:
        for name in args.workload or workloads:
            prepared = bench.prepare(name)
            seconds = [bench.run(name)["seconds"] for _ in range(args.rounds)]
            say({
                "system": engine.system,
                "version": engine.version,
                "threads": args.threads,
                "workload": name,
                "way": prepared["way"],
                "pairs": len(workloads[name]),
                "tokens": sum(map(len, workloads[name])),
                "seconds": seconds,
                "median": statistics.median(seconds),
                "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            })  # fmt: skip
        return

    say({"ready": True, "system": engine.system, "version": engine.version, "threads": args.threads})
    for line in sys.stdin:
        words = line.split()
        try:
            if words[0] == "prepare" and len(words) <= 3:
                say(bench.prepare(*words[1:]))
            elif words[0] == "run" and len(words) == 2:
                say(bench.run(words[1]))
            else:
                say({"error": f"not understood: {line.strip()}"})
        except (KeyError, IndexError) as why:
            say({"error": f"{line.strip()}: {why!r}"})
