#!/usr/bin/env python3
"""What a request takes and costs on AWS Lambda, from a record of `run.py tiers`: writes docs/explain/costs.md's tables.

usage: costs.py [--check]      --check writes nothing, and fails where the page has other tables

A function has AVX2 for certain, so its figures are AVX2's; what a chip with AVX-512 VNNI would take stands beside them.
"""

from __future__ import annotations

import json
import pathlib
import sys

BENCH = pathlib.Path(__file__).resolve().parent
RECORD = BENCH / "records/2026-11-26-tiers.jsonl"
PAGE = BENCH.parent / "docs/explain/costs.md"
BEGIN, END = "<!-- tables: bench/costs.py -->", "<!-- end of tables -->"

MODELS = {24: "bge-reranker-v2-m3's shape, int8", 6: "The bundled model, int8"}
AVX2, VNNI = "reranker int8 avx2", "reranker int8 vnni"
PASSAGES, TOKENS = (10, 30, 100), (128, 512)
# Megabytes, of which Lambda gives one processor for each 1,769.
MEMORY, CORE_MB = (1769, 3538, 7076, 10240), 1769
# An HTTP API gives up after it.
GATEWAY_S = 30
# us-east-1, x86_64, November 2026.
GB_SECOND = 0.0000166667


def measured(lines: list[dict]) -> dict[tuple[int, str, int], float]:
    """Core-seconds of one pair, by the model's layers, the system and the pair's tokens."""
    layers = {line["run"]: line["model"]["num_hidden_layers"] for line in lines if line["kind"] == "run"}
    return {
        (layers[line["run"]], line["system"], line["tokens"]): line["median"] * line["threads"]
        for line in lines
        if line["kind"] == "time" and line["workload"] in {f"1x{tokens}" for tokens in TOKENS}
    }


def gb_seconds(core: float) -> float:
    """What a request is billed for that takes so many core-seconds. Time falls as memory grows, so that this is the same for all
    sizes."""
    return core * CORE_MB / 1024


def seconds(value: float) -> str:
    text = f"{value:.2g}" if value < 10 else f"{value:,.0f}"
    return f"**{text}**" if value > GATEWAY_S else text


def table(times: dict[tuple[int, str, int], float], layers: int) -> list[str]:
    columns = [f"{memory:,} MB" for memory in MEMORY]
    out = [
        f"{MODELS[layers]}:",
        "",
        f"| Passages × tokens | {' | '.join(columns)} | dollars for 1,000 | with VNNI at 3,538 MB | dollars with VNNI |",
        "|---" + "|---:" * (len(columns) + 3) + "|",
    ]
    for passages in PASSAGES:
        for tokens in TOKENS:
            core, vnni = (passages * times[layers, system, tokens] for system in (AVX2, VNNI))
            cells = [seconds(core * CORE_MB / memory) for memory in MEMORY]
            dollars = [f"{1000 * gb_seconds(value) * GB_SECOND:.2g}" for value in (core, vnni)]
            out.append(
                f"| {passages} × {tokens} | {' | '.join(cells)} | {dollars[0]} | {seconds(vnni * CORE_MB / 3538)} | {dollars[1]} |"
            )
    return out


def block() -> str:
    lines = [json.loads(line) for line in RECORD.read_text(encoding="utf-8").splitlines() if line.strip()]
    times = measured(lines)
    return "\n\n".join("\n".join(table(times, layers)) for layers in MODELS)


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    whole = f"{before}{BEGIN}\n\n{block()}\n\n{END}{after}"
    if whole == page:
        return
    if "--check" in sys.argv[1:]:
        sys.exit(f"{PAGE.name} has other tables than bench/costs.py makes of {RECORD.name}: run it")
    PAGE.write_text(whole, encoding="utf-8")


if __name__ == "__main__":
    main()
