#!/usr/bin/env python3
"""Asks llvm-mca how many operations a cycle the kernels' inner loops do on chips that are not at hand.

usage: run.py [--asm FILE ...] [--mca PROGRAM] [--record FILE]

Compiles crates/kernels to assembly for x86-64 and for AArch64 (`rustup target add aarch64-unknown-linux-gnu`), finds the loops of
one basic block that multiply, and simulates each on the chips that have its instruction set. Needs llvm-mca of LLVM 17 or newer,
which knows these chips (Debian's packages llvm-NN).

operations  of the loop's int8 or f32 products: a multiplication and an addition count as two
a cycle     what the simulated chip does of them, all other instructions of the loop included, with data in the first-level cache
limit       what it would do of the arithmetic alone, were no instruction to wait for another
share       of the limit

`vpmaddubsw*4`: so many products of pairs are added up in 16 bits before they are widened.

Loops of several blocks are left out, and so are AMX's tiles.

A simulation knows ports, latencies and registers; it knows no caches, no branch mispredictions and no memory.
"""

from __future__ import annotations

import argparse
import collections
import glob
import pathlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
WORK = ROOT / "target/mca"
TARGETS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")
# The instruction sets by module and function of the kernels, and the chips that each is simulated on.
CHIPS = {
    "avx2": ("znver3", "znver4", "icelake-server", "sapphirerapids"),
    "avxvnni": ("sapphirerapids",),
    "avx512": ("icelake-server", "sapphirerapids", "znver4"),
    "avx512vnni": ("icelake-server", "sapphirerapids", "znver4"),
    "neon": ("neoverse-n1", "neoverse-v1"),
    "neondot": ("neoverse-n1",),
    "neoni8mm": ("neoverse-v1", "neoverse-v2"),
}
SETS = {
    ("avx2", "vectorize"): "avx2",
    ("avx2", "vectorize_vnni"): "avxvnni",
    ("avx512", "vectorize"): "avx512",
    ("avx512", "vectorize_vnni"): "avx512vnni",
    ("neon", "vectorize"): "neon",
    ("neon", "vectorize_dot"): "neondot",
    ("neon", "vectorize_i8mm"): "neoni8mm",
}
# The kernels whose loops are looked at, by the type that a set's entry is compiled for.
KERNELS = {"Multiply": "int8 product", "AttendTile": "attention", "LogitPanels": "attention", "ValuePanels": "attention",
           "OnVectors": "int8 encoder", "MultiplyGroup": "f32 product"}  # fmt: skip
# Multiply-adds of one instruction on a register of 16 bytes.
INT8 = {"sdot": 16, "udot": 16, "usdot": 16, "smmla": 32, "ummla": 32, "usmmla": 32, "smull": 8, "smull2": 8, "smlal": 8, "smlal2": 8,
        "umull": 8, "umull2": 8, "umlal": 8, "umlal2": 8, "vpdpbusd": 16, "vpmaddubsw": 16}  # fmt: skip
WORDS = {"vpmaddwd": 8}
FLOATS = {"fmla": 4, "fmls": 4, "vfmadd231ps": 4, "vfmadd213ps": 4, "vfmadd132ps": 4, "vfnmadd231ps": 4}
# What else of the arithmetic takes the ports that multiply, or has to be done for each product.
ALSO = {"vpmaddwd", "vpaddd", "vpaddw", "vpsignb", "sadalp", "uadalp"}
# Loops with fewer multiplications are remainders.
LEAST = 8


@dataclass(frozen=True)
class Loop:
    set: str
    kernel: str
    body: tuple[str, ...]

    def count(self, of: dict[str, int]) -> int:
        """Multiply-adds of the loop."""
        total = 0
        for line in self.body:
            name = mnemonic(line)
            if name in of:
                total += of[name] * (4 if "%zmm" in line else 2 if "%ymm" in line else 1)
        return total

    def kind(self) -> str:
        for kind, of in (("int8", INT8), ("int16", WORDS), ("f32", FLOATS)):
            if self.count(of):
                return kind
        return ""

    def operations(self) -> int:
        return 2 * self.count({"int8": INT8, "int16": WORDS, "f32": FLOATS}[self.kind()])

    def multiplications(self) -> int:
        return sum(mnemonic(line) in {**INT8, **WORDS, **FLOATS} for line in self.body)

    def key(self) -> tuple[str, str, str, str]:
        return self.set, self.kernel, self.kind(), self.uses()

    def uses(self) -> str:
        """The arithmetic instructions, and how many products of pairs are added up before they are widened."""
        counts = collections.Counter(mnemonic(line) for line in self.arithmetic())
        depth = counts["vpmaddubsw"] // max(1, counts["vpmaddwd"])
        return " ".join(f"{name}*{depth}" if name == "vpmaddubsw" and depth > 1 else name for name in sorted(counts))

    def independent(self) -> tuple[str, ...]:
        """The arithmetic instructions, on registers that make none wait for another."""
        return tuple(apart(line, number) for number, line in enumerate(self.arithmetic()))

    def arithmetic(self) -> tuple[str, ...]:
        of = {**INT8, **FLOATS}
        return tuple(line for line in self.body if mnemonic(line) in of or mnemonic(line) in ALSO)


def apart(line: str, number: int) -> str:
    """An instruction on operands of its own: results go round more registers than are under way at a time."""
    name, operands = re.fullmatch(r"((?:\{\w+\} )?\S+) (.*)", line).groups()
    if "%" in operands:
        # Sources come first, and may be in memory.
        register = re.findall(r"%([xyz])mm", operands)[-1]
        sources = len(re.findall(r"[^,(]+(?:\([^)]*\))?", operands)) - 1
        return f"{name} " + ", ".join([f"%{register}mm{n}" for n in range(sources)] + [f"%{register}mm{4 + number % 12}"])
    first, *others = re.split(r", *", operands)
    return f"{name} " + ", ".join([re.sub(r"^v\d+", f"v{number % 24}", first)] + [re.sub(r"^v\d+", "v25", v) for v in others])


def mnemonic(line: str) -> str:
    words = line.split()
    words = words[1:] if words and words[0].startswith("{") else words
    return words[0].split(".")[0] if words else ""


def compiled(target: str) -> list[pathlib.Path]:
    command = ["cargo", "rustc", "--locked", "--release", "-p", "kernels", "--lib", "--target", target, "--target-dir", str(WORK)]
    command += ["--", "--emit", "asm", "-C", "debuginfo=0", "-C", "symbol-mangling-version=v0"]
    subprocess.run(command, cwd=ROOT, check=True)
    found = glob.glob(str(WORK / target / "release/deps/kernels-*.s"))
    newest = max(found, key=lambda path: pathlib.Path(path).stat().st_mtime)
    # One compilation may leave a file for each of its units.
    hash_of = pathlib.Path(newest).name.split(".")[0]
    return [pathlib.Path(path) for path in found if pathlib.Path(path).name.startswith(hash_of)]


def kernel_of(symbol: str) -> tuple[str, str] | None:
    """The instruction set and the kernel of a mangled name, or nothing where it is no entry of a set."""
    names, at = [], 0
    while match := re.compile(r"[1-9]\d*").search(symbol, at):
        # A name with its length before it, and a line between them where it begins with a digit or a line.
        begin = match.end() + (symbol[match.end() : match.end() + 1] == "_")
        at = begin + int(match.group())
        names.append(symbol[begin:at])
    for place, (module, function) in enumerate(zip(names, names[1:])):
        if (module, function) in SETS:
            kernel = next((KERNELS[name] for name in names[place + 2 :] if name in KERNELS), None)
            return (SETS[module, function], kernel) if kernel else None
    return None


def loops(path: pathlib.Path) -> list[Loop]:
    """The loops of one basic block: a label, and a branch back to it before any other label."""
    found, entry, label, body = [], None, "", []
    for line in path.read_text(encoding="utf-8").splitlines():
        line = re.sub(r"\s*(//|\s#\s).*", "", line).rstrip()
        if re.fullmatch(r"[A-Za-z_$][\w$.]*:", line):
            entry, label, body = kernel_of(line[:-1]), "", []
        elif match := re.fullmatch(r"(\.L\w+):", line):
            label, body = match.group(1), []
        elif entry and line.startswith("\t") and not line.startswith("\t."):
            text = line.strip().replace("\t", " ")
            body.append(text)
            if label and re.search(rf"(^|[ ,]){re.escape(label)}$", text):
                # The label itself means nothing to the simulator.
                loop = Loop(*entry, tuple(part for part in body if label not in part))
                if loop.kind() and loop.multiplications() >= LEAST:
                    found.append(loop)
                label, body = "", []
    return found


def simulated(mca: str, chip: str, body: tuple[str, ...]) -> float:
    """Cycles of one time through."""
    arm = chip.startswith("neoverse")
    command = [mca, f"-mtriple={'aarch64' if arm else 'x86_64'}-linux-gnu", f"-mcpu={chip}", "-iterations=200"]
    done = subprocess.run(command, input="\n".join(body), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{mca} on {chip}: {done.stderr.strip().splitlines()[:3]}")
    cycles, iterations = (float(re.search(rf"^{name}:\s*([\d.]+)", done.stdout, re.M).group(1)) for name in ("Total Cycles", "Iterations"))
    return cycles / iterations


def newest_mca() -> str:
    found = [(int(re.search(r"\d+$", path).group()), path) for path in glob.glob("/usr/bin/llvm-mca-*")]
    return max(found)[1] if found else shutil.which("llvm-mca") or sys.exit("llvm-mca is not installed")


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--asm", action="append", type=pathlib.Path, help="look at this file, and compile nothing")
    args.add_argument("--mca", help="the newest that is installed where not given")
    args.add_argument("--record", type=pathlib.Path, help="write the table to this file too")
    args = args.parse_args()
    mca = args.mca or newest_mca()
    files = args.asm or [path for target in TARGETS for path in compiled(target)]
    # Of loops that multiply with the same instructions the one with the largest tile, which most of the work is done in.
    largest: dict[tuple, Loop] = {}
    for loop in (loop for path in files for loop in loops(path)):
        same = largest.setdefault(loop.key(), loop)
        # Of equally large ones the shorter, so that the order of files decides nothing.
        if (-loop.operations(), len(loop.body), loop.body) < (-same.operations(), len(same.body), same.body):
            largest[loop.key()] = loop
    found = [largest[key] for key in sorted(largest)]
    version = subprocess.run([mca, "--version"], capture_output=True, text=True).stdout.split("LLVM version ")[1].split()[0]
    out = [f"Inner loops of crates/kernels, simulated by llvm-mca {version}, not timed (bench/mca/run.py)", ""]
    head = ("set", "kernel", "arithmetic", "chip", "operations", "instructions", "a cycle", "limit", "share")
    rows = [head]
    for loop in found:
        for chip in CHIPS[loop.set]:
            cycles, least = simulated(mca, chip, loop.body), simulated(mca, chip, loop.independent())
            rows.append((
                loop.set, loop.kernel, loop.uses(), chip, str(loop.operations()), str(len(loop.body)),
                f"{loop.operations() / cycles:.1f}", f"{loop.operations() / least:.1f}", f"{least / cycles:.0%}",
            ))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    out += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    text = "\n".join(out) + "\n"
    print(text, end="")
    if args.record:
        args.record.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
