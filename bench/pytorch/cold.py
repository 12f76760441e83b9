#!/usr/bin/env python3
"""One cold start of a PyTorch f32 reranker, as `reranker bench cold --pytorch` times it.

usage: cold.py MODEL_DIR TOKENS

Loads the model the way a Python service does, scores one pair of TOKENS tokens, prints the logit as soon as it is there, and
then one line of JSON: {"engine", "tokens", "logit", "usage", "spans"}. Spans are in milliseconds since the process began.
"""

import time

FIRST_LINE = time.clock_gettime(time.CLOCK_BOOTTIME)

import json  # noqa: E402
import os  # noqa: E402
import pathlib  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402

QUERY = "When does the town library open at the weekend?"
PASSAGE = (
    "The old library beside the market square keeps longer hours in winter, because students from the nearby college "
    "study there until late evening. From Monday to Friday its doors open at nine and close at eight; on Saturdays "
    "visitors may enter between ten and four, while Sundays remain reserved for guided tours and children's readings. "
)


def began() -> float:
    """When the process was made, in seconds since boot: known to a hundredth."""
    fields = pathlib.Path("/proc/self/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return min(int(fields[19]) / os.sysconf("SC_CLK_TCK"), FIRST_LINE)


def field(path: str, name: str) -> int:
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    folder, tokens = sys.argv[1], int(sys.argv[2])
    start = began()
    spans = [{"name": "process", "start_ms": 0.0, "ms": (FIRST_LINE - start) * 1e3}]

    def step(name: str, since: float) -> float:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        spans.append({"name": name, "start_ms": (since - start) * 1e3, "ms": (now - since) * 1e3})
        return now

    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    at = step("import", FIRST_LINE)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    at = step("tokenizer", at)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    at = step("weights", at)
    words = PASSAGE.split() * (tokens // len(PASSAGE.split()) + 1)
    batch = tokenizer(
        [[QUERY, " ".join(words[:tokens])]], truncation="longest_first", max_length=tokens, return_tensors="pt"
    )
    at = step("encode", at)
    with torch.inference_mode():
        logit = float(model(**batch).logits[0, 0])
    print(logit, flush=True)
    step("inference", at)

    used = resource.getrusage(resource.RUSAGE_SELF)
    usage = {
        "peak_rss_bytes": field("/proc/self/status", "VmHWM:") * 1024,
        "read_bytes": field("/proc/self/io", "read_bytes:"),
        "major_faults": used.ru_majflt,
        "minor_faults": used.ru_minflt,
    }
    engine = f"PyTorch {torch.__version__.split('+')[0]} f32"
    line = {"engine": engine, "tokens": batch["input_ids"].shape[1], "logit": logit, "usage": usage, "spans": spans}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
