#!/usr/bin/env bash
# Everything that a GPU has to show, in a few minutes: see run.py. Takes the program as it was built, on this machine or another, and the
# Python that is there, with PyTorch, safetensors, tokenizers and transformers.
#
#   bench/gpu/device.sh PROGRAM [ARGUMENTS OF run.py]
#   DEVICE=cpu bench/gpu/device.sh PROGRAM        the same on the CPU with the bundled model, to see that all this works
#
# MODEL names a model folder; without it one of bge-reranker-v2-m3's shape is made, with random weights. PYTHON names an interpreter.
set -euo pipefail
cd "$(dirname "$0")/../.."
program=$1
shift
python=${PYTHON:-python3}
model=${MODEL:-}

if [[ ${DEVICE:-cuda} != cpu ]]; then
    # A program that was built elsewhere finds CUDA's libraries where they are here: with the toolkit, or with PyTorch.
    folders=$(ldconfig -p | sed -n 's|.*=> \(.*\)/libcublas\.so.*|\1|p' | head -1)
    folders+=:$("$python" -c '
import glob, sysconfig
print(":".join(sorted(glob.glob(sysconfig.get_paths()["purelib"] + "/nvidia/*/lib"))))')
    export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folders:/usr/local/cuda/lib64:/usr/local/nvidia/lib64
    if missing=$(ldd "$program" | grep 'not found'); then
        printf '%s: libraries are missing; looked in %s\n%s\n' "$program" "$LD_LIBRARY_PATH" "$missing" >&2
        exit 2
    fi
    if [[ -z $model ]]; then
        model=target/bench/synthetic
        [[ -e $model/model.safetensors ]] || "$python" bench/pytorch/synthetic_model.py "$model"
    fi
fi
exec "$python" bench/gpu/run.py --binary "$program" --model "${model:-models/demo}" "$@"
