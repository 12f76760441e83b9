#!/usr/bin/env python3
"""Times every shape of src/cli/models.json: what a model costs does not depend on the values of its weights.

usage: models.py [MODEL ...]          measure these models, or all, into a record of today
       models.py --report [RECORD]    print the table
       models.py --write | --check    write what is made of the newest record, or fail where that is another: the table of
                                      docs/explain/models.md, and the milliseconds of src/cli/models.json

Each shape gets seeded weights and a tokenizer of its class. It is packed with 8-bit inputs in every matrix, and once with 7 bits for
AVX2. Measured are 10, 30 and 100 passages of 128 tokens, held to AVX2, to AVX-512 VNNI and to AMX, as far as the chip has them; the
memory after them; the size of the packed file; and a start with the files in the page cache. ONNX Runtime's int8 of the same graph
takes turns with ours for some shapes, as it is, and held to AVX2 (peers/held_to_avx2.c) where the chip can hold a process to it.

The systems take turns, as in run.py. Rounds go on until the time of a shape is spent: at least one, at most --rounds.
The records' lines: `run` (the machine, versions, the commit), `shape` (a model's files), `time`, `cold`, `left out`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
from dataclasses import dataclass

import costs
import run
import workloads

ROOT = run.ROOT
TABLE = ROOT / "src/cli/models.json"
PAGE = ROOT / "docs/explain/models.md"
BEGIN, END = "<!-- table: bench/models.py -->", "<!-- end of table -->"
GROUP = "models"
WORKLOADS = list(workloads.PASSAGES)
MOST = WORKLOADS[-1]

AVX2, AVX2_7, VNNI, AMX = run.INT8_AVX2, run.INT8_AVX2_7, run.INT8_VNNI, run.INT8_AMX
ONNX = run.ONNX
ONNX_AVX2 = "onnxruntime int8 avx2"
# Models whose graph ONNX Runtime is timed on too: each kind of layer once, and the small ones that functions run.
BESIDE = (
    "cross-encoder/ms-marco-MiniLM-L6-v2",
    "cross-encoder/ettin-reranker-32m-v1",
    "Alibaba-NLP/gte-multilingual-reranker-base",
    "Alibaba-NLP/gte-reranker-modernbert-base",
)
# Whose head is in modules of sentence-transformers.
MODULAR = "cross-encoder/ettin-reranker-"


@dataclass(frozen=True)
class Shape:
    """What models of one architecture and one size have in common."""

    config: str
    tokenizer: pathlib.Path
    models: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.models[0]


def config(model: dict) -> dict:
    """A config.json of this shape, as the model's own repository has it."""
    shape = model["shape"]
    hidden, layers = shape["hidden"], shape["layers"]
    common = {
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "model_type": model["model_type"],
        "vocab_size": shape["vocab"],
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": shape.get("heads", hidden // 64),
        "intermediate_size": shape["intermediate"],
    }
    if model["model_type"] == "modernbert":
        modular = model["id"].startswith(MODULAR)
        return {
            **common,
            "architectures": ["ModernBertModel" if modular else "ModernBertForSequenceClassification"],
            "max_position_embeddings": model["max_length"],
            "local_attention": 128,
            "global_attn_every_n_layers": 3,
            "global_rope_theta": 160000.0,
            "local_rope_theta": 10000.0,
            "norm_eps": 1e-05,
            "pad_token_id": 0,
            "classifier_pooling": "mean",
        }
    if model["model_type"] == "new":
        return {
            **common,
            "architectures": ["NewForSequenceClassification"],
            "auto_map": {
                "AutoConfig": "configuration.NewConfig",
                "AutoModel": "modeling.NewModel",
                "AutoModelForSequenceClassification": "modeling.NewForSequenceClassification",
            },
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "layer_norm_type": "layer_norm",
            "max_position_embeddings": model["max_length"],
            "pack_qkv": True,
            "pad_token_id": 1,
            "position_embedding_type": "rope",
            "rope_scaling": {"factor": 8.0, "type": "ntk"},
            "rope_theta": 20000,
            "type_vocab_size": 1,
        }
    bert = model["model_type"] in ("bert", "electra")
    kind = {"bert": "Bert", "electra": "Electra", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}[model["model_type"]]
    return {
        **common,
        "architectures": [f"{kind}ForSequenceClassification"],
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12 if bert else 1e-05,
        "max_position_embeddings": shape["positions"],
        "pad_token_id": 0 if bert else 1,
        "position_embedding_type": "absolute",
        "type_vocab_size": 2 if bert else 1,
        **({"embedding_size": hidden} if model["model_type"] == "electra" else {}),
        **({"auto_map": model["auto_map"]} if "auto_map" in model else {}),
    }


def tokenizers(folder: pathlib.Path | None) -> dict[str, pathlib.Path]:
    """A tokenizer of each family's class: the true one of XLM-RoBERTa where its folder is given, else the tests' small ones."""
    pieces = folder / "tokenizer.json" if folder else ROOT / "tests/golden/xlm-roberta/tokenizer.json"
    words = ROOT / "tests/golden/bert/tokenizer.json"
    return {
        "bert": words,
        "electra": words,
        "roberta": ROOT / "tests/golden/roberta/tokenizer.json",
        "modernbert": ROOT / "tests/golden/tokenizers/modernbert.json",
        "xlm-roberta": pieces,
        "new": pieces,
    }


def shapes(folder: pathlib.Path | None) -> list[Shape]:
    having: dict[str, list[str]] = {}
    kinds = {}
    for model in known()["models"]:
        text = json.dumps(config(model), indent=2) + "\n"
        having.setdefault(text, []).append(model["id"])
        kinds[text] = model["model_type"]
    files = tokenizers(folder)
    return [Shape(text, files[kinds[text]], tuple(ids)) for text, ids in having.items()]


def known() -> dict:
    return json.loads(TABLE.read_text(encoding="utf-8"))


# ----------------------------------------------------------------------------------------------------------- measuring


class Place(run.Place):
    """Where the files of one shape are."""

    def prepare(self, shape: Shape, peer: bool) -> None:
        """Makes them, unless they are there. The folder is removed, because all of them have as much as a disk."""
        packed, narrow, onnx = self.packed(), self.packed_in_7_bits(), self.work / "onnx"
        self.work.mkdir(parents=True, exist_ok=True)
        if packed.exists() and narrow.exists() and (not peer or (onnx / "model.onnx").exists()):
            return
        (self.work / "config.json").write_text(shape.config, encoding="utf-8")
        shutil.rmtree(self.model, ignore_errors=True)
        script = run.BENCH / "pytorch/family_model.py"
        make = [self.python, script, self.work / "config.json", shape.tokenizer, self.model]
        self.make(self.model / "model.safetensors", [*make, *(["--onnx", onnx] if peer else [])])
        pack = [self.binary, "pack", "--model", self.model, "--out"]
        self.make(packed, [*pack, packed, *run.PACK])
        self.make(narrow, [*pack, narrow, *run.PACK_7])
        shutil.rmtree(self.model)

    def packed(self) -> pathlib.Path:
        return self.work / "packed.safetensors"

    def packed_in_7_bits(self) -> pathlib.Path:
        return self.work / "packed-7.safetensors"

    def onnx(self) -> pathlib.Path:
        self.has("onnxruntime")
        return self.work / "onnx"


def held_to_avx2(work: pathlib.Path) -> run.System:
    out, source = work / "held_to_avx2.so", run.PEERS / "held_to_avx2.c"
    done = subprocess.run(
        ["cc", "-O2", "-shared", "-fPIC", str(source), "-o", str(out)], stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise run.LeftOut(f"{source.name} does not compile: {done.stderr.strip()}")
    held = run.System(ONNX_AVX2, ONNX.script, ONNX.model, (("LD_PRELOAD", str(out)),))
    tried = subprocess.run([sys.executable, "-c", ""], env={**os.environ, **dict(held.env)}, stderr=subprocess.PIPE, text=True)
    if tried.returncode:
        raise run.LeftOut(tried.stderr.strip() or "held to AVX2 it does not start")
    return held


def measure(shape: Shape, args: argparse.Namespace, write) -> None:
    work = args.work / shape.name.replace("/", "--")
    place = Place(args.binary.resolve(), args.python, work / "folder", work, args.threads)
    about = {"group": GROUP, "shape": shape.name}

    def leave_out(system: str, why: object) -> None:
        run.note(f"left out: {shape.name}, {system}: {why}")
        write({"kind": "left out", **about, "system": system, "why": str(why)})

    peer = args.peers and any(model in BESIDE for model in shape.models)
    run.note(f"{shape.name}: its files")
    try:
        place.prepare(shape, peer)
    except run.LeftOut as why:
        return leave_out("all", why)
    if args.prepare:
        return
    write({
        "kind": "shape",
        **about,
        "models": shape.models,
        "packed_bytes": place.packed().stat().st_size,
        "tokenizer_bytes": shape.tokenizer.stat().st_size,
        "pack": list(run.PACK),
    })  # fmt: skip
    ids = work / "ids.jsonl"
    workloads.write(str(ids), WORKLOADS, json.loads(shape.config)["vocab_size"])
    systems = [AVX2, AVX2_7, VNNI, AMX]
    if peer:
        systems.append(ONNX)
        try:
            systems.append(held_to_avx2(args.work))
        except run.LeftOut as why:
            leave_out(ONNX_AVX2, why)
    processes: list[run.Process] = []
    try:
        for system in systems:
            if args.system and system.name not in args.system:
                continue
            try:
                processes.append(run.Process(system, place, ids))
            except run.LeftOut as why:
                leave_out(system.name, why)
        rounds(shape, args, processes, leave_out, lambda line: write({**line, **about}))
    finally:
        for process in processes:
            process.end()
    start = [place.binary, "bench", "cold", "--json", "--tokens", 128, "--runs", max(args.rounds, 10), "--model", place.packed()]
    for line in cold([str(word) for word in start], {"THREADS": str(args.threads)}):
        if line["cache"] == "warm":
            write({"kind": "cold", **about, **{key: value for key, value in line.items() if key != "model"}})


def rounds(shape: Shape, args: argparse.Namespace, processes: list[run.Process], leave_out, write) -> None:
    ways = {}
    for process in list(processes):
        run.note(f"{shape.name}: warming {process.system.name}")
        try:
            # the smallest request finds a peer's way, which holds for passages of one length
            way = process.ask("prepare", WORKLOADS[0])["way"]
            ways[process] = way
            for workload in WORKLOADS[1:] if process.system.script else ():
                process.ask("prepare", workload, way)
        except run.LeftOut as why:
            leave_out(process.system.name, why)
            processes.remove(process)
    seconds: dict[tuple, list[float]] = {}
    spent, at = 0.0, 0
    while processes and at < args.rounds and (at == 0 or spent * (at + 1) / at <= args.seconds):
        turn = at % len(processes)
        for workload in WORKLOADS:
            for process in processes[turn:] + processes[:turn]:
                if process not in ways:
                    continue
                try:
                    took, _ = process.run(workload, args.foreign)
                except run.LeftOut as why:
                    leave_out(process.system.name, why)
                    del ways[process]
                    continue
                seconds.setdefault((process, workload), []).append(took)
                spent += took
        at += 1
        run.note(f"{shape.name}: round {at}, {spent:.1f} s")
    for (process, workload), times in seconds.items():
        write({
            "kind": "time",
            "system": process.system.name,
            "engine": process.about["system"],
            "version": process.about["version"],
            "threads": process.about["threads"],
            "workload": workload,
            "way": ways.get(process),
            "pairs": len(workloads.LENGTHS[workload]),
            "tokens": sum(workloads.LENGTHS[workload]),
            "seconds": [round(value, 6) for value in times],
            "median": round(statistics.median(times), 6),
            "min": round(min(times), 6),
            **process.memory(),
        })  # fmt: skip


def cold(command: list[str], env: dict) -> list[dict]:
    """Starts, as `reranker bench cold` measures them."""
    done = subprocess.run(command, env={**os.environ, **env}, stdout=subprocess.PIPE, text=True)
    lines = map(json.loads, done.stdout.splitlines())
    return [line for line in lines if "spans" in line]


# ----------------------------------------------------------------------------------------------------------- reporting


def newest() -> pathlib.Path | None:
    return max(run.BENCH.glob(f"records/*-{GROUP}.jsonl"), default=None)


def measured(lines: list[dict]) -> dict[str, dict]:
    """Of each model: its lines by (kind, system, workload), the newest where there are several."""
    of_shape: dict[str, dict] = {}
    having: dict[str, list[str]] = {}
    for line in lines:
        if line.get("group") == GROUP and line["kind"] in ("shape", "time", "cold"):
            key = (line["kind"], line.get("system"), line.get("workload"))
            of_shape.setdefault(line["shape"], {})[key] = line
            if line["kind"] == "shape":
                having[line["shape"]] = line["models"]
    return {model: of_shape[shape] for shape, models in having.items() for model in models}


def time(lines: dict, system: str, workload: str = MOST) -> float | None:
    """The least of a system's times: a shape has few rounds, and what else a machine does can only add to them."""
    line = lines.get(("time", system, workload))
    return line["min"] if line else None


def table(lines: list[dict]) -> list[str]:
    found = measured(lines)
    out = [
        "| Model | nDCG@10 | 10 | 30 | 100 | 100, 7 bits | 100, VNNI | 100, AMX | ONNX Runtime, AVX2 | ONNX Runtime | GB-seconds "
        "| dollars for 1,000 | packed, MB | memory, MB | start, ms |",
        "|---" + "|---:" * 14 + "|",
    ]
    rows: dict[tuple, list[str]] = {}
    for model in known()["models"]:
        here = found.get(model["id"])
        core = here and time(here, AVX2.name)
        if not core:
            continue
        threads = here["time", AVX2.name, MOST]["threads"]
        # The chip's best of ours, which is what the program chooses there.
        best = min((took for system in (AVX2, VNNI, AMX) if (took := time(here, system.name))), default=None)
        start = here.get(("cold", None, None))
        billed = costs.gb_seconds(core * threads)
        cells = [
            ranking(model),
            *(ms(time(here, AVX2.name, workload)) for workload in WORKLOADS),
            *(ms(time(here, system.name)) for system in (AVX2_7, VNNI, AMX)),
            times(time(here, ONNX_AVX2), time(here, AVX2_7.name) or core),
            times(time(here, ONNX.name), best),
            f"{billed:.2g}" if billed < 10 else f"{billed:.0f}",
            f"{1000 * billed * costs.GB_SECOND:.2g}",
            f"{here['shape', None, None]['packed_bytes'] / 1e6:.0f}",
            f"{here['time', AVX2.name, MOST]['peak_rss_bytes'] / 1e6:.0f}",
            f"{start['seconds_median'] * 1e3:.0f}" if start else "",
        ]
        rows.setdefault(tuple(cells), []).append(f"`{model['id']}`")
    return out + [f"| {', '.join(models)} | {' | '.join(cells)} |" for cells, models in rows.items()]


def ranking(model: dict) -> str:
    value = model.get("quality", {}).get("mteb_en")
    return f"{value:.4f}" if value else ""


def times(theirs: float | None, ours: float | None) -> str:
    return f"{theirs / ours:.2f} ×" if theirs and ours else ""


def ms(value: float | None) -> str:
    return f"{value * 1e3:,.0f}" if value else ""


def generated(path: pathlib.Path) -> dict[pathlib.Path, str]:
    """What is made of a record, by file."""
    lines = run.read(path)
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    text = "\n".join(table(lines))
    return {PAGE: f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", TABLE: with_times(lines, path)}


def with_times(lines: list[dict], path: pathlib.Path) -> str:
    """models.json with the milliseconds of each model; a model a line, as it is written by hand."""
    found, data = measured(lines), known()
    machine = next(line for line in lines if line["kind"] == "run")
    what = f"milliseconds for 100 passages of 128 tokens, int8, {machine['threads']} threads of {machine['cpu']}, held to AVX2"
    data["timed"] = {
        "what": f"{what}; {machine['note']}" if "note" in machine else what,
        "record": str(path.relative_to(ROOT)),
    }
    for model in data["models"]:
        model.pop("ms_100", None)
        took = time(found.get(model["id"], {}), AVX2.name)
        if took:
            model["ms_100"] = round(took * 1e3)
    listed = {
        key: "[\n    " + ",\n    ".join(json.dumps(item, ensure_ascii=False) for item in value) + "\n  ]"
        if isinstance(value, list)
        else json.dumps(value, ensure_ascii=False)
        for key, value in data.items()
    }
    return "{\n" + ",\n".join(f'  "{key}": {value}' for key, value in listed.items()) + "\n}\n"


def hold(check: bool) -> None:
    path = newest()
    if path is None:
        sys.exit(f"there is no record bench/records/*-{GROUP}.jsonl")
    for file, text in generated(path).items():
        if file.read_text(encoding="utf-8") == text:
            continue
        if check:
            sys.exit(f"{file.relative_to(ROOT)} is not what bench/models.py makes of {path.name}: run it with --write")
        file.write_text(text, encoding="utf-8")


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("models", nargs="*", metavar="MODEL")
    args.add_argument("--report", nargs="?", const="", metavar="RECORD")
    args.add_argument("--write", action="store_true")
    args.add_argument("--check", action="store_true")
    args.add_argument("--record", type=pathlib.Path, metavar="FILE", help="append to this file")
    args.add_argument("--note", help="a remark to keep in the record")
    args.add_argument("--rounds", type=int, default=5)
    args.add_argument("--seconds", type=float, default=60, help="timed seconds of a shape, after which no further round begins")
    args.add_argument("--foreign", type=float, default=run.FOREIGN_SHARE, metavar="SHARE", help="as of run.py")
    args.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))))
    args.add_argument("--system", action="append", help="only this system; may be given more than once")
    args.add_argument("--no-peers", dest="peers", action="store_false", help="ours alone")
    args.add_argument("--prepare", action="store_true", help="only make the files")
    args.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/reranker")
    args.add_argument("--python", default=sys.executable, help="the interpreter that has the peers")
    args.add_argument("--tokenizer", type=pathlib.Path, metavar="DIR", help="folder of XLM-RoBERTa's true tokenizer.json")
    args.add_argument("--work", type=pathlib.Path, default=ROOT / "target/bench/models")
    args = args.parse_args()
    if args.report is not None:
        path = pathlib.Path(args.report) if args.report else newest()
        print("\n".join(table(run.read(path))) if path else "no record")
        return
    if args.write or args.check:
        hold(args.check)
        return
    wanted = [shape for shape in shapes(args.tokenizer) if not args.models or set(args.models) & set(shape.models)]
    missing = set(args.models) - {model for shape in wanted for model in shape.models}
    if missing or args.rounds < 1:
        sys.exit(f"not understood: {', '.join(sorted(missing)) or args.rounds}; `reranker models` lists the models")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.prepare:
        for shape in wanted:
            measure(shape, args, lambda _: None)
        return
    now = datetime.datetime.now(datetime.timezone.utc)
    path = args.record or run.BENCH / "records" / f"{now:%Y-%m-%d}-{GROUP}.jsonl"
    with open(path, "a", encoding="utf-8") as record:

        def write(line: dict) -> None:
            record.write(json.dumps({"kind": line["kind"], "run": f"{now:%Y-%m-%dT%H:%M:%SZ}", **line}) + "\n")
            record.flush()

        write({
            "kind": "run",
            **run.machine(args.binary),
            "threads": args.threads,
            "rounds": args.rounds,
            "foreign_share": args.foreign,
            **({"note": args.note} if args.note else {}),
        })  # fmt: skip
        for shape in wanted:
            measure(shape, args, write)
    run.note(f"recorded in {path}")
    print("\n".join(table(run.read(path))))


if __name__ == "__main__":
    main()
