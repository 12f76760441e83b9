#!/usr/bin/env bash
# Builds the image of Dockerfile.gpu on a machine without a GPU, and runs it there: it must serve on the CPU, say why, and refuse where it
# is told to compute on a GPU. Half an hour on two cores, and 15 GB of disk. Where NVIDIA's images have not been pulled, they are stood in
# for by this machine's own toolchain with what suites/cuda/toolkit.sh makes; kernels that are never called are left out then.
set -euo pipefail
cd "$(dirname "$0")/../.."
engine=$PWD/target/image/engine
image=reranker-gpu:check

eval "$(suites/image/engine.sh "$engine")"
if [[ ${DOCKER_HOST:-} == "unix://$engine/"* ]]; then
    trap 'kill "$(cat "$engine/podman.pid")"' EXIT
fi
named() { sed -n "s/^ARG $1=//p" Dockerfile.gpu; }
arguments=(--build-arg "SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)" --network host)
if ! docker image inspect "$(named CUDA_BUILD_IMAGE)" >/dev/null 2>&1; then
    source suites/cuda/toolkit.sh
    # As NVIDIA's image has it: the toolkit in /usr/local/cuda, the driver's library, to be linked to and no more, in lib64/stubs.
    cuda=$work/image
    rm -rf "$cuda"
    cp -al "$CUDA_HOME" "$cuda"
    cp suites/cuda/nvcc "$cuda/bin/nvcc-for-candle"
    ln -s lib "$cuda/lib64"
    mkdir "$cuda/lib/stubs"
    mv "$libraries"/libcuda.* "$cuda/lib/stubs/"
    cp -P "$libraries"/libcublas* "$cuda/lib/"
    for name in cudart nvrtc curand; do (cd "$cuda/lib" && ln -s lib$name.so.* lib$name.so); done
    python3 suites/image/toolchain.py --rustup --package g++ --folder "$cuda=/usr/local/cuda" |
        docker import --change "ENV LD_LIBRARY_PATH=/usr/local/cuda/lib64" --change "ENV NVCC=/usr/local/cuda/bin/nvcc-for-candle" \
            --change "ENV CUDARC_CUDA_VERSION=$CUDARC_CUDA_VERSION" - rust-cuda:debian >/dev/null
    rm -rf "$cuda"
    for name in RUST_IMAGE CUDA_BUILD_IMAGE CUDA_IMAGE; do arguments+=(--build-arg $name=rust-cuda:debian); done
fi
docker build --quiet --file Dockerfile.gpu --tag $image "${arguments[@]}" .

# CUDA's base, what the program is linked to, the program, and the bundled model.
size=$(($(docker image inspect --format '{{.Size}}' $image) >> 20))
printf 'the image is %s MiB\n' $size
((size <= 2048)) || { echo "the image is larger than 2048 MiB" >&2; exit 1; }

expect() { # PATTERN, what is searched on stdin
    local text
    text=$(cat)
    grep -qF -- "$1" <<<"$text" || { printf 'expected "%s" in:\n%s\n' "$1" "$text" >&2; exit 1; }
    printf 'ok: %s\n' "$1"
}
shut_in=(--read-only --tmpfs /tmp --cap-drop all --security-opt no-new-privileges --memory 1g)
missing='the NVIDIA driver is not installed'
docker run --rm "${shut_in[@]}" $image doctor | expect "GPU: not used: $missing"
# Without --rm: podman's stand-in for Docker forgets the status of a container that is gone.
name=$(docker run --detach "${shut_in[@]}" --env DEVICE=cuda $image)
echo "status $(docker wait "$name")" | expect 'status 2'
docker logs "$name" 2>&1 | expect "DEVICE=cuda: $missing"
docker rm "$name" >/dev/null
docker run --rm "${shut_in[@]}" $image verify | expect 'rows pass'
name=$(docker run --detach "${shut_in[@]}" --env LOG_FORMAT=text $image)
for _ in $(seq 300); do
    if docker exec "$name" /opt/reranker/reranker health >/dev/null 2>&1; then break; fi
    sleep 0.2
done
docker exec "$name" /opt/reranker/reranker health && echo 'ok: it is healthy'
docker logs "$name" 2>&1 | expect 'DEVICE=auto: computing on the CPU'
docker stop --time 30 "$name" >/dev/null
echo "status $(docker wait "$name")" | expect 'status 0'
docker rm "$name" >/dev/null
