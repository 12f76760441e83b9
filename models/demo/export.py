"""Pack a training checkpoint into the bundled model: model.safetensors (int8 per row), config.json, tokenizer files.

    python export.py --checkpoint RUN/final.pt [--out DIR]

Every matrix is stored as I8 with a companion F32 tensor `<name>.scale` of shape [rows]; value = int8 * scale[row].
Vectors (biases, layer norms) stay F32. Names are those of Hugging Face's BertForSequenceClassification.
"""

import argparse
import json
import os
import shutil

import torch
from safetensors.torch import load_file, save_file

from train import default_init

LIMIT_BYTES = 24_000_000


def quantise(state):
    """Symmetric, per output row, by the row's largest magnitude: int8 in -127..127."""
    out = {}
    for name, tensor in state.items():
        if name.endswith("position_ids"):
            continue
        tensor = tensor.detach().float()
        if tensor.dim() == 1:
            out[name] = tensor.contiguous()
            continue
        scale = tensor.abs().amax(dim=1) / 127
        safe = torch.where(scale > 0, scale, torch.ones_like(scale))
        out[name] = torch.round(tensor / safe[:, None]).clamp(-127, 127).to(torch.int8).contiguous()
        out[name + ".scale"] = scale.contiguous()
    return out


def dequantise(packed):
    return {
        name: tensor.float() * packed[name + ".scale"][:, None] if tensor.dtype == torch.int8 else tensor
        for name, tensor in packed.items()
        if not name.endswith(".scale")
    }


def config(init):
    with open(os.path.join(init, "config.json")) as f:
        base = json.load(f)
    keep = (
        "attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob", "hidden_size", "initializer_range",
        "intermediate_size", "layer_norm_eps", "max_position_embeddings", "num_attention_heads", "num_hidden_layers",
        "pad_token_id", "type_vocab_size", "vocab_size",
    )
    out = {"architectures": ["BertForSequenceClassification"], "model_type": "bert"}
    out |= {key: base[key] for key in keep}
    out |= {"classifier_dropout": None, "position_embedding_type": "absolute", "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    out["reranker"] = {
        "demo": True,
        "name": "serverless-reranker-demo",
        "note": "bundled demo model, not bge-reranker-v2-m3",
        "revision": "1",
    }
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--init", default=default_init(), help="folder whose config and tokenizer the model keeps")
    parser.add_argument("--out", default=os.path.dirname(os.path.abspath(__file__)))
    args = parser.parse_args()

    os.makedirs(args.out, exist_ok=True)
    packed = quantise(torch.load(args.checkpoint, weights_only=True))
    path = os.path.join(args.out, "model.safetensors")
    save_file(packed, path, metadata={"format": "pt", "quantization": "int8-per-row"})
    os.chmod(path, 0o644)  # the writer makes it private to its user
    size = os.path.getsize(path)
    if size > LIMIT_BYTES:
        raise SystemExit(f"{path} is {size} bytes, the limit is {LIMIT_BYTES}")
    if load_file(path).keys() != packed.keys():
        raise SystemExit(f"{path} does not read back")
    with open(os.path.join(args.out, "config.json"), "w") as f:
        json.dump(config(args.init), f, indent=2)
        f.write("\n")
    with open(os.path.join(args.init, "tokenizer.json"), encoding="utf-8") as f:
        tokenizer = json.load(f)
    # The base file cuts and pads to 128 tokens by itself; how long a pair may be is the server's choice.
    tokenizer["truncation"] = tokenizer["padding"] = None
    with open(os.path.join(args.out, "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump(tokenizer, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")
    with open(os.path.join(args.out, "tokenizer_config.json"), "w") as f:
        json.dump(
            {
                "tokenizer_class": "BertTokenizer", "do_lower_case": True, "tokenize_chinese_chars": True, "strip_accents": None,
                "model_max_length": 512, "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]",
                "mask_token": "[MASK]",
            },
            f,
            indent=2,
        )
        f.write("\n")
    print(f"{path}: {size} bytes, {len(packed)} tensors")


if __name__ == "__main__":
    main()
