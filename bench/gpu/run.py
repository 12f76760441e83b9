#!/usr/bin/env python3
"""Holds the GPU to f32 on the CPU, times it beside PyTorch, and keeps what came out as a record with the chip's name.

usage: run.py [--binary PATH] [--model FOLDER] [--rounds 20] [--try]

Every system has the same ids (bench/workloads.py), is warm, and batches in its own fastest way; they take turns within each round.
Fails where a score differs from the CPU's f32 by more than 0.002, or 0.02 in bf16, which has eight bits: those of the workloads, and those
of bench/pairs.jsonl with the bundled model, whose scores mean something.

--try runs the same on the CPU, with a model that is given and small, to see that all this works. It records nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

BENCH = pathlib.Path(__file__).resolve().parent.parent
ROOT = BENCH.parent
sys.path.insert(0, str(BENCH))

import workloads

NAMES = ["8x512", "mixed"]
MOST = {"f32": 0.002, "f16": 0.002, "bf16": 0.02}
DTYPES = {"f16": "float16", "bf16": "bfloat16"}


class Process:
    """A system that has loaded its model, and answers as bench/peers/serving.py says."""

    def __init__(self, name: str, command: list, env: dict[str, str]):
        self.name = name
        command = [str(word) for word in command]
        self.child = subprocess.Popen(
            command, env={**os.environ, **env}, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.about = self.answer()

    def answer(self) -> dict:
        line = self.child.stdout.readline()
        answer = json.loads(line) if line else {"error": "it ended"}
        if "error" in answer:
            sys.exit(f"{self.name}: {answer['error']}")
        return answer

    def ask(self, *words: str) -> dict:
        self.child.stdin.write(" ".join(words) + "\n")
        self.child.stdin.flush()
        return self.answer()


def gpu() -> dict:
    query = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version,memory.total", "--format=csv,noheader", "--id=0"]
    try:
        out = subprocess.run(query, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as why:
        sys.exit(f"no GPU to measure on: {why}")
    return dict(zip(["gpu", "compute_capability", "driver", "gpu_memory"], [part.strip() for part in out.split(",")]))


def score(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def apart(found: list[float], wanted: list[float]) -> float:
    assert len(found) == len(wanted), (len(found), len(wanted))
    return max(abs(score(a) - score(b)) for a, b in zip(found, wanted))


def of_pairs(binary: pathlib.Path, env: dict[str, str]) -> list[float]:
    """Logits of bench/pairs.jsonl with the bundled model."""
    done = subprocess.run(
        [binary, "score", "--raw", "--jsonl", BENCH / "pairs.jsonl"],
        env={**os.environ, "MODEL_DIR": str(ROOT / "models/demo"), **env},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return [json.loads(line)["logit"] for line in done.stdout.splitlines()]


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/cuda/release/reranker")
    parse.add_argument("--model", type=pathlib.Path, default=ROOT / "target/bench/synthetic")
    parse.add_argument("--rounds", type=int, default=20)
    parse.add_argument("--try", dest="dry", action="store_true")
    args = parse.parse_args()
    os.environ.pop("MODEL_NAME", None)
    config = json.loads((args.model / "config.json").read_text(encoding="utf-8"))
    about = {} if args.dry else gpu()
    on = {"DEVICE": "cpu" if args.dry else "cuda"}

    with tempfile.TemporaryDirectory() as work:
        ids = pathlib.Path(work) / "ids.jsonl"
        workloads.write(str(ids), NAMES, config["vocab_size"])

        def ours(name: str, env: dict[str, str]) -> Process:
            return Process(name, [args.binary, "bench", "--serve", "--ids", ids], {"MODEL_DIR": str(args.model), **env})

        reference = ours("reranker f32 on the CPU", {"DEVICE": "cpu", "PRECISION": "f32"})
        wanted = {name: reference.ask("prepare", name)["logits"] for name in NAMES}
        reference.child.kill()
        pairs = of_pairs(args.binary, {"DEVICE": "cpu", "PRECISION": "f32"})

        systems, wrong = [], []
        precisions = ["f32"] if args.dry else ["f16", "bf16", "f32"]
        # What the chip or the build cannot do is named in the record.
        if about and (float(about["compute_capability"]) < 8 or int(os.environ.get("CUDA_COMPUTE_CAP", "75")) < 80):
            precisions.remove("bf16")
        for precision in precisions:
            env = {**on, "PRECISION": precision}
            systems.append((ours(f"reranker {precision}", env), apart(of_pairs(args.binary, env), pairs)))
        peer = [sys.executable, BENCH / "gpu/pytorch_sdpa.py", "--model", args.model, "--ids", ids, "--serve"]
        for precision in precisions:
            dtype = DTYPES.get(precision, "float32")
            systems.append((Process(f"pytorch {precision}", peer, {**on, "DTYPE": dtype}), None))

        times: dict[tuple[str, str], dict] = {}
        for system, off in systems:
            for name in NAMES:
                prepared = system.ask("prepare", name)
                difference = apart(prepared["logits"], wanted[name])
                worst = max(difference, off or 0.0)
                engine, precision = system.name.split()
                if engine == "reranker" and worst > MOST[precision]:
                    wrong.append(f"{system.name}, {name}: a score differs by {worst:.4f}")
                times[system.name, name] = {
                    "kind": "time",
                    "system": system.name,
                    "engine": system.about["system"],
                    "version": system.about["version"],
                    "workload": name,
                    "way": prepared["way"],
                    "tokens": sum(workloads.LENGTHS[name]),
                    "max_score_difference": difference,
                    **({"max_score_difference_pairs": off} if off is not None else {}),
                    "seconds": [],
                }
        for turn in range(args.rounds):
            for system, _ in systems[turn % len(systems) :] + systems[: turn % len(systems)]:
                for name in NAMES:
                    times[system.name, name]["seconds"].append(system.ask("run", name)["seconds"])
        for system, _ in systems:
            system.child.kill()

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True).stdout.strip()

    now = datetime.datetime.now(datetime.timezone.utc)
    shape = ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")
    run = {
        "kind": "run",
        "run": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        **about,
        "commit": git("rev-parse", "--short", "HEAD"),
        "model": {key: config[key] for key in shape},
        "rounds": args.rounds,
    }
    lines = [run]
    print(f"{'':14}{'workload':10}{'median ms':>10}{'tokens/s':>10}{'score apart':>13}")
    for line in times.values():
        line["median"] = statistics.median(line["seconds"])
        line["run"] = run["run"]
        lines.append(line)
        print(
            f"{line['system']:14}{line['workload']:10}{line['median'] * 1e3:10.2f}"
            f"{line['tokens'] / line['median']:10.0f}{line['max_score_difference']:13.1e}"
        )
    if not args.dry:
        chip = re.sub(r"[^a-z0-9]+", "-", about["gpu"].lower()).strip("-")
        record = BENCH / "records" / f"{now:%Y-%m-%d}-gpu-{chip}.jsonl"
        record.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        print(f"recorded in {record.relative_to(ROOT)}")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
