#!/usr/bin/env python3
"""PyTorch without padding: sequences one after the other, and its flash attention over variable lengths. DTYPE is float16 or bfloat16."""

import os
import pathlib
import sys

BENCH = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(BENCH / "peers"), str(BENCH / "pytorch")]

import serving


def load(folder: str, threads: int) -> serving.Engine:
    import torch
    import torch_model
    from torch.nn.functional import gelu
    from torch.nn.attention.varlen import varlen_attn

    torch.set_num_threads(threads)
    dtype = getattr(torch, os.environ["DTYPE"])
    model = torch_model.load(folder, "sdpa").to("cuda", dtype)
    body = model.base_model
    heads, hidden = model.config.num_attention_heads, model.config.hidden_size
    first = model.config.pad_token_id + 1 if model.config.model_type != "bert" else 0
    layers = []
    for layer in body.encoder.layer:
        own = layer.attention.self
        weight = torch.cat([own.query.weight, own.key.weight, own.value.weight])
        bias = torch.cat([own.query.bias, own.key.bias, own.value.bias])
        layers.append((weight, bias, layer))

    @torch.inference_mode()
    def score(rows: list[list[int]]) -> list[float]:
        lengths = [len(row) for row in rows]
        ids = torch.tensor([id for row in rows for id in row], device="cuda")
        places = torch.tensor([first + at for length in lengths for at in range(length)], device="cuda")
        starts = torch.tensor([0, *lengths]).cumsum(0)
        cuts, longest = starts.to("cuda", torch.int32), max(lengths)
        tables = body.embeddings
        x = tables.word_embeddings(ids) + tables.position_embeddings(places) + tables.token_type_embeddings.weight[0]
        x = tables.LayerNorm(x)
        for weight, bias, layer in layers:
            q, k, v = torch.nn.functional.linear(x, weight, bias).view(-1, 3, heads, hidden // heads).unbind(1)
            attended = varlen_attn(q, k, v, cuts, cuts, longest, longest)
            out = layer.attention.output
            x = out.LayerNorm(out.dense(attended.reshape(-1, hidden)) + x)
            x = layer.output.LayerNorm(layer.output.dense(gelu(layer.intermediate.dense(x))) + x)
        return model.classifier(x[starts[:-1].to("cuda")].unsqueeze(1))[:, 0].float().tolist()

    return serving.Engine(f"pytorch varlen {dtype}", f"torch {torch.__version__}", score)


if __name__ == "__main__":
    serving.main(load)
