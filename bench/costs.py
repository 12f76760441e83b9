#!/usr/bin/env python3
"""What a request takes and costs on AWS Lambda: writes src/cli/cost/rates.json from a record of `run.py tiers`, and docs/explain/costs.md's
tables from rates.json, which the program's `reranker cost` has too.

usage: costs.py [--check]      --check writes nothing, and fails where the rates or the page are others

A function has AVX2 for certain, so its figures are AVX2's; what a chip with AVX-512 VNNI would take stands beside them.
"""

from __future__ import annotations

import json
import pathlib
import sys

BENCH = pathlib.Path(__file__).resolve().parent
PAGE = BENCH.parent / "docs/explain/costs.md"
RATES = BENCH.parent / "src/cli/cost/rates.json"
BEGIN, END = "<!-- tables: bench/costs.py -->", "<!-- end of tables -->"

AVX2, VNNI = "reranker int8 avx2", "reranker int8 vnni"
SYSTEMS = {"avx2": AVX2, "vnni": VNNI}
PASSAGES = (10, 30, 100)
# What is not measured: prices, and the memory that comes with a core.
FIXED = json.loads(RATES.read_text(encoding="utf-8"))
GB_SECOND = FIXED["gb_second_dollars"]
# An HTTP API gives up after it.
GATEWAY_S = 30


def measured(rates: dict) -> dict[tuple[int, str, int], float]:
    """Core-seconds of one pair in the record, by the model's layers, the system and the pair's tokens."""
    record = BENCH.parent / rates["record"]
    lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines() if line.strip()]
    layers = {line["run"]: line["model"]["num_hidden_layers"] for line in lines if line["kind"] == "run"}
    return {
        (layers[line["run"]], line["system"], line["tokens"]): round(line["median"] * line["threads"], 6)
        for line in lines
        if line["kind"] == "time" and line["workload"] in {f"1x{tokens}" for tokens in rates["tokens"]}
    }


def gb_seconds(core: float) -> float:
    """What a request is billed for that takes so many core-seconds. Time falls as memory grows, so that this is the same for all
    sizes."""
    return core * FIXED["core_mb"] / 1024


def as_recorded(rates: dict) -> dict:
    """The same with the record's times. Prices and models are the file's own."""
    times = measured(rates)
    models = [
        model
        | {"core_seconds": {name: [times[model["layers"], system, tokens] for tokens in rates["tokens"]] for name, system in SYSTEMS.items()}}
        for model in rates["models"]
    ]
    return rates | {"models": models}


def seconds(value: float) -> str:
    text = f"{value:.2g}" if value < 10 else f"{value:,.0f}"
    return f"**{text}**" if value > GATEWAY_S else text


def table(rates: dict, model: dict) -> list[str]:
    core_mb = rates["core_mb"]
    columns = [f"{memory:,} MB" for memory in rates["memory_mb"]]
    out = [
        f"{model['title']}:",
        "",
        f"| Passages × tokens | {' | '.join(columns)} | dollars for 1,000 | with VNNI at 3,538 MB | dollars with VNNI |",
        "|---" + "|---:" * (len(columns) + 3) + "|",
    ]
    for passages in PASSAGES:
        for index, tokens in enumerate(rates["tokens"]):
            core, vnni = (passages * model["core_seconds"][name][index] for name in ("avx2", "vnni"))
            cells = [seconds(core * core_mb / memory) for memory in rates["memory_mb"]]
            dollars = [f"{1000 * gb_seconds(value) * GB_SECOND:.2g}" for value in (core, vnni)]
            out.append(
                f"| {passages} × {tokens} | {' | '.join(cells)} | {dollars[0]} | {seconds(vnni * core_mb / 3538)} | {dollars[1]} |"
            )
    return out


def block(rates: dict) -> str:
    return "\n\n".join("\n".join(table(rates, model)) for model in rates["models"])


def main() -> None:
    text = RATES.read_text(encoding="utf-8")
    rates = as_recorded(json.loads(text))
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    # What there should be, by file.
    files = {
        RATES: (text, json.dumps(rates, indent=1) + "\n"),
        PAGE: (page, f"{before}{BEGIN}\n\n{block(rates)}\n\n{END}{after}"),
    }
    for path, (there, whole) in files.items():
        if there == whole:
            continue
        if "--check" in sys.argv[1:]:
            sys.exit(f"{path.name} is another than bench/costs.py makes of {rates['record']}: run it")
        path.write_text(whole, encoding="utf-8")


if __name__ == "__main__":
    main()
