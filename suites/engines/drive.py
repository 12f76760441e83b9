"""Runs both examples for bulk engines, kills a worker amid its pairs, and compares every result with one machine's.

    drive.py PROGRAM FOLDER

Prints a line for each check; exits with 1 if one fails. FOLDER is empty, and keeps the pairs, the results and the engines' logs.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pyarrow import parquet
from suite import DEMO, ROOT, check, finish

BIN = Path(sys.executable).parent
PAIRS = 20_000
# Of the program's starts, which are about 20: one with scored pairs before it and others after it.
KILLED_AT = 7
# A machine that is busy with other work may take long.
PATIENCE = 900
# About 20 to 40 tokens a pair. Some would not survive a wrong encoding.
WORDS = "refund password account order invoice card mail office hours reset phone ticket train return days free charge how do i the is Größe 漢字 😀 \"x\" \\n \n".split(" ")

# Each engine: its command before PAIRS and SCORES, and what the command line of its workers has.
ENGINES = {
    "spark": (
        [BIN / "spark-submit", "--master", "local-cluster[2,1,1024]", "--conf", "spark.ui.enabled=false", ROOT / "examples/spark_rerank.py", "--tasks", "20"],
        "CoarseGrainedExecutorBackend",
    ),
    "ray": ([sys.executable, ROOT / "examples/ray_rerank.py"], "ray::"),
}

def write_pairs(path):
    chosen = random.Random(22)
    with path.open("w", encoding="utf-8") as file:
        for number in range(PAIRS):
            pair = {"id": f"p{number}", "query": " ".join(chosen.choices(WORDS, k=7)), "passage": " ".join(chosen.choices(WORDS, k=chosen.randint(10, 16)))}
            if number % 5000 == 1234:
                del pair["passage"]
            file.write(json.dumps(pair) + "\n")


def of_process(pid, name):
    """What Linux says of a process; nothing where it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace").replace("\0", " ")
    return ""


def state_and_parent(pid):
    """Its state's letter and its parent's id, which stand behind the name in brackets."""
    state, parent = (of_process(pid, "stat").rpartition(") ")[2].split() + ["gone", "0"])[:2]
    return state, int(parent)


def kill_worker(program, started, worker):
    """Kills a worker whose program is at work, and the program. Their pairs have no result yet: a worker passes them on when the program has ended."""
    for pid in map(int, started.read_text().split()[KILLED_AT - 1 :][-1:]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        while (found := state_and_parent(pid))[0] in "RSD":
            time.sleep(0.01)
        if found[0] != "T" or not of_process(pid, "cmdline").startswith(str(program)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            continue
        parent = found[1]
        while parent > 1 and worker not in of_process(parent, "cmdline"):
            parent = state_and_parent(parent)[1]
        if parent > 1:
            os.kill(parent, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        return parent
    return None


def run_engine(name, program, pairs, folder):
    """The engine's exit code, the id of the worker that was killed, and the starts of the program."""
    command, worker = ENGINES[name]
    # Notes its process id and becomes the program.
    started, noting = folder / f"{name}.started", folder / f"{name}.sh"
    started.touch()
    noting.write_text(f'#!/bin/sh\necho $$ >> "{started}"\nexec "{program}" "$@"\n')
    noting.chmod(0o755)
    # Short, because sockets lie in it.
    scratch = tempfile.mkdtemp(prefix="engine-", dir="/tmp")
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": scratch,
        "SPARK_WORKER_DIR": scratch,
        "RAY_TMPDIR": scratch,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    asked = [*command, pairs, folder / f"{name}.scores", "--program", noting, "--model", DEMO]
    killed = None
    with (folder / f"{name}.log").open("wb") as log:
        engine = subprocess.Popen(list(map(str, asked)), env=environment, stdout=log, stderr=log)
        try:
            end = time.monotonic() + PATIENCE
            while engine.poll() is None:
                if time.monotonic() > end:
                    raise TimeoutError(f"{name}: not within {PATIENCE} s; {log.name} has what it said")
                killed = killed or kill_worker(program, started, worker)
                time.sleep(0.1)
        finally:
            engine.terminate()
            engine.wait()
            shutil.rmtree(scratch, ignore_errors=True)
    return engine.returncode, killed, len(started.read_text().split())


def main():
    program, folder = Path(sys.argv[1]), Path(sys.argv[2]).resolve()
    pairs = folder / "pairs.jsonl"
    write_pairs(pairs)
    before = time.monotonic()
    with (folder / "one.log").open("wb") as log:
        done = subprocess.run([program, "score", "--jsonl", pairs, "--model", DEMO], stdout=subprocess.PIPE, stderr=log)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    for row in rows:
        row.pop("line", None)
    wanted = {row["id"]: row for row in rows}
    lengths = sorted(row["tokens"] for row in rows if "tokens" in row)
    wrong = sum("error" in row for row in rows)
    check("one machine", done.returncode == 1 and len(wanted) == PAIRS and wrong == 4, f"{PAIRS} pairs of {lengths[0]} to {lengths[-1]} tokens in {time.monotonic() - before:.0f} s, {wrong} with an error")

    for name in ENGINES:
        before = time.monotonic()
        code, killed, starts = run_engine(name, program, pairs, folder)
        check(f"{name}: ends well", code == 0, f"exit code {code}, {time.monotonic() - before:.0f} s, {starts} starts of the program")
        check(f"{name}: a worker was killed amid its pairs", bool(killed and killed > 1), f"process {killed}")
        if code:
            print((folder / f"{name}.log").read_text(errors="replace")[-4000:], file=sys.stderr)
            continue
        rows = parquet.read_table(folder / f"{name}.scores").to_pylist()
        got = {row["id"]: {column: value for column, value in row.items() if value is not None} for row in rows}
        check(f"{name}: every pair has one result", len(rows) == PAIRS and got.keys() == wanted.keys(), f"{len(rows)} rows of {len(got)} pairs")
        others = [(got[pair], wanted[pair]) for pair in got.keys() & wanted.keys() if got[pair] != wanted[pair]]
        check(f"{name}: every result is the one machine's, to the last digit", not others, f"{len(others)} differ, such as {others[0]}" if others else "")
    sys.exit(finish())


main()
