#!/usr/bin/env python3
"""PyTorch f32, as a Python service runs it, or with its linear layers packed for oneDNN (`PACKED=1`).

The plain way calls MKL, which packs a layer's weights anew for every product: that is most of the work at few tokens, so pairs
one by one run at some 80 to 130 GFLOP/s below 128 tokens. oneDNN packs them once, when the model is loaded, and runs the same
pairs at 160 to 170. `torch.compile` with freezing does the same; it needs a C++ compiler and minutes.
"""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "pytorch"))

import serving


def load(folder: str, threads: int) -> serving.Engine:
    import torch
    import torch_model

    class PackedLinear(torch.nn.Module):
        def __init__(self, linear: torch.nn.Linear):
            super().__init__()
            self.weight = linear.weight.detach().to_mkldnn()
            self.bias = linear.bias.detach()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")

    torch.set_num_threads(threads)
    model = torch_model.load(folder, "sdpa")
    packed = os.environ.get("PACKED") == "1"
    if packed:
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, torch.nn.Linear):
                    setattr(module, name, PackedLinear(child))
    return serving.Engine(
        "pytorch f32 packed" if packed else "pytorch f32", f"torch {torch.__version__}", torch_model.scorer(model)
    )


if __name__ == "__main__":
    serving.main(load)
