"""Makes a model with outlier channels out of another: `outliers.py SOURCE OUT [--channels 4] [--factor 30]`.

Post-norm encoders of the XLM-R kind have a few hidden channels tens of times larger than the rest, which is what makes int8
activations hard. Here they are put in: in every layer norm the chosen channels' gamma and beta grow by the factor, and the weights that
read them shrink by it, so that the channels carry the same information at another size. The residual sums see the larger
values, so the logits change; what `reranker pack` compares is the new model with itself. Needs numpy and safetensors.
"""

import argparse
import json
import re
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--factor", type=float, default=30.0)
    args = parser.parse_args()

    tensors = {}
    stored = load_file(args.source / "model.safetensors")
    for name, value in stored.items():
        if name.endswith(".scale"):
            continue
        scale = stored.get(f"{name}.scale")
        value = value.astype(np.float32)
        tensors[name] = value * scale[:, None] if scale is not None else value

    config = json.loads((args.source / "config.json").read_text())
    channels = np.random.default_rng(7).choice(config["hidden_size"], args.channels, replace=False)
    for name, value in tensors.items():
        if "LayerNorm" in name:
            value[channels] *= args.factor
        elif re.search(r"(self\.(query|key|value)|intermediate\.dense|pooler\.dense|classifier\.dense)\.weight$", name):
            value[:, channels] /= args.factor

    args.out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, args.out / "model.safetensors")
    config.pop("reranker", None)
    (args.out / "config.json").write_text(json.dumps(config))
    shutil.copy(args.source / "tokenizer.json", args.out)


if __name__ == "__main__":
    main()
