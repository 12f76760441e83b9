#!/usr/bin/env python3
"""Starts as a Python service around a reranker does, and says what each step took: for `reranker bench cold --pytorch`.

usage: python_service.py MODEL_DIR TOKENS

Steps: the interpreter; importing FastAPI (where it is installed), PyTorch and transformers; the tokenizer; the f32 weights from
safetensors; the first score, of a pair that is cut to TOKENS tokens. The first line printed is the logit, so that whoever started
this can take the time; the second is the receipt, as `reranker bench cold` reads it.
"""

import time

BEGUN = time.clock_gettime(time.CLOCK_BOOTTIME)

import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402

PASSAGE = (
    "The observatory on the hill opens its dome on clear evenings, and volunteers explain what can be seen that night: in "
    "spring the galaxies of Virgo, in summer star clusters and nebulae along the Milky Way, in autumn Saturn with its rings, "
    "and in winter the sword of Orion. Visitors bring warm clothes, leave torches in the car, and book a place by telephone "
    "before noon. Groups of more than twelve people are asked to come on weekdays. "
)


def started_at() -> float:
    """When this process began by the same clock; the kernel counts it in ticks of ten milliseconds."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as stat:
        ticks = int(stat.read().rpartition(")")[2].split()[19])
    return min(ticks / os.sysconf("SC_CLK_TCK") + 0.01, BEGUN)


def field(path: str, name: str) -> int:
    with open(path, encoding="ascii", errors="replace") as lines:
        return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def faults() -> tuple[int, int]:
    with open("/proc/self/stat", encoding="ascii", errors="replace") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return int(fields[9]), int(fields[7])


def main() -> None:
    if len(sys.argv) != 3 or not sys.argv[2].isdecimal():
        sys.exit(__doc__)
    folder, tokens = sys.argv[1], int(sys.argv[2])
    spans, origin = [], started_at()
    last = origin

    def step(name: str) -> None:
        nonlocal last
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        spans.append({"name": name, "start_ms": round((last - origin) * 1e3, 3), "ms": round((now - last) * 1e3, 3)})
        last = now

    step("process")
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        pass  # a tenth of a second of many
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(int(os.environ.get("THREADS") or len(os.sched_getaffinity(0))))
    step("import")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    step("tokenizer")
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    step("weights")
    with torch.inference_mode():
        pair = tokenizer(
            ["when can the stars be seen?"],
            [PASSAGE * (1 + tokens // 64)],
            truncation="longest_first",
            max_length=tokens,
            return_tensors="pt",
        )
        step("encode")
        logit = float(model(**pair).logits[0, 0])
    step("inference")
    print(logit, flush=True)
    major, minor = faults()
    print(
        json.dumps({
            "engine": f"pytorch {torch.__version__} f32",
            "tokens": int(pair["input_ids"].shape[1]),
            "logit": logit,
            "usage": {
                "peak_rss_bytes": field("/proc/self/status", "VmHWM:") * 1024,
                "read_bytes": field("/proc/self/io", "read_bytes:"),
                "major_faults": major,
                "minor_faults": minor,
            },
            "spans": spans,
        })
    )  # fmt: skip


if __name__ == "__main__":
    main()
