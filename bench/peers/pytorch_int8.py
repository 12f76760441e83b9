#!/usr/bin/env python3
"""PyTorch's dynamic int8: linear layers with int8 weights, a scale per output channel, and a scale per batch of activations.

ENGINE names PyTorch's quantized engine. With AVX-512 VNNI `onednn` and `fbgemm` are within four hundredths of each other, the
first ahead from 512 tokens on. With AVX2=1 all libraries in it are held to AVX2; there `fbgemm` is ahead to 128 tokens and
`onednn` at 512.
"""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "pytorch"))

import serving


def load(folder: str, threads: int) -> serving.Engine:
    held = os.environ.get("AVX2") == "1"
    if held:
        os.environ |= {
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        }
    import warnings

    import torch
    import torch_model
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    torch.set_num_threads(threads)
    engine = os.environ.get("ENGINE", "onednn")
    torch.backends.quantized.engine = engine
    model = torch_model.load(folder, "sdpa")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_dynamic(model, {torch.nn.Linear: per_channel_dynamic_qconfig}, dtype=torch.qint8, inplace=True)
    return serving.Engine(
        f"pytorch int8{' avx2' if held else ''}", f"torch {torch.__version__} {engine}", torch_model.scorer(model)
    )


if __name__ == "__main__":
    serving.main(load)
