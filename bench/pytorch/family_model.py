#!/usr/bin/env python3
"""Writes a model of any family that the server has, with seeded random weights, as a Hugging Face folder; and its int8 form for ONNX
Runtime.

usage: family_model.py CONFIG.json TOKENIZER.json OUT [--onnx DIR]

CONFIG.json is the model's own. One of the class `ModernBertModel` gets a head in modules of sentence-transformers, as Ettin's
rerankers have it. Speed does not depend on the weights' values, and of the tokenizer only its class counts here: its ids are a part of
the model's. The classes are those of tests/golden.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import sys

BENCH = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(BENCH.parent / "tests/golden"), str(BENCH / "peers")]

import export_onnx  # noqa: E402
import make_families  # noqa: E402
import torch  # noqa: E402


class Batched(torch.nn.Module):
    """Logits of a batch from its ids and mask, which is how the peers are called."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        model = self.model
        if isinstance(model, make_families.Modular):
            return model.head(model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0])[:, None]
        if isinstance(model, make_families.Gte):
            # without padding: its workloads have one length
            return model(ids, torch.zeros_like(ids))[:, None]
        return model.model(input_ids=ids, attention_mask=mask).logits


def fused(config: dict) -> dict[str, int]:
    """What ONNX Runtime must have fused: it has no operator for attention with rotary positions in a graph of this kind."""
    layers = config["num_hidden_layers"]
    if config["model_type"] == "modernbert":
        # with the head's
        return {"SkipLayerNormalization": 2 * layers, "Gelu": layers + 1}
    if config["model_type"] == "new":
        # with the embeddings' norm
        return {"SkipLayerNormalization": 2 * layers + 1, "Gelu": layers}
    return export_onnx.fused_bert(layers)


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("config", type=pathlib.Path)
    args.add_argument("tokenizer", type=pathlib.Path)
    args.add_argument("out", type=pathlib.Path)
    args.add_argument("--onnx", type=pathlib.Path, metavar="DIR")
    args = args.parse_args()
    config = json.loads(args.config.read_text(encoding="utf-8"))
    torch.manual_seed(1234)
    model = make_families.build(config)
    args.out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(args.config, args.out / "config.json")
    shutil.copyfile(args.tokenizer, args.out / "tokenizer.json")
    make_families.save(args.out, "jina" if "auto_map" in config and config["model_type"] != "new" else "", config, model, torch.float32)
    if args.onnx:
        export_onnx.write(Batched(model).eval(), config["num_attention_heads"], config["hidden_size"], fused(config), args.onnx)


if __name__ == "__main__":
    main()
