"""What every cloud's deployment needs: its record on disk, its lock, commands, and words for the user."""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
STATE = pathlib.Path(os.environ.get("DEPLOY_STATE") or ROOT / "deploy/state")
REAL_MODEL = "BAAI/bge-reranker-v2-m3"
DEMO = "demo"


class Stop(Exception):
    """Ends the command with a message for the user."""


def say(text=""):
    print(text, flush=True)


def step(text):
    say(f"-- {text}")


def asked(name):
    """What the user gave for NAME on make's command line or in the environment; None where it is absent or empty."""
    return os.environ.get(name, "").strip() or None


def assignments(name):
    """SET='memory_mb=10240 start=snap-start scale={"max_replicas": 3}': a word, a number, true, false, or JSON."""
    text, at, found = asked(name) or "", 0, {}
    while text[at:].strip():
        key = re.compile(r"\s*([a-z]\w*)=").match(text, at)
        if not key:
            raise Stop(f"{name}: {text[at:].strip()!r} does not begin with NAME=VALUE, as in {name}=\"memory_mb=10240 start=snap-start\"")
        at = key.end()
        try:
            value, at = json.JSONDecoder().raw_decode(text, at)
            if text[at : at + 1].strip():
                raise ValueError
        except ValueError:
            if text[key.end() : key.end() + 1] in ("{", "[", '"'):
                raise Stop(f"{name}: {key[1]} is no JSON: {text[key.end():]}") from None
            word = re.compile(r"\S*").match(text, key.end())
            value, at = word[0], word.end()
        found[key[1]] = value
    return found


def digest_of(key):
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


class Deployment:
    """The record of one deployment in a folder of its own. It holds hashes and never a key."""

    def __init__(self, cloud, name, region):
        self.cloud, self.name, self.region = cloud, name, region
        self.folder = STATE / f"{cloud}-{region}-{name}"
        self.path = self.folder / "settings.json"
        self.lock = None
        self.record = json.loads(self.path.read_text()) if self.path.exists() else {}

    @classmethod
    def all(cls):
        """Every deployment that has a record here."""
        for path in sorted(STATE.glob("*/settings.json")):
            record = json.loads(path.read_text())
            yield cls(record["cloud"], record["name"], record["region"])

    def hold(self):
        """Locks out a second command until this one ends, and what it has started too: the lock is inherited."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self.lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Stop(f"{self.name}: another command is at work on this deployment; wait for its end") from None
        # Read again: it may have been written between the first look and the lock.
        self.record = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.record |= {"cloud": self.cloud, "name": self.name, "region": self.region}

    def save(self, **changes):
        """Whole or not at all, and for nobody else to read."""
        self.record |= changes
        temporary = self.path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w") as file:
            json.dump(self.record, file, indent=2, sort_keys=True)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    def forget(self):
        shutil.rmtree(self.folder)

    def get(self, key, default=None):
        return self.record.get(key, default)


# ---- commands

held = []


def run(*command, text=None, environment=None, cwd=ROOT, capture=True, check=True):
    """Runs a command. Ctrl-C and SIGTERM are passed on, and its end is waited for: Terraform then writes its state."""
    words = [str(word) for word in command]
    pipe = subprocess.PIPE if capture else None
    process = subprocess.Popen(
        words,
        cwd=cwd,
        env=environment,
        text=True,
        stdin=subprocess.PIPE if text is not None else subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        pass_fds=held,
        # A terminal's Ctrl-C would reach it a second time, and twice means at once.
        start_new_session=True,
    )
    try:
        out, err = process.communicate(text)
    except KeyboardInterrupt:
        say(f"interrupted: waiting for {words[0]} to end")
        process.send_signal(signal.SIGINT)
        process.communicate()
        raise
    if check and process.returncode:
        raise Failed(words, process.returncode, (err or out or "").strip())
    return subprocess.CompletedProcess(words, process.returncode, out, err)


class Failed(Stop):
    def __init__(self, words, code, told):
        self.told = told
        shown = shlex.join(words[:4]) + (" …" if len(words) > 4 else "")
        super().__init__(f"{shown} ended with {code}" + (f":\n{told}" if told else ""))


def answers(*command):
    """Whether a command exists and ends well."""
    if not shutil.which(command[0]):
        return False
    return run(*command, check=False).returncode == 0


@contextlib.contextmanager
def at_work(deployment):
    deployment.hold()
    held.append(deployment.lock)
    try:
        yield deployment
    finally:
        held.remove(deployment.lock)
        os.close(deployment.lock)


class Missing:
    """Gathers everything that is missing, so that it is told at once."""

    def __init__(self):
        self.found = []

    def __call__(self, what, mend):
        self.found.append(f"- {what}\n    {mend}")

    def tell(self):
        if self.found:
            raise Stop("this is missing:\n" + "\n".join(self.found))


def tool(missing, name, mend, *probe):
    if not answers(name, *probe):
        missing(f"{name} does not answer `{name} {' '.join(probe)}`", mend)
        return False
    return True


# ---- the model

def model_asked(record):
    """Model and revision: what is asked for, else what is deployed, else the real one at its pinned revision."""
    model = asked("MODEL") or record.get("model") or REAL_MODEL
    if model in (DEMO, "models/demo"):
        return DEMO, ""
    if asked("MODEL_REVISION"):
        return model, asked("MODEL_REVISION")
    if model == record.get("model"):
        return model, record["model_revision"]
    pins = json.loads((ROOT / "crates/sources/src/pins.json").read_text())
    for pin in pins:
        if pin["name"] == model:
            return model, pin["revision"]
    known = ", ".join(pin["name"] for pin in pins)
    raise Stop(f"MODEL={model}: give MODEL_REVISION, the commit of it; pinned are {known} and {DEMO}")


def published_pairs(model):
    """Pairs with the scores that they are known to have: of the bundled model by its own file, of others as published."""
    if model == DEMO:
        return json.loads((ROOT / "models/demo/scores.json").read_text())["rows"]
    for known in json.loads((ROOT / "src/cli/verify/published.json").read_text()):
        if known["model"] == model:
            return known["rows"]
    return []


def main_guard(main):
    """Runs MAIN with SIGTERM as Ctrl-C, and turns what stops it into a message and an exit code."""

    def terminated(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminated)
    try:
        main()
    except Stop as stop:
        print(stop, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one ended", file=sys.stderr)
        sys.exit(130)
