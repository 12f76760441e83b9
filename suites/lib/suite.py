"""What the suites' drivers share: named checks, free ports, processes that end with their suite, the program as a server, requests.

suites/lib.sh puts this folder on Python's path. Needs only the standard library.
"""

import contextlib
import dataclasses
import http.client
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = ROOT / "models/demo"
# Seconds: longer than anything takes on a slow and busy machine, so that reaching it means that something hangs.
PATIENCE = 300

failures = 0


def check(name, passed, detail=""):
    """Says in one line whether something holds; the suite goes on, and fails in the end. Returns the line."""
    global failures
    failures += not passed
    line = f"{'pass' if passed else 'FAIL'}  {name}{f': {detail}' if detail else ''}"
    print(line, flush=True)
    return line


def finish():
    """The last line; returns the exit code."""
    print(f"{failures} failed" if failures else "all passed")
    return 1 if failures else 0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, done, process=None, seconds=PATIENCE):
    """Returns the first true answer of `done`; ends the suite if there is none in time, or if the process ends before."""
    end = time.monotonic() + seconds
    while not (answer := done()):
        if process is not None and process.poll() is not None:
            sys.exit(f"{what}: its process ended with {process.returncode}")
        if time.monotonic() > end:
            sys.exit(f"{what}: not within {seconds} s")
        time.sleep(0.02)
    return answer


def listens(port):
    """Whether anything takes connections."""
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def request(port, method, path, body=b"", headers=None, seconds=PATIENCE):
    """Status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request(method, path, body or None, headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def answers(port, path, wanted=(200,)):
    """Status and body if the status is a wanted one."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        status, body = request(port, "GET", path)
        if status in wanted:
            return status, body
    return None


@contextlib.contextmanager
def process(command, variables, log=subprocess.DEVNULL, grace=15, **options):
    """A process with only these variables, in a group of its own, which goes with everything that it started."""
    environment = {"PATH": os.environ["PATH"], **variables}
    started = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, **options
    )
    try:
        yield started
    finally:
        for signum in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signum)
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.wait(timeout=grace)


@dataclasses.dataclass
class Server:
    port: int
    process: subprocess.Popen

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def serving(program, log=subprocess.DEVNULL, **variables):
    """`PROGRAM serve` on a free port of the loopback interface, ready. It has the bundled model if the variables name no other."""
    port = free_port()
    environment = {"MODEL_DIR": str(DEMO), "HOST": "127.0.0.1", "PORT": str(port), **variables}
    with process([program, "serve"], environment, log) as started:
        wait_for(f"the server on port {port} is ready", lambda: answers(port, "/ready"), started)
        yield Server(port, started)
