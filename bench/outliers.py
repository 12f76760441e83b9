"""Makes a model with outlier channels out of another: `outliers.py SOURCE OUT [--channels 4] [--offset 30] [--factor 1.5]`.

Post-norm encoders of the XLM-R kind have a few hidden channels tens of times larger than the rest, nearly constant but not quite,
which is what makes int8 activations hard. Here they are put in behind every layer norm: the chosen channels' beta grows by the
offset (up or down), and what reads or adds them takes it back in its bias, so that the model computes what it did before; their
gamma and beta grow by the factor, and the weights that read them shrink by it. The residual sums see that factor, so the logits
change a little; what `reranker pack` compares is the new model with itself. Needs numpy and safetensors.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--offset", type=float, default=30.0)
    parser.add_argument("--factor", type=float, default=1.5)
    args = parser.parse_args()

    tensors = {}
    stored = load_file(args.source / "model.safetensors")
    for name, value in stored.items():
        if name.endswith(".scale"):
            continue
        scale = stored.get(f"{name}.scale")
        value = value.astype(np.float32)
        tensors[name] = value * scale[:, None] if scale is not None else value.copy()

    config = json.loads((args.source / "config.json").read_text())
    random = np.random.default_rng(7)
    channels = random.choice(config["hidden_size"], args.channels, replace=False)
    offset = args.offset * random.choice([-1.0, 1.0], args.channels) * random.uniform(0.7, 1.3, args.channels)

    def outliers(norm: str, readers: list[str], adder: str | None) -> None:
        """Puts them into a norm's output, which `readers` multiply and to which `adder` adds its result."""
        tensors[f"{norm}.weight"][channels] *= args.factor
        tensors[f"{norm}.bias"][channels] *= args.factor
        tensors[f"{norm}.bias"][channels] += offset
        for reader in readers:
            tensors[f"{reader}.weight"][:, channels] /= args.factor
            tensors[f"{reader}.bias"] -= tensors[f"{reader}.weight"][:, channels] @ offset
        if adder:
            tensors[f"{adder}.bias"][channels] -= offset

    prefix = next(name for name in tensors if "word_embeddings" in name).split("embeddings")[0]
    layers = [f"{prefix}encoder.layer.{index}" for index in range(config["num_hidden_layers"])]

    def attention(layer: str) -> list[str]:
        return [f"{layer}.attention.self.{part}" for part in ("query", "key", "value")]

    outliers(f"{prefix}embeddings.LayerNorm", attention(layers[0]), f"{layers[0]}.attention.output.dense")
    for layer, after in zip(layers, layers[1:] + [None]):
        outliers(f"{layer}.attention.output.LayerNorm", [f"{layer}.intermediate.dense"], f"{layer}.output.dense")
        if after:
            outliers(f"{layer}.output.LayerNorm", attention(after), f"{after}.attention.output.dense")

    args.out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, args.out / "model.safetensors")
    config.pop("reranker", None)
    (args.out / "config.json").write_text(json.dumps(config))
    shutil.copy(args.source / "tokenizer.json", args.out)


if __name__ == "__main__":
    main()
