"""The image: built here, or copied by its digest, into the registry of the account."""

import re

from common import DEMO, ROOT, Stop, answers, asked, run, step

DIGEST = re.compile(r"^(?P<repository>[^@\s]+)@(?P<digest>sha256:[0-9a-f]{64})$")


def given():
    """IMAGE=registry/…@sha256:…, where the image is not to be built here."""
    image = asked("IMAGE")
    if image is None:
        return None
    found = DIGEST.match(image)
    if not found:
        raise Stop(f"IMAGE={image}: name it by its digest, as in ghcr.io/owner/reranker@sha256:…; a tag could be moved")
    return found


def needs_docker(missing):
    if not answers("docker", "version"):
        missing("docker does not answer `docker version`", "install Docker with buildx and start it: https://docs.docker.com/engine/install/")


def source(model, revision, platform, dockerfile="Dockerfile.lambda"):
    """Names what an image is made from. None where the tree has changes of its own: then only a build can tell."""
    image = given()
    if image:
        return image[0]
    head = run("git", "rev-parse", "HEAD", check=False)
    dirty = run("git", "status", "--porcelain", check=False)
    if head.returncode or dirty.stdout.strip():
        return None
    return f"{head.stdout.strip()} {dockerfile} {model} {revision} {platform}"


def make(model, revision, platform, dockerfile="Dockerfile.lambda"):
    """Builds the image, or fetches the given one; its local name."""
    image = given()
    if image:
        step(f"fetching {image[0]}")
        run("docker", "pull", "--quiet", "--platform", platform, image[0])
        return image[0]
    name = "reranker-deploy" + ("-gpu" if dockerfile.endswith("gpu") else "")
    step(f"building {name} for {platform} with {model} (compiles the program at first: many minutes)")
    folder = "models/demo" if model == DEMO else model
    if dockerfile == "Dockerfile.lambda":
        build = ["make", "--no-print-directory", "image", f"IMAGE={name}", f"PLATFORM={platform}", f"MODEL={folder}"]
        run(*build, f"MODEL_REVISION={revision}", capture=False)
    else:
        arguments = ["--build-arg", f"MODEL={folder}", "--build-arg", f"MODEL_REVISION={revision}"]
        run("docker", "build", "--platform", platform, "--file", dockerfile, *arguments, "--tag", name, ".", cwd=ROOT, capture=False)
    return name


def tag_of(name):
    """A tag for exactly these bytes, so that pushing the same image twice is no second push."""
    identity = run("docker", "image", "inspect", "--format", "{{.Id}}", name).stdout.strip()
    return "i-" + identity.removeprefix("sha256:")[:24]


def push(name, target):
    step(f"pushing {target}")
    run("docker", "tag", name, target)
    run("docker", "push", "--quiet", target)
