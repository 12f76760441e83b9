#!/usr/bin/env bash
# Builds the image and drives it; suites/image/drive.py says how.
#
#   suites/image/run.sh
#
# A machine without Docker gets podman from Debian; where Dockerfile.lambda's toolchain image has not been pulled, one is made of this
# machine's own toolchain. The other tools come from PyPI at pinned versions and are kept under target/image.
set -euo pipefail
cd "$(dirname "$0")/../.."
source suites/lib.sh

work=$PWD/target/image
image=reranker:check
functions=reranker-functions:check
export SAM_CLI_TELEMETRY=0

step() { printf -- '-- %s (%ss)\n' "$1" "$SECONDS"; }

suites/image/tools.sh
bin=$work/tools/bin

step "hadolint"
"$bin/hadolint" Dockerfile.lambda Dockerfile.gpu azure/Dockerfile suites/image/sam.Dockerfile

step "a container engine, and the toolchain's image"
eval "$(suites/image/engine.sh "$work/engine")"
if [[ ${DOCKER_HOST:-} == "unix://$work/engine/"* ]]; then
    trap 'kill "$(cat "$work/engine/podman.pid")"' EXIT
fi
RUST_IMAGE=$(sed -n 's/^ARG RUST_IMAGE=//p' Dockerfile.lambda)
if ! docker image inspect "$RUST_IMAGE" >/dev/null 2>&1; then
    echo "$RUST_IMAGE is not here: its stand-in is $(rustc --version) of this machine"
    # What is made here cannot have that digest.
    RUST_IMAGE=${RUST_IMAGE%@*}
    docker image inspect "$RUST_IMAGE" >/dev/null 2>&1 ||
        python3 suites/image/toolchain.py | docker import --change "ENV CARGO_HOME=/usr/local/cargo" - "$RUST_IMAGE" >/dev/null
fi
export RUST_IMAGE

step "the image"
make --no-print-directory image IMAGE=$image BUILD_ARGS="--network host --quiet"
docker build --quiet --build-arg SERVICE=$image --build-arg HOST="$RUST_IMAGE" --tag $functions azure

# The program as it is shipped, for whatever tests it outside: `make suite SUITES=clients BINARY=target/image/reranker`.
container=$(docker create $image)
docker cp "$container:/reranker" "$work/reranker"
docker rm "$container" >/dev/null

step "its structure"
"$bin/container-structure-test" test --image $image --config suites/image/structure.yaml --quiet

step "what is in it"
make --no-print-directory sbom IMAGE=$image
python3 - target/image/sbom.cdx.json <<'PYTHON'
import json, sys
found = {part["name"]: part.get("purl", "") for part in json.load(open(sys.argv[1]))["components"]}
for name, kind in {"tokio": "cargo", "kernels": "cargo", "libc6": "deb", "ca-certificates": "deb"}.items():
    if not found.get(name, "").startswith(f"pkg:{kind}/"):
        sys.exit(f"the bill of materials lacks {name}")
print(f"{len(found)} parts, among them {found['libc6']}")
PYTHON

step "sam build"
sam=target/aws/tools/bin/sam
sed "s|DockerBuildArgs: {|&RUST_IMAGE: '$RUST_IMAGE', |" template.yaml > "$work/template.yaml"
$sam build --no-use-buildkit --template "$work/template.yaml" --base-dir "$PWD" --build-dir "$work/sam" >/dev/null
rm -rf "$work/busybox"
mkdir "$work/busybox"
(cd "$work/busybox" && apt-get download -qq busybox-static 2>/dev/null && dpkg-deb -x ./*.deb . && mv bin/busybox .)
docker build --quiet --file suites/image/sam.Dockerfile --build-arg SERVICE=reranker:lambda --tag reranker:lambda "$work/busybox" >/dev/null

step "the image, driven"
rie=$(echo "$PWD"/target/aws/tools/lib/python3*/site-packages/samcli/local/rapid)/aws-lambda-rie-x86_64
if docker compose version >/dev/null 2>&1; then compose=(docker compose); else compose=("$bin/podman-compose"); fi
# podman takes a short name for one of its own.
full=$(docker image inspect --format '{{index .RepoTags 0}}' $image)
python3 suites/image/drive.py "$full" $functions "$rie" $sam "$work/sam/template.yaml" "${compose[@]}"
