#!/usr/bin/env python3
"""Installs what packaging/dist.py made as a user would: drive.py DIST FOLDER. Prints one line a check; exits 1 if one failed.

DIST has the archive and the wheel of this machine's architecture, and FOLDER is where they are installed. Needs only the standard library,
pip and binutils.
"""

import base64
import contextlib
import csv
import hashlib
import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import tarfile

from suite import check, finish, request, serving

QUERY = "Can I get a refund after 30 days?"
DOCUMENTS = ["Our offices are open from nine to five.", "Returns are accepted within 60 days of delivery, and the full price is refunded."]


def run(*command, cwd=None, **variables):
    """With only these settings, and none of this shell's."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd, env={"PATH": os.environ["PATH"], **variables})
    return done.returncode, done.stdout + done.stderr


def check_sums(dist):
    code, said = run("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=dist)
    listed = {line.split()[1] for line in (dist / "SHA256SUMS").read_text().splitlines()}
    others = listed ^ {path.name for path in dist.iterdir()} - {"SHA256SUMS"}
    check("SHA256SUMS has the digest of every file", code == 0 and not others, said if code else ", ".join(others))


def check_program(what, program, folder):
    """With nothing set it finds its model, and gives that one's published scores."""
    code, said = run(program, "verify", cwd=folder)
    check(f"{what}: the model beside it gives the published scores", code == 0 and "serverless-reranker-demo" in said, said if code else said.splitlines()[-1])
    # The C library's part that looks up names is in the program as well.
    code, said = run(program, "fetch", "some/model", cwd=folder, HF_ENDPOINT="http://localhost:9", HF_HUB_CACHE=str(folder / "hub"))
    check(f"{what}: names are looked up", code == 1 and "refused" in said.lower(), said.strip())


def check_answer(what, program, folder):
    with contextlib.chdir(folder), serving(program, MODEL_DIR="") as server:
        body = json.dumps({"query": QUERY, "documents": DOCUMENTS}).encode()
        status, answer = request(server.port, "POST", "/rerank", body, {"content-type": "application/json"})
        results = json.loads(answer).get("results", [])
        right = status == 200 and results and results[0]["index"] == 1
        check(f"{what}: `reranker serve` answers", right, f"{status}, {answer.decode()[:200]}")


def check_archive(path, folder):
    folder.mkdir()
    with tarfile.open(path) as packed:
        packed.extractall(folder, filter="data")
    [top] = folder.iterdir()
    there = {str(file.relative_to(top)) for file in top.rglob("*") if file.is_file()}
    wanted = {"LICENSE", "NOTICES", "reranker", *(f"models/demo/{name}" for name in ("NOTICE", "README.md", "packed.safetensors", "scores.json"))}
    check("the archive has the program, the model and the licences", there == wanted, ", ".join(there ^ wanted))
    notices = (top / "NOTICES").read_text()
    missing = [name for name in ("axum", "ring", "tokenizers", "GNU C Library") if name not in notices]
    check("NOTICES has what the program is made of", not missing and len(notices) > 100_000, f"{notices.count('=' * 80)} texts" if not missing else str(missing))
    return top / "reranker"


def check_recorded(environment):
    """Every file of the wheel is where RECORD says, with its digest."""
    [record] = environment.glob("lib/python3*/site-packages/serverless_reranker-*.dist-info/RECORD")
    wrong, counted = [], 0
    for place, digest, _ in csv.reader(record.read_text().splitlines()):
        path = record.parents[1] / place
        if digest:
            counted += 1
            found = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
            if digest != f"sha256={found}":
                wrong.append(place)
    check("the wheel's files are the recorded ones", not wrong and counted > 6, ", ".join(wrong) or f"{counted} files")


def main(dist, folder):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    dist, folder = pathlib.Path(dist).resolve(), pathlib.Path(folder).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    empty = folder / "empty"
    empty.mkdir(parents=True)
    machine = platform.machine()
    check_sums(dist)

    [archive] = dist.glob(f"reranker-*-linux-{machine}.tar.gz")
    program = check_archive(archive, folder / "unpacked")
    _, parts = run("readelf", "--wide", "--program-headers", "--dynamic", program)
    check("the program needs no library of the machine", "LOAD" in parts and "INTERP" not in parts and "(NEEDED)" not in parts)
    check_program("archive", program, program.parent)
    check_answer("archive", program, program.parent)

    [wheel] = dist.glob(f"serverless_reranker-*_{machine}.whl")
    environment = folder / "venv"
    run(sys.executable, "-m", "venv", environment)
    code, said = run(environment / "bin/pip", "install", "--no-index", "--disable-pip-version-check", wheel)
    check("pip installs the wheel in a clean environment", code == 0, said if code else wheel.name)
    check_recorded(environment)
    check_program("wheel", environment / "bin/reranker", empty)
    check_answer("wheel", environment / "bin/reranker", empty)
    [installed] = environment.glob("lib/python3*/site-packages/serverless_reranker/reranker")
    check("archive and wheel have the same program", installed.read_bytes() == program.read_bytes())
    run(environment / "bin/pip", "uninstall", "--yes", "serverless-reranker")
    left = [str(path) for path in environment.rglob("*reranker*")]
    check("pip removes all of it", not left, ", ".join(left))
    return finish()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
