#!/usr/bin/env python3
"""PyTorch with fused attention (SDPA) on a GPU, or on the CPU where DEVICE=cpu: DTYPE is float16, bfloat16 or float32."""

import os
import pathlib
import sys

BENCH = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(BENCH / "peers"), str(BENCH / "pytorch")]

import serving


def load(folder: str, threads: int) -> serving.Engine:
    import torch
    import torch_model

    torch.set_num_threads(threads)
    device, dtype = os.environ.get("DEVICE", "cuda"), os.environ["DTYPE"]
    model = torch_model.load(folder, "sdpa").to(device, getattr(torch, dtype))
    pad = model.config.pad_token_id

    @torch.inference_mode()
    def score(rows: list[list[int]]) -> list[float]:
        batch = {name: tensor.to(device) for name, tensor in torch_model.tensors(rows, pad=pad).items()}
        # Reading the logits waits until the device is done.
        return model(**batch).logits[:, 0].float().tolist()

    return serving.Engine(f"pytorch {dtype}", f"torch {torch.__version__}", score)


if __name__ == "__main__":
    serving.main(load)
