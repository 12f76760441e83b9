#!/usr/bin/env python3
"""Times this engine and its peers side by side, and keeps what came out as a record.

usage: run.py [prepare] [table] [tiers] [avx2] [threads] [growth] [curve] [cold]     all of them, where none is named
       run.py --report RECORD                           print a record's tables again

table    the four workloads, at two threads: this engine at int8 and f32, PyTorch, ONNX Runtime, OpenVINO
tiers    this engine held to AVX2, to AVX-512 VNNI and to AMX, on one chip that has them all
avx2     this engine and the peers that can be held to AVX2
threads  this engine on one thread and on two, and the peers on one
growth   a request of 100 pairs, beside one of 512 tokens: operations a second must not fall
curve    one pair of 16 to 2048 tokens, for the chart
cold     from the start of a process to its first score (`reranker bench cold`), beside a Python service
prepare  only make what the peers need: exported models and our packed ones

Every system is a process that has loaded its model and is warm. They take turns: in every round each runs the workload once, in an
order that moves on by one each round, while the others are stopped, so that whatever else the machine does meets all of them
alike; a run that other processes disturbed is repeated. What the chip can do at most is measured in the same rounds. A peer that
is not installed, or fails, is named and left out.

The record is JSON lines: `run` (the machine, versions, the commit), `time` (a system on a workload: the seconds of every round),
`peak` (the chip's int8 operations a second in every round), `cold` (starts). Progress goes to stderr, tables to stdout.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pathlib
import platform
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field

import workloads

BENCH = pathlib.Path(__file__).resolve().parent
ROOT = BENCH.parent
PEERS = BENCH / "peers"
OURS = "reranker int8"
TABLE = list(workloads.TABLE)
# A run in which other processes took more of the processor than this is run again, at most so many times, unless another share is
# given.
FOREIGN_SHARE, FOREIGN_TICKS = 0.05, 3
TRIES = 12
# All systems of a group are in memory at once. The largest needs twice its 2.3 GB of f32 weights while it loads.
SPARE_BYTES = 5 << 30


# Seeded weights rank nothing, so no matrix's share of an error can tell whether it needs more bits, or fewer.
PACK = ("--high-precision", "none", "--bits", "8")
# Weights and inputs of 7 bits, which `pack` gives those matrices of a trained model that can bear it.
PACK_7 = ("--high-precision", "none", "--bits", "7")


class LeftOut(Exception):
    """Why a system cannot take part."""


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def proc(path: str, key: str, separator: str = ":") -> str:
    """A value of one of the system's files of `key: value` lines."""
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith(key):
            return line.split(separator, 1)[1].strip()
    return ""


def busy_ticks() -> int:
    """Processor time all processes have used, and what the hypervisor gave to others, in the system's ticks."""
    user, nice, system, _, _, irq, softirq, steal = map(int, proc("/proc/stat", "cpu ", " ").split()[:8])
    return user + nice + system + irq + softirq + steal


@dataclass
class Place:
    """Where everything is that the systems are made of."""

    binary: pathlib.Path
    python: str
    model: pathlib.Path
    work: pathlib.Path
    threads: int
    made: dict[str, str] = field(default_factory=dict)

    def make(self, out: pathlib.Path, command: list) -> pathlib.Path:
        """Runs what makes `out`, unless it is there; a failure is remembered, since others may need it too."""
        if str(out) in self.made:
            raise LeftOut(self.made[str(out)])
        if not out.exists():
            note(f"making {out}")
            out.parent.mkdir(parents=True, exist_ok=True)
            done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            if done.returncode or not out.exists():
                last = (done.stderr.strip() or "no message").splitlines()[-1]
                self.made[str(out)] = f"{pathlib.Path(str(command[1])).name} failed: {last}"
                raise LeftOut(self.made[str(out)])
        return out

    def has(self, *modules: str) -> None:
        for module in modules:
            if subprocess.run([self.python, "-c", f"import {module}"], capture_output=True).returncode:
                raise LeftOut(f"{module} is not installed")

    # What each system computes with.

    def folder(self) -> pathlib.Path:
        return self.model

    def packed(self) -> pathlib.Path:
        return self.pack("packed", PACK)

    def packed_in_7_bits(self) -> pathlib.Path:
        return self.pack("packed-7", PACK_7)

    def pack(self, name: str, how: tuple[str, ...]) -> pathlib.Path:
        out = self.work / name / "model.safetensors"
        return self.make(out, [self.binary, "pack", "--model", self.model, "--out", out, *how])

    def torch(self) -> pathlib.Path:
        self.has("torch", "transformers", "safetensors")
        return self.model

    def onnx(self) -> pathlib.Path:
        self.has("onnxruntime")
        out = self.work / "onnx" / "model.onnx"
        return self.make(out, [self.python, PEERS / "export_onnx.py", self.model, out.parent]).parent

    def openvino(self, kind: str) -> pathlib.Path:
        self.has("openvino")
        out = self.work / "openvino" / kind / "model.xml"
        return self.make(out, [self.python, PEERS / "export_openvino.py", self.model, out.parent, kind]).parent

    def openvino_dynamic(self) -> pathlib.Path:
        return self.openvino("dynamic")

    def openvino_static(self) -> pathlib.Path:
        return self.openvino("static")


@dataclass(frozen=True)
class System:
    name: str
    script: str | None
    """A peer's script; our own program where there is none."""
    model: str
    """The method of `Place` that gives what it loads."""
    env: tuple[tuple[str, str], ...] = ()
    threads: int | None = None


def ours(name: str, model: str, precision: str, threads: int | None = None, **env: str) -> System:
    return System(name, None, model, (("PRECISION", precision), *env.items()), threads)


INT8 = ours(OURS, "packed", "int8")
F32 = ours("reranker f32", "folder", "f32")
INT8_AVX2 = ours("reranker int8 avx2", "packed", "int8", INSTRUCTION_SET="avx2")
INT8_AVX2_7 = ours("reranker int8 avx2, 7 bits", "packed_in_7_bits", "int8", INSTRUCTION_SET="avx2")
INT8_VNNI = ours("reranker int8 vnni", "packed", "int8", INSTRUCTION_SET="avx512vnni")
INT8_AMX = ours("reranker int8 amx", "packed", "int8", INSTRUCTION_SET="amx")
INT8_ONE = ours("reranker int8, 1 thread", "packed", "int8", threads=1)
TORCH = System("pytorch f32", "pytorch_f32.py", "torch")
TORCH_PACKED = System("pytorch f32 packed", "pytorch_f32.py", "torch", (("PACKED", "1"),))
TORCH_INT8 = System("pytorch int8", "pytorch_int8.py", "torch")
TORCH_INT8_AVX2 = System("pytorch int8 avx2", "pytorch_int8.py", "torch", (("AVX2", "1"), ("ENGINE", "fbgemm")))
TORCH_ONEDNN_AVX2 = System("pytorch int8 avx2 onednn", "pytorch_int8.py", "torch", (("AVX2", "1"), ("ENGINE", "onednn")))
ONNX = System("onnxruntime int8", "onnxruntime_int8.py", "onnx")
OPENVINO_DYNAMIC = System("openvino int8 dynamic", "openvino_int8.py", "openvino_dynamic")
OPENVINO_STATIC = System("openvino int8 static", "openvino_int8.py", "openvino_static")


def one_thread(system: System) -> System:
    return System(f"{system.name}, 1 thread", system.script, system.model, system.env, 1)


PEERS_INT8 = [TORCH_INT8, ONNX, OPENVINO_DYNAMIC, OPENVINO_STATIC]


@dataclass(frozen=True)
class Group:
    systems: list[System]
    workloads: list[str]
    peaks: list[tuple[int, str | None]]
    """Threads and instruction set of each measurement of the chip; the engine's own threads and set where not given."""


GROUPS = {
    "table": Group([INT8, F32, TORCH, TORCH_PACKED, *PEERS_INT8], TABLE, [(0, None)]),
    "tiers": Group([INT8_AVX2, INT8_VNNI, INT8_AMX], TABLE, [(0, "avx2"), (0, "avx512vnni"), (0, "amx")]),
    "avx2": Group([INT8_AVX2, INT8_AVX2_7, TORCH_INT8_AVX2, TORCH_ONEDNN_AVX2], ["1x128", "1x512", "mixed"], [(0, "avx2")]),
    "threads": Group(
        [INT8, INT8_ONE, *map(one_thread, [TORCH, *PEERS_INT8])], ["1x128", "1x512"], [(1, None), (0, None)]
    ),
    "growth": Group([INT8], ["1x512", "8x512", "100x128"], [(0, None)]),
    "curve": Group([INT8, F32, TORCH_PACKED, *PEERS_INT8], list(workloads.CURVE), []),
}


class Process:
    """A system that is loaded, and runs only while it has been asked something."""

    def __init__(self, system: System, place: Place, ids: pathlib.Path):
        self.system = system
        model = getattr(place, system.model)()
        available = int(proc("/proc/meminfo", "MemAvailable").split()[0]) * 1024
        if available < SPARE_BYTES:
            raise LeftOut(f"only {available >> 20} MiB of memory are left beside the others; name fewer systems")
        threads = system.threads or place.threads
        env = {**os.environ, **dict(system.env), "THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
        if system.script:
            command = [place.python, PEERS / system.script, "--model", model, "--ids", ids]
            command += ["--threads", threads, "--serve"]
        else:
            env |= {"MODEL_DIR": str(model)}
            env.pop("MODEL_NAME", None)
            command = [place.binary, "bench", "--serve", "--ids", ids]
        self.child = subprocess.Popen(
            [str(word) for word in command],
            env=env,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if not system.script else subprocess.DEVNULL,
        )
        self.about = self.answer()
        self.stop()

    def answer(self) -> dict:
        line = self.child.stdout.readline()
        if not line:
            self.child.wait()
            said = self.child.stderr.read().strip() if self.child.stderr else ""
            raise LeftOut(f"ended with {self.child.returncode}{': ' + said if said else ''}")
        answer = json.loads(line)
        if "error" in answer:
            raise LeftOut(answer["error"])
        return answer

    def ask(self, *words: str) -> dict:
        self.child.send_signal(signal.SIGCONT)
        try:
            self.child.stdin.write(" ".join(words) + "\n")
            self.child.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, which the answer tells
        answer = self.answer()
        self.stop()
        return answer

    def run(self, workload: str, foreign_share: float) -> tuple[float, int]:
        """Seconds of one run that nothing disturbed, and how many disturbed ones were thrown away for it."""
        for disturbed in range(TRIES):
            if disturbed:
                time.sleep(1)
            before, own = busy_ticks(), self.ticks()
            took = self.ask("run", workload)["seconds"]
            foreign = busy_ticks() - before - (self.ticks() - own)
            capacity = took * os.sysconf("SC_CLK_TCK") * (os.cpu_count() or 1)
            if foreign <= max(FOREIGN_TICKS, foreign_share * capacity):
                return took, disturbed
        raise LeftOut(f"other processes disturbed all of {TRIES} runs of {workload}; this machine is too busy to measure on")

    def ticks(self) -> int:
        """Processor time this process has used, in the system's ticks."""
        fields = pathlib.Path(f"/proc/{self.child.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def stop(self) -> None:
        self.child.send_signal(signal.SIGSTOP)

    def memory(self) -> dict:
        status = f"/proc/{self.child.pid}/status"
        return {
            "peak_rss_bytes": int(proc(status, "VmHWM").split()[0]) * 1024,
            "rss_bytes": int(proc(status, "VmRSS").split()[0]) * 1024,
        }

    def end(self) -> None:
        self.child.kill()
        self.child.wait()


class Ways:
    """The way of batching that was the fastest for a system, so that it need not be found again each time."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def prepare(self, process: Process, workload: str) -> dict:
        key = f"{process.about['system']}, {process.about['version']}, {process.about['threads']} threads: {workload}"
        way = self.known.get(key)
        prepared = process.ask("prepare", workload, *([way] if way and process.system.script else []))
        if not way:
            self.known[key] = prepared["way"]
            self.path.write_text(json.dumps(self.known, indent=1) + "\n", encoding="utf-8")
        return prepared


def chip_peak(place: Place, threads: int, instruction_set: str | None) -> float:
    """The chip's int8 operations a second, in thousands of millions."""
    env = {**os.environ, "THREADS": str(threads or place.threads)}
    if instruction_set:
        env["INSTRUCTION_SET"] = instruction_set
    done = subprocess.run([str(place.binary), "bench", "peak", "--json"], env=env, capture_output=True, text=True)
    if done.returncode:
        raise LeftOut((done.stderr.strip() or "no message").splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])["int8_gops"]


def run_group(name: str, args: argparse.Namespace, place: Place, write) -> None:
    group = GROUPS[name]
    names = [workload for workload in group.workloads if workload in (args.workload or group.workloads)]
    if not names:
        return
    config = json.loads((place.model / "config.json").read_text(encoding="utf-8"))
    ids = place.work / "ids.jsonl"
    workloads.write(str(ids), names, config["vocab_size"])
    processes: list[Process] = []
    loaded: list[Process] = []

    def leave_out(system: str, why: LeftOut) -> None:
        note(f"left out: {system}: {why}")
        write({"kind": "left out", "group": name, "system": system, "why": str(why)})

    try:
        for system in group.systems:
            if args.system and system.name not in args.system:
                continue
            try:
                note(f"{name}: loading {system.name}")
                processes.append(Process(system, place, ids))
                loaded.append(processes[-1])
            except LeftOut as why:
                leave_out(system.name, why)
        if not processes:
            return
        peaks = list(group.peaks)
        ways = Ways(place.work / "ways.json")
        for workload in names:
            prepared: dict[str, dict] = {}
            for process in list(processes):
                note(f"{name}, {workload}: warming {process.system.name}")
                try:
                    prepared[process.system.name] = ways.prepare(process, workload)
                except LeftOut as why:
                    leave_out(process.system.name, why)
                    processes.remove(process)
            seconds: dict[str, list[float]] = {process.system.name: [] for process in processes}
            gops: dict[tuple, list[float]] = {peak: [] for peak in peaks}
            disturbed = 0
            for at in range(args.rounds):
                for peak in list(peaks):
                    try:
                        gops[peak].append(chip_peak(place, *peak))
                    except LeftOut as why:
                        leave_out("the chip's peak", why)
                        peaks.remove(peak)
                        del gops[peak]
                turn = at % max(1, len(processes))
                for process in processes[turn:] + processes[:turn]:
                    if process not in processes:
                        continue
                    try:
                        took, again = process.run(workload, args.foreign)
                    except LeftOut as why:
                        leave_out(process.system.name, why)
                        processes.remove(process)
                        continue
                    seconds[process.system.name].append(took)
                    disturbed += again
                    note(f"{name}, {workload}, round {at + 1}: {process.system.name} {took:.4f} s")
            if disturbed:
                note(f"{name}, {workload}: {disturbed} runs were disturbed by other processes, and repeated")
            exact = [prepared[s]["logits"] for s in (TORCH.name, TORCH_PACKED.name, F32.name) if s in prepared]
            for (threads, instruction_set), values in gops.items():
                write({
                    "kind": "peak",
                    "group": name,
                    "workload": workload,
                    "threads": threads or place.threads,
                    "instruction_set": instruction_set,
                    "gops": [round(value, 1) for value in values],
                    "median": round(statistics.median(values), 1),
                })  # fmt: skip
            for process in processes:
                said, times = prepared[process.system.name], seconds[process.system.name]
                median, flop = statistics.median(times), workloads.flop(workload, config)
                off = exact and max(abs(a - b) for a, b in zip(said["logits"], exact[0], strict=True))
                write({
                    "kind": "time",
                    "group": name,
                    "system": process.system.name,
                    "engine": process.about["system"],
                    "version": process.about["version"],
                    "threads": process.about["threads"],
                    "workload": workload,
                    "way": said["way"],
                    "pairs": len(workloads.LENGTHS[workload]),
                    "tokens": sum(workloads.LENGTHS[workload]),
                    "seconds": [round(value, 6) for value in times],
                    "median": round(median, 6),
                    "min": round(min(times), 6),
                    "gflops": round(flop / median / 1e9, 1),
                    **({"max_logit_difference": round(off, 6)} if exact else {}),
                    **process.memory(),
                })  # fmt: skip
    finally:
        for process in loaded:
            process.end()


def run_cold(args: argparse.Namespace, place: Place, write) -> None:
    models = []
    for system in (INT8, F32):
        try:
            models.append(getattr(place, system.model)())
        except LeftOut as why:
            note(f"left out: a start of {system.name}: {why}")
    command = [place.binary, "bench", "cold", "--json", "--drop", "--tokens", 128, "--runs", args.rounds]
    for model in models:
        command += ["--model", model]
    try:
        place.torch()
        command += ["--pytorch", place.python, "--pytorch-script", PEERS / "python_service.py"]
    except LeftOut as why:
        note(f"left out: the start of a Python service: {why}")
    env = {**os.environ, "THREADS": str(place.threads)}
    done = subprocess.run([str(word) for word in command], env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        note("left out: cold starts; why is said above")
        return
    for line in map(json.loads, done.stdout.splitlines()):
        if "spans" in line:
            write({"kind": "cold", "group": "cold", **line})


def about(place: Place, args: argparse.Namespace) -> dict:
    """The machine, the code and the model, as a reader of the record must know them."""
    config = json.loads((place.model / "config.json").read_text(encoding="utf-8"))
    return {
        "kind": "run",
        **machine(place.binary),
        "threads": place.threads,
        "rounds": args.rounds,
        "foreign_share": args.foreign,
        "tokenizer_bytes": (place.model / "tokenizer.json").stat().st_size,
        "model": {key: config[key] for key in ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")},
        **({"note": args.note} if args.note else {}),
    }


def machine(binary: pathlib.Path) -> dict:
    """The machine and the code."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True).stdout.strip()

    flags = proc("/proc/cpuinfo", "flags").split() or proc("/proc/cpuinfo", "Features").split()
    telling = [flag for flag in flags if flag in INTERESTING]
    changed = bool(git("status", "--porcelain", "--untracked-files=no"))
    version = subprocess.run([str(binary), "--version"], capture_output=True, text=True).stdout.strip()
    return {
        "cpu": proc("/proc/cpuinfo", "model name") or platform.machine(),
        "cpu_flags": telling,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int(proc("/proc/meminfo", "MemTotal").split()[0]) * 1024,
        "system": f"{platform.system()} {platform.release()}",
        "version": version,
        "commit": git("rev-parse", "--short", "HEAD") + ("+" if changed else ""),
    }


INTERESTING = {"avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm"}


def report(lines: list[dict]) -> str:
    """The tables of a record: for each group, seconds and how many times ours that is, the chip's share, and memory."""
    out = []
    for name in [*GROUPS, "cold"]:
        here = [line for line in lines if line.get("group") == name]
        times = [line for line in here if line["kind"] == "time"]
        if times:
            out += table(name, times, [line for line in here if line["kind"] == "peak"])
        starts = [line for line in here if line["kind"] == "cold"]
        if starts:
            out += ["", "### cold", "", "| start | page cache | tokens | seconds | peak MiB | read MiB |", "|---|---|---|---|---|---|"]
            for line in starts:
                peak, read = line["peak_rss_bytes"] / 2**20, line["read_bytes"] / 2**20
                out.append(
                    f"| {line['engine']}, {line['model']} | {line['cache']} | {line['tokens']} "
                    f"| {line['seconds_median']:.3f} | {peak:.0f} | {read:.0f} |"
                )
    return "\n".join(out)


def table(name: str, lines: list[dict], peaks: list[dict]) -> list[str]:
    times = {(line["system"], line["workload"]): line for line in lines}
    in_run = {(line["run"], line["system"], line["workload"]): line for line in lines}
    names = [workload for workload in GROUPS[name].workloads if any(key[1] == workload for key in times)]
    systems = list(dict.fromkeys(system for system, _ in times))
    base = next((s for s in systems if s.startswith(OURS)), systems[0])
    out = ["", f"### {name}: seconds, and times the seconds of {base} in the same rounds", ""]
    out += [f"| | {' | '.join(names)} | peak MiB |", "|---" * (len(names) + 2) + "|"]
    for system in systems:
        cells, memory = [], 0
        for workload in names:
            line = times.get((system, workload))
            if not line:
                cells.append("–")
                continue
            memory = max(memory, line.get("peak_rss_bytes", 0))
            beside = in_run.get((line["run"], base, workload)) if system != base else None
            cells.append(f"{line['median']:.3f}" + (f" (×{line['median'] / beside['median']:.2f})" if beside else ""))
        out.append(f"| {system} | {' | '.join(cells)} | {memory / 2**20:.0f} |")
    for threads, instruction_set in dict.fromkeys((peak["threads"], peak["instruction_set"]) for peak in peaks):
        mine = [s for s in systems if s.startswith(OURS) and any(t["threads"] == threads for t in lines if t["system"] == s)]
        cells = []
        for workload in names:
            line = times.get((mine[0], workload)) if mine else None
            peak = next(
                (
                    peak
                    for peak in peaks
                    if (peak["threads"], peak["instruction_set"], peak["workload"]) == (threads, instruction_set, workload)
                    and line
                    and peak["run"] == line["run"]
                ),
                None,
            )
            cells.append(f"{line['gflops'] / peak['median']:.0%} of {peak['median']:.0f} GOPS" if peak else "–")
        of = f"{threads} thread{'s' * (threads > 1)}{', ' + instruction_set if instruction_set else ''}"
        out.append(f"| {OURS}, share of the chip's int8 peak, {of} | {' | '.join(cells)} | |")
    return out


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("what", nargs="*", metavar="WHAT")
    args.add_argument("--report", metavar="RECORD", nargs="+", help="print the tables of records, and do nothing else")
    args.add_argument("--record", metavar="FILE", help="append to this file; a new one in bench/records where not given")
    args.add_argument("--name", default="bench", help="ending of the new record's name")
    args.add_argument("--note", help="a remark to keep in the record")
    args.add_argument("--rounds", type=int, default=5)
    args.add_argument(
        "--foreign", type=float, default=FOREIGN_SHARE, metavar="SHARE", help="of the processor that others may take during a run"
    )
    args.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))))
    args.add_argument("--system", action="append", help="only this system; may be given more than once")
    args.add_argument("--workload", action="append", help="only this workload; may be given more than once")
    args.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/reranker")
    args.add_argument("--python", default=sys.executable, help="the interpreter that has the peers")
    args.add_argument("--model", type=pathlib.Path, default=ROOT / "target/bench/synthetic")
    args.add_argument("--work", type=pathlib.Path, default=ROOT / "target/bench")
    args = args.parse_args()
    if args.report:
        print(report([line for path in args.report for line in read(pathlib.Path(path))]))
        return
    known = ["prepare", *GROUPS, "cold"]
    what = args.what or known
    unknown = [word for word in what if word not in known]
    if unknown or args.rounds < 1:
        sys.exit(f"not understood: {' '.join(unknown) or args.rounds}; there are {', '.join(known)}")
    # A driver that is ended must end the processes that it has stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    place = Place(args.binary.resolve(), args.python, args.model.resolve(), args.work.resolve(), args.threads)
    place.work.mkdir(parents=True, exist_ok=True)
    if "prepare" in what:
        for model in ("packed", "packed_in_7_bits", "torch", "onnx", "openvino_dynamic", "openvino_static"):
            try:
                getattr(place, model)()
            except LeftOut as why:
                note(f"left out: {model}: {why}")
        if what == ["prepare"]:
            return

    now = datetime.datetime.now(datetime.timezone.utc)
    path = pathlib.Path(args.record) if args.record else BENCH / "records" / f"{now:%Y-%m-%d}-{args.name}.jsonl"
    run = f"{now:%Y-%m-%dT%H:%M:%SZ}"
    with open(path, "a", encoding="utf-8") as record:

        def write(line: dict) -> None:
            record.write(json.dumps({"kind": line["kind"], "run": run, **line}) + "\n")
            record.flush()

        write(about(place, args))
        for name in GROUPS:
            if name in what:
                run_group(name, args, place, write)
        if "cold" in what:
            run_cold(args, place, write)
    note(f"recorded in {path}")
    print(report([line for line in read(path) if line.get("run") == run]))


def read(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


if __name__ == "__main__":
    main()
