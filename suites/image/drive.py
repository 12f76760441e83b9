#!/usr/bin/env python3
"""Drives the service's image by `docker`: drive.py IMAGE FUNCTIONS_IMAGE RIE SAM TEMPLATE COMPOSE…, or drive.py --emulated IMAGE ARCHITECTURE EMULATOR

As a server that is shut in, told to stop in the middle of a request; as the custom handler that the Functions host starts, from both
images; by docker-compose.yml; in AWS's emulator and under the SAM CLI with every events/*.json, each answer compared with the server's.
An image of another architecture: what is in it, and its program outside it, under an emulator of processes.
Prints one line a check; exits 1 where one failed. Needs only the standard library, and in RUST_IMAGE the toolchain's image.
"""

import contextlib
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

import suite
from suite import ROOT, check, finish, free_port, process, request, wait_for

sys.path[:0] = [str(ROOT / "suites/emulators"), str(ROOT / "suites/image")]
import drive as emulators  # noqa: E402
import hub  # noqa: E402
from contents import contents  # noqa: E402

PATIENCE = emulators.PATIENCE

# Of the whole image with the bundled model.
SIZE_LIMIT = 80_000_000
# What it takes to score with the bundled model is far less.
MEMORY = "128m"
SHUT_IN = ["--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--user", "65532:65532", "--memory", MEMORY]
# All files there are.
FILES = {
    "LICENSE",
    "etc/group",
    "etc/os-release",
    "etc/passwd",
    "etc/ssl/certs/ca-certificates.crt",
    "model/packed.safetensors",
    "model/scores.json",
    "reranker",
    "var/lib/dpkg/status.d/ca-certificates",
    "var/lib/dpkg/status.d/libc6",
}
# int8 may move a score by so much, wherever `reranker pack` lets a model out.
SCORE_BOUND = 0.03


def docker(*arguments, **options):
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


@contextlib.contextmanager
def container(image, options=(), command=()):
    """A container that is gone afterwards; its log comes with a failure."""
    name = docker("run", "--detach", *options, image, *command)
    try:
        yield name
    except BaseException:
        print(subprocess.run(["docker", "logs", name], capture_output=True, text=True).stderr, file=sys.stderr)
        raise
    finally:
        docker("rm", "--force", name)


def answers(port, path="/ready", wanted=(200,)):
    """Waits for such an answer."""
    return wait_for(f"port {port}: {path} answers {wanted}", lambda: suite.answers(port, path, wanted), seconds=PATIENCE)


def exit_code(name):
    return int(docker("wait", name))


def published():
    return json.loads((ROOT / "models/demo/scores.json").read_text())["rows"]


def sigmoid(logit):
    return 1 / (1 + math.exp(-logit))


def check_scores(what, port, path="/rerank/batch"):
    rows = published()
    pairs = [{"query": row["query"], "passage": row["passage"]} for row in rows]
    status, answer = request(port, "POST", path, json.dumps({"pairs": pairs, "normalize": False}).encode(), {"content-type": "application/json"})
    if status != 200:
        check(what, False, f"{status} {answer}")
        return
    scores = json.loads(answer)["scores"]
    distance = max(abs(sigmoid(score) - sigmoid(row["logit"])) for score, row in zip(scores, rows, strict=True))
    check(what, distance <= SCORE_BOUND, f"{len(rows)} pairs, no score further than {distance:.4f} from the published one")


def check_contents(image):
    inspected = json.loads(docker("image", "inspect", image))[0]
    size = inspected["Size"]
    found = contents(image)
    parts = ", ".join(f"{name} {found[name].size / 1e6:.1f}" for name in ("reranker", "model/packed.safetensors"))
    check("the image is small", size <= SIZE_LIMIT, f"{size / 1e6:.1f} MB ({parts}), the limit is {SIZE_LIMIT / 1e6:.0f}")
    others = set(found) ^ FILES
    check("it has the program, the model, and nothing to run besides", not others, ", ".join(sorted(others)))
    loose = [name for name, file in found.items() if int(file.mode, 8) & 0o022 or file.owner]
    check("its files are root's, and nobody else's to write", not loose, ", ".join(loose))


def check_server(image):
    port = free_port()
    with container(image, [*SHUT_IN, "--publish", f"127.0.0.1:{port}:8000"]) as name:
        answers(port)
        check_scores(f"shut in, with {MEMORY} of memory", port)
        status = subprocess.run(["docker", "exec", name, "/reranker", "health"], capture_output=True, text=True)
        check("the health check passes", status.returncode == 0, status.stdout.strip() or status.stderr.strip())
        served = json.loads(request(port, "GET", "/info")[1])
        right = (served["precision"], served["host"], served["demo"]) == ("int8", "http", True)
        check("it serves the bundled model in int8", right, f"{served['model']}, {served['instruction_set']}")
        check_stop(name, port)
    # As anybody at all: nothing may depend on a user's name.
    with container(image, [*SHUT_IN, "--user", "12345:12345", "--network", "none"]) as name:
        end = time.monotonic() + PATIENCE
        while subprocess.run(["docker", "exec", name, "/reranker", "health"], capture_output=True).returncode:
            if time.monotonic() > end:
                break
            time.sleep(0.1)
        ended = docker("exec", name, "/reranker", "health")
        check("it becomes ready as any user, without a network", ended == "200 OK", ended)


def check_stop(name, port):
    """SIGTERM while a request computes: it is answered in full, and the program ends by itself."""
    passage = "The ferry leaves the northern pier at half past six and returns after dark. " * 6
    pairs = [{"query": f"when does ferry {number} leave?", "passage": passage} for number in range(150)]
    body = json.dumps({"pairs": pairs}).encode()
    answer = []
    ask = threading.Thread(target=lambda: answer.append(request(port, "POST", "/rerank/batch", body, {"content-type": "application/json"})))
    ask.start()
    end = time.monotonic() + PATIENCE
    while json.loads(request(port, "GET", "/info")[1])["pending_tokens"] == 0 and time.monotonic() < end:
        time.sleep(0.005)
    docker("kill", "--signal", "TERM", name)
    begun = time.monotonic()
    code = exit_code(name)
    ask.join()
    status, body = answer[0]
    whole = status == 200 and json.loads(body)["count"] == len(pairs)
    check("SIGTERM in the middle of a request: it is answered", whole, f"{status}, {len(pairs)} pairs")
    check("and the program ends by itself", code == 0, f"exit code {code} after {time.monotonic() - begun:.1f} s")


def check_static(image):
    """The C library is part of the program: looking up names must work without its files."""
    options = [*SHUT_IN, "--add-host", "hub.example:127.0.0.1", "--env", "HF_ENDPOINT=http://hub.example:9", "--env", "HF_HUB_CACHE=/tmp/hub"]
    with container(image, [*options, "--tmpfs", "/tmp"], ["fetch", "some/model"]) as name:
        code = exit_code(name)
        said = subprocess.run(["docker", "logs", name], capture_output=True, text=True).stderr.strip()
    check("names are looked up", code == 1 and "refused" in said.lower(), said)


def check_functions(what, image, command):
    """As the Functions host starts it: a port of its own on the loopback interface, asked until it answers."""
    port = free_port()
    options = ["--network", "host", "--env", f"FUNCTIONS_CUSTOMHANDLER_PORT={port}"]
    with container(image, options, command) as name:
        begun = time.monotonic()
        status, _ = answers(port, "/", range(200, 600))
        check(f"{what}: the port answers", True, f"{status} after {time.monotonic() - begun:.2f} s")
        answers(port)
        check_scores(f"{what}: scores", port)
        check_scores(f"{what}: scores under the host's usual prefix", port, "/api/rerank/batch")
        docker("kill", "--signal", "TERM", name)
        check(f"{what}: ends by itself", exit_code(name) == 0)


def check_functions_image(image):
    """The image for App Service: host.json says what the host starts, and where."""
    found = contents(image)
    wwwroot = "home/site/wwwroot"
    wanted = {f"{wwwroot}/reranker", f"{wwwroot}/host.json", f"{wwwroot}/rerank/function.json", "model/packed.safetensors"}
    check("the function app has its files", wanted <= set(found), ", ".join(sorted(wanted - set(found))))
    variables = dict(pair.split("=", 1) for pair in json.loads(docker("image", "inspect", image))[0]["Config"]["Env"])
    check("it is a custom handler's", variables.get("FUNCTIONS_WORKER_RUNTIME") == "custom", json.dumps(variables))
    name = docker("create", image, "nothing")
    try:
        with tempfile.TemporaryDirectory() as folder:
            docker("cp", f"{name}:/{wwwroot}/host.json", folder)
            handler = json.loads(pathlib.Path(folder, "host.json").read_text())["customHandler"]["description"]
    finally:
        docker("rm", name)
    program = f"{variables['AzureWebJobsScriptRoot']}/{handler['defaultExecutablePath']}"
    check_functions("the function app", image, [program, *handler["arguments"]])


def check_emulator(image, rie, plain):
    port = free_port()
    options = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--memory", MEMORY, "--publish", f"127.0.0.1:{port}:8080"]
    options += ["--volume", f"{rie}:/rie:ro", "--entrypoint", "/rie", "--env", f"AWS_LAMBDA_FUNCTION_TIMEOUT={PATIENCE}"]
    inspected = json.loads(docker("image", "inspect", image))[0]["Config"]
    with container(image, options, [*inspected["Entrypoint"], *inspected["Cmd"]]):
        emulators.wait_for_port(port)
        invoke = lambda event: request(port, "POST", "/2015-03-31/functions/function/invocations", event)  # noqa: E731
        emulators.check_events("RIE", invoke, plain)
        emulators.check_health(invoke)


def sam_options():
    return ["--skip-pull-image", "--region", "eu-central-1", "--parameter-overrides", f"MemoryMb=3538 TimeoutSeconds={PATIENCE}"]


def check_sam_invoke(sam, template, plain):
    def invoke(event):
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            file.write(event)
            file.flush()
            command = [sam, "local", "invoke", "Reranker", "--template", template, "--event", file.name, *sam_options()]
            done = subprocess.run(command, capture_output=True, text=True)
        answer = done.stdout.strip().splitlines()
        if not answer:
            raise RuntimeError(f"sam local invoke: {done.stderr}")
        # An error of the function is an answer as well, and the exit code is then 0 or 1 by its kind.
        return 200, answer[-1].encode()

    emulators.check_events("sam local invoke", invoke, plain)


def check_sam_api(sam, template, plain, log):
    port = free_port()
    # The functions around a roll-out run on AWS's image of Python, which EAGER would pull for nothing.
    command = [sam, "local", "start-api", "--template", template, "--port", str(port), "--warm-containers", "LAZY", *sam_options()]
    # Where we run in the background SIGINT is ignored, which it would inherit.
    heeds = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    started = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, preexec_fn=heeds)
    try:
        emulators.wait_for_port(port, started)
        for path in sorted((ROOT / "events").glob("*.json")):
            event = json.loads(path.read_text())
            method, target, body = emulators.as_http(event)
            headers = {"content-type": "application/json"} if body else {}
            status, answer = request(port, method, target, body, headers)
            expected_status, expected = request(plain, method, target, body, headers)
            same = status == expected_status and emulators.comparable(answer) == emulators.comparable(expected)
            detail = f"{method} {target} {status}"
            check(f"sam local start-api {path.name}", same, detail if same else f"{detail} {answer[:300]} instead of {expected_status} {expected[:300]}")
    finally:
        # Its containers go with it.
        started.send_signal(signal.SIGINT)
        started.wait(timeout=PATIENCE)


def check_compose(compose, image):
    """docker-compose.yml as it is, under another name: up, healthy, an answer, down."""
    port = free_port()
    environment = {**os.environ, "IMAGE": image, "PORT": str(port)}

    def run(*arguments):
        command = [*compose, "--project-name", "reranker-check", "--file", str(ROOT / "docker-compose.yml"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)

    try:
        up = run("up", "--detach", "--no-build")
        names = docker("ps", "--quiet", "--filter", "label=com.docker.compose.project=reranker-check").split()
        check("compose starts it", len(names) == 1, up.stderr.strip()[-300:] if len(names) != 1 else "")
        if len(names) != 1:
            return
        name, end, status = names[0], time.monotonic() + PATIENCE, ""
        while status != "healthy" and time.monotonic() < end:
            # podman leaves the timing of health checks to systemd, which need not be there.
            subprocess.run(["podman", "healthcheck", "run", name], capture_output=True)
            status = docker("inspect", "--format", "{{.State.Health.Status}}", name)
            time.sleep(0.2)
        check("compose finds it healthy", status == "healthy", status)
        config = json.loads(docker("inspect", name))[0]["HostConfig"]
        shut_in = config["ReadonlyRootfs"] and config["Memory"] == 1 << 30 and not set(config.get("CapAdd") or [])
        check("compose shuts it in", shut_in, json.dumps({key: config[key] for key in ("ReadonlyRootfs", "Memory", "CapDrop")})[:200])
        check_scores("compose publishes its port", port)
        begun = time.monotonic()
        run("stop")
        code = int(docker("inspect", "--format", "{{.State.ExitCode}}", name))
        check("compose stops it", code == 0, f"exit code {code} after {time.monotonic() - begun:.1f} s")
    finally:
        run("down")


def check_hub(image):
    """A model of the hub's, for which the builder needs a key: packed as it is there, and the key is nowhere in the image."""
    tag = "reranker-hub:check"
    options = ["--file", str(ROOT / "Dockerfile.lambda"), "--network", "host", "--tag", tag, "--secret", "id=HF_TOKEN,env=HF_TOKEN"]
    # Docker's own client leaves secrets to BuildKit, which podman does not have; podman's has them itself.
    builder = ["podman", "build", "--format", "docker"] if "podman" in os.environ.get("DOCKER_HOST", "") else ["docker", "build"]
    with hub.serving() as endpoint:
        arguments = {"MODEL": hub.NAME, "MODEL_REVISION": hub.COMMIT, "HF_ENDPOINT": endpoint, "RUST_IMAGE": os.environ["RUST_IMAGE"]}
        for name, value in arguments.items():
            options += ["--build-arg", f"{name}={value}"]
        done = subprocess.run([*builder, *options, str(ROOT)], env={**os.environ, "HF_TOKEN": hub.TOKEN}, capture_output=True, text=True)
    check("an image with a model of the hub's is built", done.returncode == 0, (done.stdout + done.stderr)[-2000:] if done.returncode else "")
    if done.returncode:
        return
    if builder[0] == "podman":
        tag = f"localhost/{tag}"
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", tag) + docker("image", "inspect", tag)
    check("the key to it is not in the image", hub.TOKEN not in history)
    ours, theirs = contents(image), contents(tag)
    check("and the program is the same", ours["reranker"] == theirs["reranker"])
    port = free_port()
    with container(tag, [*SHUT_IN, "--publish", f"127.0.0.1:{port}:8000"]):
        answers(port)
        served = json.loads(request(port, "GET", "/info")[1])
        right = (served["model"], served["revision"]) == (hub.NAME, hub.COMMIT)
        check("it serves the model and the revision that were named", right, f"{served['model']} {served['revision']}")
        check_scores("with the same scores", port)


def check_emulated(image, architecture, emulator):
    """The program and the model out of an image that this machine cannot run."""
    inspected = json.loads(docker("image", "inspect", image))[0]
    platform = inspected["Os"], inspected["Architecture"]
    check("the image says for whom it is", platform == ("linux", architecture), " ".join(platform))
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
        name = docker("create", image)
        for path in ("/reranker", "/model"):
            docker("cp", f"{name}:{path}", folder)
        docker("rm", name)
        program = [emulator, f"{folder}/reranker"]
        for command in ("doctor", "verify"):
            done = subprocess.run([*program, command], env={"PATH": os.environ["PATH"], "MODEL_DIR": f"{folder}/model"}, capture_output=True, text=True)
            check(f"`reranker {command}` finds nothing wrong", done.returncode == 0, done.stdout + done.stderr if done.returncode else done.stdout.splitlines()[-1])
        port = free_port()
        variables = {"MODEL_DIR": f"{folder}/model", "HOST": "127.0.0.1", "PORT": str(port)}
        with process([*program, "serve"], variables, log) as server:
            answers(port)
            check_scores("its server gives the published scores", port)
            server.terminate()
            check("SIGTERM ends it", server.wait(timeout=PATIENCE) == 0)


def main(image, functions_image, rie, sam, template, *compose):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    check_contents(image)
    check_server(image)
    check_static(image)
    check_functions("the custom handler", image, [])
    check_functions_image(functions_image)
    check_compose(compose, image)
    check_hub(image)
    port = free_port()
    with tempfile.TemporaryFile("w+") as log, container(image, [*SHUT_IN, "--publish", f"127.0.0.1:{port}:8000"]):
        answers(port)
        check_emulator(image, rie, port)
        check_sam_invoke(sam, template, port)
        check_sam_api(sam, template, port, log)
        if suite.failures:
            log.seek(0)
            print(log.read(), file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1] == "--emulated":
        check_contents(sys.argv[2])
        check_emulated(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
    sys.exit(finish())
