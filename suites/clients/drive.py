#!/usr/bin/env python3
"""Drives the real client packages: drive.py PROGRAM INSTALLED RESULT.

Starts PROGRAM with the bundled model, once with a key and once open to everyone, and runs current.py, older.py and npm.mjs against it
with the packages that run.sh has put into the folder INSTALLED. Prints one line a check, writes them all to the file RESULT, and
exits 1 where one failed. Needs only the standard library.
"""

import contextlib
import json
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request

from suite import PATIENCE, ROOT, serving

HERE = pathlib.Path(__file__).resolve().parent
CHECKS = ("success", "error", "auth")
LIMIT = 100_000
QUERY = "Can I get a refund after 30 days?"
DOCUMENTS = [
    "Our shop is open from Monday to Friday between nine and five.",
    "Returns are accepted within 60 days of delivery, and the full price is refunded.",
    "The office kitchen has a new coffee machine.",
]


def native_scores(url, key):
    """What every client must be told, from the native route."""
    body = json.dumps({"pairs": [{"query": QUERY, "passage": document} for document in DOCUMENTS]}).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/rerank/batch", body, headers), timeout=60) as response:
        scores = json.load(response)["scores"]
    assert max(scores) == scores[1] > 0.5, f"the bundled model does not find the answer: {scores}"
    return scores


def run(name, command, setup, work, **variables):
    """Runs one file of clients and gives what it found, as dicts. What the packages print is shown only if it fails itself."""
    results, output = work / f"{name}.jsonl", work / f"{name}.log"
    results.touch()
    environment = {
        "PATH": os.environ["PATH"],
        # No configuration and no cache of whoever runs this.
        "HOME": str(work),
        "SETUP": str(setup),
        "RESULTS": str(results),
        "NO_PROXY": "127.0.0.1",
        # Nothing is fetched or reported while the packages are imported and used.
        "AWS_EC2_METADATA_DISABLED": "true",
        "HAYSTACK_TELEMETRY_ENABLED": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **variables,
    }
    with output.open("w") as log:
        status = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=PATIENCE).returncode
    found = [json.loads(line) for line in results.read_text().splitlines()]
    for result in found:
        for check in CHECKS:
            print(f"{'pass' if result[check] else 'FAIL'}  {result['package']} {result['version']} {result['called']}: {check}", flush=True)
            if not result[check]:
                print("      " + result["failures"][check].rstrip().replace("\n", "\n      "))
    if status != 0 or not found:
        print(f"FAIL  {name} ended with {status}\n{output.read_text()}")
        found.append({**dict.fromkeys(CHECKS, False), "package": name})
    return found


def guide_code(python, older, url, key, work):
    """Runs each example of the guide as a user would paste it, with this server's address and key; gives the names of those that fail."""
    _, block = (ROOT / "docs/guides/clients.md").read_text().split("```python\n", 1)
    first, *examples = block.split("```", 1)[0].split("\n\n")
    failed = []
    for example in examples:
        name = example.splitlines()[0].lstrip("# ")
        code = f"{first}\n{example}".replace("http://localhost:8000", url).replace('"KEY"', repr(key))
        # langchain-cohere wants an older cohere.
        path = {"PYTHONPATH": str(older)} if "langchain" in example else {}
        environment = {"PATH": os.environ["PATH"], "HOME": str(work), "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True", **path}
        done = subprocess.run([python, "-c", code], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
        passed = done.returncode == 0 and DOCUMENTS[1] in done.stdout
        print(f"{'pass' if passed else 'FAIL'}  docs/guides/clients.md: {name}", flush=True)
        if not passed:
            print(done.stdout + done.stderr)
            failed.append(name)
    assert len(examples) >= 4, examples
    return failed


def main(program, installed, result):
    # An interruption unwinds through the context managers, which end the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    program, installed = pathlib.Path(program).resolve(), pathlib.Path(installed).resolve()
    python = installed / "venv/bin/python"
    key = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as work, contextlib.ExitStack() as servers:
        work = pathlib.Path(work)
        log, open_log = work / "server.log", work / "open.log"
        logs = [servers.enter_context(path.open("w")) for path in (log, open_log)]
        url = servers.enter_context(serving(program, logs[0], MAX_TEXT_CHARS=str(LIMIT), API_KEYS=key)).url
        open_url = servers.enter_context(serving(program, logs[1], MAX_TEXT_CHARS=str(LIMIT))).url
        setup = work / "setup.json"
        setup.write_text(
            json.dumps(
                {
                    "url": url, "open_url": open_url, "key": key, "log": str(log), "open_log": str(open_log),
                    "query": QUERY, "documents": DOCUMENTS, "scores": native_scores(url, key), "limit": LIMIT,
                }
            )
        )
        # node looks for packages beside the file that imports them.
        shutil.copy(HERE / "npm.mjs", installed / "node/npm.mjs")
        found = [
            *run("current.py", [python, HERE / "current.py"], setup, work),
            *run("older.py", [python, HERE / "older.py"], setup, work, PYTHONPATH=str(installed / "older")),
            *run("npm.mjs", ["sh", "-c", 'cd "$0" && exec node npm.mjs', installed / "node"], setup, work),
        ]
        failed = guide_code(python, installed / "older", url, key, work)
    checks = [client[check] for client in found for check in CHECKS] + [False] * len(failed)
    pathlib.Path(result).write_text(json.dumps(found, indent=1) + "\n")
    print(f"{sum(checks)} passed, {len(checks) - sum(checks)} failed")
    return 0 if all(checks) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
