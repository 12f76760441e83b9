#!/usr/bin/env python3
"""Holds the GPU to f32 on the CPU, in every precision; sees what it does with what does not fit; times it beside PyTorch; keeps a record.

usage: run.py --binary PATH --model FOLDER [--out FOLDER] [--rounds 10] [--only PART,…]

Parts: doctor, precision, families, shapes, full, parity, times, served, memory, start. `families` has the tiny model of every family in tests/golden,
against PyTorch's logits there: alone and together, a logit within 0.0001 in f32, a score as below in 16 bits. `shapes` times other families
at published sizes, with seeded weights. `parity` has the workloads below with the full-size model, alone and together,
up to 8192 tokens, and bench/pairs.jsonl with the bundled model, whose scores mean something. A score may differ from that of the CPU in f32
by 0.0002 in f32, 0.002 in f16 and 0.02 in bf16, which has eight bits. Anything else that is not as it should be fails too, once all is
recorded; a peer that is missing is named.

Every system has the same ids, is warm, and batches in its own fastest way; they take turns within each round.

With DEVICE=cpu the same is done on the CPU and with small workloads, to see that all this works; only an --out is written to then.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import datetime
import json
import math
import os
import pathlib
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import typing
import urllib.error
import urllib.request

GPU = pathlib.Path(__file__).resolve().parent
BENCH = GPU.parent
ROOT = BENCH.parent
DEMO = ROOT / "models/demo"
GOLDEN = ROOT / "tests/golden"
sys.path.insert(0, str(BENCH))

import models
import workloads

DEVICE = os.environ.get("DEVICE", "cuda")
DRY = DEVICE == "cpu"
MOST = {"f32": 0.0002, "f16": 0.002, "bf16": 0.02, "f16-plain": 0.002}
DTYPES = {"f16": "float16", "bf16": "bfloat16", "f32": "float32"}
# Of a logit in f32, against PyTorch's.
EXACT = 0.0001
ALONE = 8


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


PORT = free_port()


def mixed(pairs: int) -> list[int]:
    return [workloads.MIXED[i % len(workloads.MIXED)] for i in range(pairs)]


TIMED = {
    "1x128": [128],
    "1x512": [512],
    **({"2x512": [512] * 2, "8-mixed": mixed(8)} if DRY else {"8x512": [512] * 8, "64x512": [512] * 64, "128-mixed": mixed(128), "512-mixed": mixed(512)}),
}  # fmt: skip
# Other families than BERT's, at sizes that people run.
SHAPES = ["Alibaba-NLP/gte-multilingual-reranker-base", "Alibaba-NLP/gte-reranker-modernbert-base", "cross-encoder/ettin-reranker-32m-v1"]
# Held to the CPU: small enough for it, and of every kind.
HELD = ["1x128", "2x512", "8-mixed", "long"] if DRY else ["mixed", "8x512", "long"]
MEMORY = list(TIMED)[-1]


class Failed(Exception):
    pass


class Process:
    """A system that has loaded its model, and answers as bench/peers/serving.py says."""

    def __init__(self, name: str, command: list, env: dict[str, str]):
        self.name = name
        self.log = tempfile.TemporaryFile("w+")
        self.child = subprocess.Popen(
            [str(word) for word in command],
            env={**os.environ, **env},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
        )
        self.about: dict = {}

    def ready(self) -> Process:
        self.about = self.about or self.answer()
        return self

    def answer(self) -> dict:
        line = self.child.stdout.readline()
        if not line:
            self.log.seek(0)
            raise Failed(f"{self.name} ended: {self.log.read()[-1500:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(f"{self.name}: {answer['error']}")
        return answer

    def say(self, *words: str) -> None:
        self.child.stdin.write(" ".join(words) + "\n")
        self.child.stdin.flush()

    def ask(self, *words: str) -> dict:
        self.say(*words)
        return self.answer()

    def end(self) -> None:
        self.child.kill()
        self.child.wait()


def smi(*names: str) -> list[str]:
    query = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits", "--id=0"]
    return [part.strip() for part in subprocess.run(query, check=True, capture_output=True, text=True).stdout.split(",")]


def gpu() -> dict:
    if DRY:
        return {"gpu": None}
    names = ["name", "compute_cap", "driver_version", "memory.total"]
    return dict(zip(["gpu", "compute_capability", "driver", "gpu_memory_mib"], smi(*names)))


def used_mib() -> int:
    return 0 if DRY else int(smi("memory.used")[0])


def ask(documents: list[str]) -> tuple[int, dict]:
    """The status and the answer of a server's; status 0 where there is none."""
    body = json.dumps({"query": "what is a panda?", "documents": documents}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/rerank", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except OSError as error:
        return 0, {"error": str(error)}


def golden(name: str) -> list[tuple[list[int], list[int], float]]:
    """Ids, segments and PyTorch's logit of each sequence of a family's: tests/golden/README.md says what these files hold."""
    file = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    if "rows" not in file:
        return [(row["input_ids"], row["token_type_ids"], row["logit"]) for row in file["pairs"] + file["raw"]]
    vocabulary = json.loads((GOLDEN / name / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    sequences = []
    for length, seed, logit in file["rows"]:
        ids = [(seed + 7919 * at + at * at % 1009) % (vocabulary - 5) + 5 for at in range(length)]
        if name == "mpnet" and length > 8:
            ids[5] = 1
        sequences.append((ids, [int(file["segments"] and at >= length // 2) for at in range(length)], logit))
    return sequences


def score(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def apart(found: list[float], wanted: list[float]) -> dict:
    if len(found) != len(wanted):
        raise Failed(f"{len(found)} logits instead of {len(wanted)}")
    return {
        "max_logit_difference": max(abs(a - b) for a, b in zip(found, wanted)),
        "max_score_difference": max(abs(score(a) - score(b)) for a, b in zip(found, wanted)),
    }


class Run:
    def __init__(self, args: argparse.Namespace, work: pathlib.Path):
        self.binary, self.model, self.rounds = args.binary.resolve(), args.model.resolve(), args.rounds
        self.lines: list[dict] = []
        self.wrong: list[str] = []
        self.config = json.loads((self.model / "config.json").read_text(encoding="utf-8"))
        self.about = gpu()
        self.precisions = ["f32"] if DRY else ["f16", "bf16", "f32", "f16-plain"]
        self.work = work
        self.ids = work / "ids.jsonl"
        self.lengths = self.draw()
        self.reference: Process | None = None

    def draw(self) -> dict[str, list[int]]:
        """Writes the ids of all workloads; their lengths."""
        longest = min(8192, self.config["max_position_embeddings"] - 2)
        lengths = {**TIMED, "mixed": workloads.MIXED, "long": [longest, longest // 4 + 1, longest // 16 + 1]}
        self.write_ids(self.ids, lengths, self.config["vocab_size"])
        return lengths

    def write_ids(self, file: pathlib.Path, lengths: dict[str, list[int]], vocabulary: int) -> None:
        with open(file, "w", encoding="utf-8") as out:
            for name, each in lengths.items():
                draw = random.Random(name)
                for at, length in enumerate(each):
                    middle = [draw.randrange(workloads.FIRST_ORDINARY, vocabulary - 1) for _ in range(length - 2)]
                    ids = [workloads.BEGIN, *middle, workloads.END]
                    out.write(json.dumps({"workload": name, "ids": ids}) + "\n")
                    if name == "mixed" and at < ALONE:
                        out.write(json.dumps({"workload": f"alone-{at}", "ids": ids}) + "\n")

    def flop(self, name: str) -> float:
        hidden, inner, layers = (self.config[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers"))
        per_token = 2 * (4 * hidden * hidden + 2 * hidden * inner)
        return layers * sum(n * per_token + 4 * n * n * hidden for n in self.lengths[name])

    def write(self, kind: str, **line) -> None:
        self.lines.append({"kind": kind, **line})
        shown = {key: value for key, value in line.items() if key != "seconds"}
        print(f"  {kind}: {json.dumps(shown)}", flush=True)

    def check(self, right: bool, what: str) -> None:
        if not right:
            self.wrong.append(what)
            print(f"  WRONG: {what}", flush=True)

    def command(self, env: dict[str, str], *words, model: pathlib.Path | None = None) -> subprocess.CompletedProcess:
        env = {**os.environ, "MODEL_DIR": str(model or self.model), **env}
        return subprocess.run([self.binary, *map(str, words)], env=env, capture_output=True, text=True, timeout=300)

    def ours(self, name: str, env: dict[str, str], model: pathlib.Path | None = None, ids: pathlib.Path | None = None) -> Process:
        ids = ids or (None if model else self.ids)
        ids = ["--ids", ids] if ids else []
        env = {"MODEL_DIR": str(model or self.model), **env}
        return Process(name, [self.binary, "bench", "--serve", *ids], env)

    def on(self, precision: str) -> dict[str, str]:
        """The settings of a precision; `f16-plain` is computed by candle's operations, as f32 always is."""
        precision, _, kernels = precision.partition("-")
        return {"DEVICE": DEVICE, "PRECISION": precision, "GPU_KERNELS": kernels or "fused"}

    def doctor(self) -> None:
        done = self.command({"DEVICE": DEVICE}, "doctor")
        print(done.stdout + done.stderr)
        self.check(done.returncode == 0, f"doctor ended with status {done.returncode}")
        named = self.about["gpu"] or "GPU: not used"
        self.check(named in done.stdout, f"doctor does not say {named!r}")
        found = re.search(r"GPU memory: about ([\d.]+ \w+) needed", done.stdout)
        lines = [line for line in done.stdout.splitlines() if "folder" not in line]
        self.write("doctor", lines=lines, gpu_memory_needed=found and found[1])

    def precision(self) -> None:
        """What each setting computes in, as the program names it."""
        wanted = [({}, "f16"), ({"USE_FP16": "true"}, "f16"), ({"USE_FP16": "false"}, "f32"), ({"PRECISION": "f32"}, "f32"), ({"PRECISION": "bf16"}, "bf16"),
                  ({"PRECISION": "f32", "USE_FP16": "true"}, "f32")]  # fmt: skip
        systems = [self.ours(f"{env}", {"DEVICE": DEVICE, **env}, DEMO) for env, _ in wanted if not DRY or "PRECISION" not in env]
        for system, (env, name) in zip(systems, wanted):
            said = system.ready().about["system"]
            system.end()
            if DRY:
                name = "int8" if (DEMO / "packed.safetensors").exists() else "f32"
            self.check(f" {name} " in said, f"{env or 'no setting'} computes as {said!r}, not in {name}")
            self.write("precision", settings=env, system=said)

    def families(self) -> None:
        names = sorted(file.stem for file in GOLDEN.glob("*.json") if (GOLDEN / file.stem).is_dir())
        for name in names:
            with open(self.work / f"{name}.jsonl", "w", encoding="utf-8") as out:
                for at, (ids, segments, _) in enumerate(golden(name)):
                    for workload in ("together", f"alone-{at}"):
                        out.write(json.dumps({"workload": workload, "ids": ids, "segments": segments}) + "\n")
        every = [(name, precision) for name in names for precision in self.precisions if precision in DTYPES]
        with concurrent.futures.ThreadPoolExecutor(1 if DRY else 6) as pool:
            for (name, precision), future in [(of, pool.submit(self.family, *of)) for of in every]:
                try:
                    found = future.result()
                except Failed as why:
                    self.check(False, str(why))
                    continue
                self.write("family", model=name, precision=precision, **found)
                for way in ("alone", "together"):
                    off, most = found[way]["max_logit_difference"], EXACT
                    if precision != "f32":
                        off, most = found[way]["max_score_difference"], MOST[precision]
                    self.check(off <= most, f"{name} in {precision}, {way}: differs by {off:.6f}")
                on = self.about["gpu"] or ""
                self.check(on in found["system"], f"{name} in {precision} is computed as {found['system']!r}")

    def family(self, name: str, precision: str) -> dict:
        wanted = [logit for _, _, logit in golden(name)]
        system = self.ours(f"{name} in {precision}", self.on(precision), GOLDEN / name, self.work / f"{name}.jsonl")
        try:
            about = system.ready().about["system"]
            together = system.ask("prepare", "together")["logits"]
            alone = [system.ask("prepare", f"alone-{at}")["logits"][0] for at in range(len(wanted))]
        finally:
            system.end()
        return {"system": about, "sequences": len(wanted), "alone": apart(alone, wanted), "together": apart(together, wanted)}

    def shapes(self) -> None:
        """Times of candle's operations, which compute these families."""
        shapes = {} if DRY else {shape.name: shape for shape in models.shapes(None) if shape.name in SHAPES}
        for name, shape in shapes.items():
            folder = self.work / name.replace("/", "--")
            folder.mkdir()
            (folder / "config.json").write_text(shape.config, encoding="utf-8")
            make = [sys.executable, BENCH / "pytorch/family_model.py", folder / "config.json", shape.tokenizer, folder / "model"]
            made = subprocess.run([str(word) for word in make], capture_output=True, text=True, timeout=120)
            if made.returncode:
                self.write("left out", system=name, why=made.stderr[-500:])
                continue
            self.write_ids(folder / "ids.jsonl", TIMED, json.loads(shape.config)["vocab_size"])
            for precision in ("f16", "bf16"):
                system = self.ours(f"{name} in {precision}", self.on(precision), folder / "model", folder / "ids.jsonl")
                try:
                    about = system.ready().about["system"]
                    for workload, each in TIMED.items():
                        system.ask("prepare", workload)
                        seconds = [system.ask("run", workload)["seconds"] for _ in range(min(self.rounds, 5))]
                        median = statistics.median(seconds)
                        self.write(
                            "shape", model=name, system=about, precision=precision, workload=workload, seconds=seconds, median=median,
                            pairs_per_s=len(each) / median, tokens_per_s=sum(each) / median,
                        )  # fmt: skip
                finally:
                    system.end()

    def of_pairs(self, env: dict[str, str]) -> list[float]:
        """Logits of bench/pairs.jsonl with the bundled model."""
        done = self.command(env, "score", "--raw", "--jsonl", BENCH / "pairs.jsonl", model=DEMO)
        if done.returncode != 0:
            raise Failed(f"score with {env}: {done.stderr}")
        return [json.loads(line)["logit"] for line in done.stdout.splitlines()]

    def begin(self) -> None:
        """The CPU takes its time: what is held to it is computed while other parts run."""
        self.reference = self.ours("reranker f32 on the CPU", {"DEVICE": "cpu", "PRECISION": "f32"})
        for name in HELD:
            self.reference.say("prepare", name)

    def parity(self) -> None:
        reference = self.reference
        systems = [self.ours(f"reranker {precision}", self.on(precision)) for precision in self.precisions]
        pairs = self.of_pairs({"DEVICE": "cpu", "PRECISION": "f32"})
        for precision in self.precisions:
            self.held(precision, "bench/pairs.jsonl", self.of_pairs(self.on(precision)), pairs)
        reference.ready()
        wanted = {name: reference.answer()["logits"] for name in HELD}
        reference.end()
        for system, precision in zip(systems, self.precisions):
            system.ready()
            for name in HELD:
                self.held(precision, name, system.ask("prepare", name)["logits"], wanted[name])
            together = system.ask("prepare", "mixed")["logits"][:ALONE]
            alone = [system.ask("prepare", f"alone-{at}")["logits"][0] for at in range(ALONE)]
            self.held(precision, "mixed, alone against together", alone, together)
            system.end()

    def held(self, precision: str, name: str, found: list[float], wanted: list[float]) -> None:
        off = apart(found, wanted)
        self.write("parity", precision=precision, workload=name, sequences=len(wanted), most=MOST[precision], **off)
        off = off["max_score_difference"]
        self.check(off <= MOST[precision], f"{precision}, {name}: a score differs by {off:.5f}")

    def memory(self) -> None:
        for precision in ["f32"] if DRY else ["f16", "f32"]:
            before = used_mib()
            system = self.ours(f"reranker {precision}", self.on(precision)).ready()
            loaded = used_mib()
            system.ask("prepare", MEMORY)
            after = used_mib()
            system.end()
            self.write("memory", precision=precision, used_mib_loaded=loaded - before, used_mib_after_full_passes=after - before)

    def server(self, env: dict[str, str]) -> tuple[subprocess.Popen, typing.IO]:
        settings = {"DEVICE": DEVICE, "MODEL_DIR": str(self.model), "PORT": str(PORT), "HOST": "127.0.0.1", "LOG_FORMAT": "text", "MAX_LENGTH": "512"}
        log = tempfile.TemporaryFile("w+")
        return subprocess.Popen([self.binary, "serve"], env={**os.environ, **settings, **env}, stdout=log, stderr=log), log

    def wait(self, server: subprocess.Popen) -> None:
        until = time.monotonic() + 60
        while ask(["a bear of China"])[0] != 200:
            if server.poll() is not None or time.monotonic() > until:
                raise Failed("the server does not become ready")
            time.sleep(0.05)

    def served(self) -> None:
        """What a server does for clients that always have a request under way: texts over HTTP, cut into tokens, computed, answered."""
        clients, each, seconds = (2, 4, 2.0) if DRY else (8, 64, 5.0)
        words = " ".join(json.loads(line)["passage"] for line in (BENCH / "pairs.jsonl").open(encoding="utf-8")).split()
        server, _ = self.server({})
        try:
            self.wait(server)
            done: list[tuple[float, int, int]] = []

            def client(number: int) -> None:
                draw = random.Random(number)
                # As many words as tokens would be in a request as mixed as real ones, or nearly.
                requests = [[" ".join(draw.choices(words, k=max(4, n * 2 // 3))) for n in draw.choices(workloads.MIXED, k=each)] for _ in range(4)]
                turn = 0
                while time.monotonic() < begun + seconds:
                    start = time.monotonic()
                    status, body = ask(requests[turn % 4])
                    turn += 1
                    if status != 200:
                        raise Failed(f"a server under load answers {status}: {str(body)[:300]}")
                    done.append((time.monotonic() - start, each, body["usage"]["total_tokens"]))

            begun = time.monotonic()
            with concurrent.futures.ThreadPoolExecutor(clients) as pool:
                for future in [pool.submit(client, number) for number in range(clients)]:
                    future.result()
            took = time.monotonic() - begun
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
        pairs, tokens = sum(line[1] for line in done), sum(line[2] for line in done)
        self.write(
            "served", clients=clients, pairs_a_request=each, pairs=pairs, tokens=tokens, took_s=took, pairs_per_s=pairs / took,
            tokens_per_s=tokens / took, request_s_median=statistics.median(line[0] for line in done),
        )  # fmt: skip

    def full(self) -> None:
        """A pass that does not fit fails; what fits is served, before it and after."""
        hog = None
        server, log = self.server({} if DRY else {"BATCH_TOKENS": "262144"})
        small, large = ["a bear of China"], [f"{at} bears of China, " * 40 for at in range(4 if DRY else 256)]
        try:
            self.wait(server)
            if not DRY:
                hog = Process("hog", [sys.executable, GPU / "hog.py", "768"], {}).ready()
            wanted = 200 if DRY else 500
            for what, documents, status in [("small", small, 200), ("large", large, wanted), ("small", small, 200)]:
                got, body = ask(documents)
                self.check(got == status, f"a {what} request, the memory taken, is answered {got}, not {status}: {str(body)[:300]}")
                self.write("full", request=what, memory="taken", status=got, answer=body if got != 200 else None)
            if hog:
                hog.end()
                hog = None
                time.sleep(0.5)
            got, body = ask(large)
            self.check(got == 200, f"a large request, the memory free, is answered {got}: {str(body)[:300]}")
            self.write("full", request="large", memory="free", status=got)
        finally:
            if hog:
                hog.end()
            server.send_signal(signal.SIGTERM)
            ended = server.wait(60)
            log.seek(0)
            text = log.read()
            self.check(ended == 0, f"the server ended with status {ended}")
            if not DRY:
                self.check("lower BATCH_TOKENS" in text, f"the log does not say what to do: {text[-600:]}")

    def way(self, system: str, name: str) -> list[str]:
        """How PyTorch batches what is so large that trying every way would take minutes."""
        if system.startswith("reranker") or len(self.lengths[name]) <= 8:
            return []
        return ["batched" if "varlen" in system else "grouped"]

    def times(self) -> None:
        names = list(TIMED)
        fast = ["f32"] if DRY else ["f16", "bf16"]
        systems = [self.ours(f"reranker {precision}", self.on(precision)) for precision in fast]
        if not DRY:
            systems.append(self.ours("reranker plain f16", self.on("f16-plain")))
        # PyTorch cannot read the bundled model's int8 weights.
        for script in [] if self.model == DEMO else ["pytorch_sdpa.py", "pytorch_varlen.py"]:
            peer = [sys.executable, GPU / script, "--model", self.model, "--ids", self.ids, "--serve"]
            name = script.removesuffix(".py").replace("_", " ")
            systems += [Process(f"{name} {precision}", peer, {"DEVICE": DEVICE, "DTYPE": DTYPES[precision]}) for precision in fast]
        times: dict[tuple[str, str], dict] = {}
        here, logits = [], {}
        for system in systems:
            try:
                system.ready()
                for name in names:
                    prepared = system.ask("prepare", name, *self.way(system.name, name))
                    logits.setdefault(name, prepared["logits"])
                    times[system.name, name] = {
                        "system": system.name,
                        "engine": system.about["system"],
                        "version": system.about["version"],
                        "workload": name,
                        "way": prepared["way"],
                        "pairs": len(self.lengths[name]),
                        "tokens": sum(self.lengths[name]),
                        # From the first system.
                        **apart(prepared["logits"], logits[name]),
                        "seconds": [],
                    }
                here.append(system)
            except Failed as why:
                system.end()
                self.write("left out", system=system.name, why=str(why))
                self.check(not system.name.startswith("reranker"), str(why))
        for turn in range(self.rounds):
            for system in here[turn % len(here) :] + here[: turn % len(here)]:
                for name in names:
                    times[system.name, name]["seconds"].append(system.ask("run", name)["seconds"])
        for system in here:
            system.end()
        peaks = self.peaks()
        for (system, name), line in times.items():
            if not line["seconds"]:
                continue
            median = line["median"] = statistics.median(line["seconds"])
            flops = line["tflops"] = self.flop(name) / median / 1e12
            peak = peaks.get(system.split()[-1])
            line["share_of_peak"] = flops / peak if peak else None
            line["pairs_per_s"] = line["pairs"] / median
            self.lines.append({"kind": "time", **line})

    def peaks(self) -> dict[str, float]:
        """What the chip does with one large product of matrices, in TFLOP/s, by PyTorch."""
        found = {}
        done = subprocess.run([sys.executable, GPU / "peak.py"], capture_output=True, text=True, env={**os.environ, "DEVICE": DEVICE}, timeout=120)
        for line in done.stdout.splitlines():
            line = json.loads(line)
            found[line["precision"]] = line["tflops"]
            self.write("peak", **line)
        if done.returncode != 0:
            self.write("left out", system="peak", why=done.stderr[-500:])
        return found

    def start(self) -> None:
        """From the start of a process to its first score; the first one of a machine waits for the driver's compiler, too."""
        done = self.command({"DEVICE": DEVICE}, "bench", "cold", "--runs", "2", "--tokens", "128", "--drop", "--json")
        self.check(done.returncode == 0, f"bench cold: {done.stderr}")
        for line in done.stdout.splitlines()[1:]:
            line = json.loads(line)
            self.write("start", **{key: line[key] for key in ("engine", "cache", "tokens", "seconds_median", "seconds", "spans")})

    def table(self) -> None:
        print(f"{'system':28}{'workload':12}{'median ms':>10}{'pairs/s':>9}{'tokens/s':>10}{'TFLOP/s':>9}{'of peak':>9}{'score apart':>13}")
        for line in self.lines:
            if line["kind"] == "time":
                share = f"{line['share_of_peak']:.1%}" if line["share_of_peak"] else ""
                print(
                    f"{line['system']:28}{line['workload']:12}{line['median'] * 1e3:10.2f}{line['pairs_per_s']:9.0f}"
                    f"{line['tokens'] / line['median']:10.0f}{line['tflops']:9.1f}{share:>9}{line['max_score_difference']:13.1e}"
                )

    def head(self) -> dict:
        def git(*words: str) -> str:
            return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True).stdout.strip()

        shape = ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")
        return {
            "kind": "run",
            "run": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            **self.about,
            "cpus": os.cpu_count(),
            "commit": os.environ.get("COMMIT") or git("rev-parse", "--short", "HEAD"),
            "model": {key: self.config[key] for key in shape},
            "rounds": self.rounds,
            "wrong": self.wrong,
        }


PARTS = ["doctor", "precision", "families", "shapes", "full", "parity", "times", "served", "memory", "start"]


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--binary", type=pathlib.Path, required=True)
    parse.add_argument("--model", type=pathlib.Path, required=True)
    parse.add_argument("--out", type=pathlib.Path)
    parse.add_argument("--rounds", type=int, default=10)
    parse.add_argument("--only", type=lambda text: text.split(","), default=PARTS)
    args = parse.parse_args()
    if unknown := set(args.only) - set(PARTS):
        sys.exit(f"--only: there is no part {', '.join(sorted(unknown))}, only {', '.join(PARTS)}")
    for name in ("MODEL_NAME", "MODEL_DIR", "PRECISION", "USE_FP16"):
        os.environ.pop(name, None)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        run = Run(args, pathlib.Path(work))
        if "parity" in args.only:
            run.begin()
        for part in PARTS:
            if part in args.only:
                print(f"-- {part} ({time.monotonic() - began:.0f} s)", flush=True)
                try:
                    getattr(run, part)()
                except (Failed, subprocess.SubprocessError, OSError) as why:
                    run.check(False, f"{part}: {why}")
    print(f"-- done ({time.monotonic() - began:.0f} s)")
    run.table()
    out = args.out if DRY else args.out or BENCH / "records"
    if out:
        chip = re.sub(r"[^a-z0-9]+", "-", (run.about["gpu"] or "cpu").lower()).strip("-")
        record = out / f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}-gpu-{chip}.jsonl"
        record.write_text("".join(json.dumps(line) + "\n" for line in [run.head(), *run.lines]), encoding="utf-8")
        print(f"recorded in {record}")
    if run.wrong:
        sys.exit("WRONG:\n" + "\n".join(run.wrong))


if __name__ == "__main__":
    main()
