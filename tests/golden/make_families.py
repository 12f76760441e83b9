#!/usr/bin/env python3
"""Makes the golden fixtures of the families beside BERT and RoBERTa: a tiny seeded model of each, and what PyTorch answers for it.

usage: make_families.py [--check] [--out DIR]

Tokenizers are those of make_fixtures.py's models: here it is what comes behind them that counts. `transformers` is the
reference of every class that it has. GTE's class is in no release of it: `Gte` below is a writing of the architecture as
it is published, in plain PyTorch. The tensors of jina-reranker-v2 are XLM-RoBERTa's under other names, so XLM-RoBERTa is
their reference.
"""

import argparse
import json
import pathlib
import random
import shutil
import sys

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

import make_fixtures
from make_fixtures import HERE, compact, differences
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

LABELS = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
MODERN = {
    **LABELS,
    "architectures": ["ModernBertForSequenceClassification"],
    "model_type": "modernbert",
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 44,
    "max_position_embeddings": 8192,
    "local_attention": 12,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
    "norm_eps": 1e-05,
    "pad_token_id": 0,
    "classifier_pooling": "mean",
}
GTE = {
    **LABELS,
    "architectures": ["NewForSequenceClassification"],
    "auto_map": {
        "AutoConfig": "configuration.NewConfig",
        "AutoModel": "modeling.NewModel",
        "AutoModelForSequenceClassification": "modeling.NewForSequenceClassification",
    },
    "model_type": "new",
    "hidden_act": "gelu",
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 52,
    "layer_norm_eps": 1e-12,
    "layer_norm_type": "layer_norm",
    "logn_attention_clip1": False,
    "logn_attention_scale": False,
    "max_position_embeddings": 8192,
    "pack_qkv": True,
    "pad_token_id": 1,
    "position_embedding_type": "rope",
    "rope_scaling": {"factor": 8.0, "type": "ntk"},
    "rope_theta": 20000,
    "type_vocab_size": 1,
    "torch_dtype": "float16",
}
BERT = {
    **make_fixtures.COMMON,
    "hidden_size": 36,
    "num_hidden_layers": 2,
    "intermediate_size": 60,
    "max_position_embeddings": 64,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}

# Folder: whose tokenizer it has, and its configuration.
FAMILIES = {
    "modernbert": ("bert", MODERN),
    "modernbert-cls": (
        "bert",
        # as transformers 5 writes it, and with every bias
        {key: value for key, value in MODERN.items() if "rope_theta" not in key and "every_n" not in key}
        | {
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_theta": 80000.0, "rope_type": "default"},
                "sliding_attention": {"rope_theta": 5000.0, "rope_type": "default"},
            },
            "num_hidden_layers": 4,
            "local_attention": 7,
            "max_position_embeddings": 512,
            "classifier_pooling": "cls",
            "classifier_activation": "tanh",
            "norm_bias": True,
            "attention_bias": True,
            "mlp_bias": True,
            "classifier_bias": True,
            "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "5.1.0"},
        },
    ),
    "modernbert-modules": ("bert", MODERN | {"architectures": ["ModernBertModel"], "max_position_embeddings": 512}),
    "gte": ("xlm-roberta", GTE),
    "electra": (
        "bert",
        BERT
        | {
            "architectures": ["ElectraForSequenceClassification"],
            "model_type": "electra",
            "embedding_size": 20,
            "type_vocab_size": 2,
        },
    ),
    "distilbert": (
        "bert",
        {
            **LABELS,
            "activation": "gelu",
            "architectures": ["DistilBertForSequenceClassification"],
            "dim": 36,
            "hidden_dim": 60,
            "max_position_embeddings": 64,
            "model_type": "distilbert",
            "n_heads": 4,
            "n_layers": 2,
            "pad_token_id": 0,
            "sinusoidal_pos_embds": False,
        },
    ),
    "mpnet": (
        "bert",
        BERT
        | {
            "architectures": ["MPNetForSequenceClassification"],
            "model_type": "mpnet",
            "max_position_embeddings": 514,
            "pad_token_id": 1,
            "relative_attention_num_buckets": 32,
        },
    ),
    "jina": (
        "xlm-roberta",
        BERT
        | {
            "architectures": ["XLMRobertaForSequenceClassification"],
            "auto_map": {
                "AutoConfig": "jinaai/xlm-roberta-flash-implementation--configuration_xlm_roberta.XLMRobertaFlashConfig",
                "AutoModelForSequenceClassification": (
                    "jinaai/xlm-roberta-flash-implementation--modeling_xlm_roberta.XLMRobertaForSequenceClassification"
                ),
            },
            "hidden_size": 32,
            "layer_norm_eps": 1e-05,
            "model_type": "xlm-roberta",
            "max_position_embeddings": 66,
            "pad_token_id": 1,
            "type_vocab_size": 1,
            "use_flash_attn": True,
            "torch_dtype": "bfloat16",
        },
    ),
}

# Under which the logits differ most between inputs and least between f32 and f64.
SEEDS = dict.fromkeys(FAMILIES, 7)


# ------------------------------------------------------------------------------------------------------------------ GTE


class GteLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, inner = config["hidden_size"], config["intermediate_size"]
        self.attention = nn.ModuleDict({"qkv_proj": nn.Linear(width, 3 * width), "o_proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict(
            {"up_gate_proj": nn.Linear(width, 2 * inner, bias=False), "down_proj": nn.Linear(inner, width)}
        )
        self.attn_ln = nn.LayerNorm(width, eps=config["layer_norm_eps"])
        self.mlp_ln = nn.LayerNorm(width, eps=config["layer_norm_eps"])
        self.heads, self.inner = config["num_attention_heads"], inner
        self.head = width // self.heads

    def forward(self, x, cos, sin):
        tokens = x.shape[:-1]
        by_head = self.attention["qkv_proj"](x).view(*tokens, 3, self.heads, self.head)
        q, k, v = (part.transpose(-3, -2) for part in by_head.unbind(-3))
        half = self.head // 2

        def turned(t):
            a, b = t[..., :half], t[..., half:]
            return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

        scores = turned(q) @ turned(k).transpose(-2, -1) / self.head**0.5
        context = (scores.softmax(-1) @ v).transpose(-3, -2).reshape(*tokens, self.heads * self.head)
        x = self.attn_ln(x + self.attention["o_proj"](context))
        up, gate = self.mlp["up_gate_proj"](x).split(self.inner, dim=-1)
        return self.mlp_ln(x + self.mlp["down_proj"](functional.gelu(gate) * up))


class Gte(nn.Module):
    """As Alibaba-NLP publishes it: rotary positions, norms behind the sub-layers, a gated feed-forward network."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        width = config["hidden_size"]
        self.new = nn.Module()
        self.new.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config["vocab_size"], width),
                "token_type_embeddings": nn.Embedding(config["type_vocab_size"], width),
                "LayerNorm": nn.LayerNorm(width, eps=config["layer_norm_eps"]),
            }
        )
        self.new.encoder = nn.ModuleDict(
            {"layer": nn.ModuleList([GteLayer(config) for _ in range(config["num_hidden_layers"])])}
        )
        self.new.pooler = nn.ModuleDict({"dense": nn.Linear(width, width)})
        self.classifier = nn.Linear(width, 1)

    def rotations(self, tokens, dtype):
        """NTK-aware scaling: the base grows with the factor, and every step shrinks by a share of it."""
        width = self.config["hidden_size"] // self.config["num_attention_heads"]
        factor = self.config["rope_scaling"]["factor"]
        base = self.config["rope_theta"] * factor
        steps = 1.0 / (base ** (torch.arange(0, width, 2).float() / width))
        steps = steps / factor ** (2 / width)
        angles = torch.outer(torch.arange(tokens).float(), steps)
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def forward(self, ids, types):
        parts = self.new.embeddings
        x = parts["LayerNorm"](parts["word_embeddings"](ids) + parts["token_type_embeddings"](types))
        cos, sin = self.rotations(ids.shape[-1], x.dtype)
        for layer in self.new.encoder["layer"]:
            x = layer(x, cos, sin)
        return self.classifier(self.new.pooler["dense"](x[..., 0, :]).tanh())[..., 0]


# --------------------------------------------------------------------------------------------------------------- models


class Modular(nn.Module):
    """An encoder with the modules of sentence-transformers behind it: the first token, Dense, LayerNorm, Dense."""

    def __init__(self, config):
        super().__init__()
        width = config["hidden_size"]
        self.encoder = AutoModel.from_config(AutoConfig.for_model(**config), attn_implementation="eager")
        self.modules_behind = nn.ModuleDict(
            {
                "2_Dense": nn.ModuleDict({"linear": nn.Linear(width, width, bias=False)}),
                "3_LayerNorm": nn.ModuleDict({"norm": nn.LayerNorm(width)}),
                "4_Dense": nn.ModuleDict({"linear": nn.Linear(width, 1)}),
            }
        )

    def head(self, first):
        behind = self.modules_behind
        x = behind["3_LayerNorm"]["norm"](functional.gelu(behind["2_Dense"]["linear"](first)))
        return behind["4_Dense"]["linear"](x)[..., 0]

    def forward(self, ids, _types):
        return self.head(self.encoder(input_ids=ids[None]).last_hidden_state[0, 0])


def modules(width: int) -> list[tuple[str, str, dict | None]]:
    """The folders of modules.json: path, class, and the module's own configuration."""
    dense = "sentence_transformers.base.modules.dense.Dense"
    return [
        ("", "sentence_transformers.base.modules.transformer.Transformer", None),
        (
            "1_Pooling",
            "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
            {"embedding_dimension": width, "pooling_mode": "cls", "include_prompt": True},
        ),
        (
            "2_Dense",
            dense,
            {
                "in_features": width,
                "out_features": width,
                "bias": False,
                "activation_function": "torch.nn.modules.activation.GELU",
                "module_input_name": "sentence_embedding",
                "module_output_name": None,
            },
        ),
        (
            "3_LayerNorm",
            "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm",
            {"dimension": width},
        ),
        (
            "4_Dense",
            dense,
            {
                "in_features": width,
                "out_features": 1,
                "bias": True,
                "activation_function": "torch.nn.modules.linear.Identity",
                "module_input_name": "sentence_embedding",
                "module_output_name": "scores",
            },
        ),
    ]


class Classifier(nn.Module):
    def __init__(self, config):
        super().__init__()
        # names of custom code are for others; jina's weights are XLM-RoBERTa's
        known = {key: value for key, value in config.items() if key != "auto_map"}
        self.model = AutoModelForSequenceClassification.from_config(
            AutoConfig.for_model(**known), attn_implementation="eager"
        )
        self.types = config.get("type_vocab_size", 1) > 1

    def forward(self, ids, types):
        inputs = {"token_type_ids": types[None]} if self.types else {}
        return self.model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None], **inputs).logits[0, 0]


def build(config: dict) -> nn.Module:
    if config["model_type"] == "new":
        model = Gte(config)
    elif config["architectures"] == ["ModernBertModel"]:
        model = Modular(config)
    else:
        model = Classifier(config)
    return model.float().eval()


def draw(name: str, model: nn.Module, dtype: torch.dtype) -> None:
    """Seeded weights on a coarse grid, as make_fixtures.py draws them."""
    rng = np.random.default_rng([SEEDS[name], len(name)])
    for key, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = rng.standard_normal(tuple(value.shape))
        last = "classifier.weight" in key or "out_proj.weight" in key and "classifier" in key or "4_Dense" in key
        if value.ndim == 1 and ("norm" in key.lower() or "_ln." in key) and key.endswith("weight"):
            drawn = 1.0 + 0.25 * noise
        elif value.ndim == 1:
            drawn = 0.2 * noise
        elif last:
            drawn = (0.2 if "4_Dense" in key else 0.45) * noise
        elif "embeddings." in key:
            drawn = 0.5 * noise
        elif "relative_attention_bias" in key:
            drawn = noise
        else:
            gain = 2.0 if any(part in key for part in (".value.", "v_lin", "attn.v", "o_proj", "out_lin", "attn.o", "Wo")) else 1.0
            drawn = gain * noise / np.sqrt(value.shape[-1])
        value.copy_(torch.tensor(np.round(drawn * 1024) / 1024, dtype=torch.float32).to(dtype).float())


def save(folder: pathlib.Path, name: str, config: dict, model: nn.Module, dtype: torch.dtype) -> None:
    meta = {"format": "pt"}
    if isinstance(model, Modular):
        save_file({k: v.to(dtype) for k, v in model.encoder.state_dict().items()}, folder / "model.safetensors", meta)
        listed = []
        for at, (path, kind, own) in enumerate(modules(config["hidden_size"])):
            listed.append({"idx": at, "name": str(at), "path": path, "type": kind})
            if own is not None:
                (folder / path).mkdir()
                (folder / path / "config.json").write_text(json.dumps(own, indent=4) + "\n")
            if path in model.modules_behind:
                tensors = model.modules_behind[path].state_dict()
                save_file(tensors, folder / path / "model.safetensors", meta)
        (folder / "modules.json").write_text(json.dumps(listed, indent=2) + "\n")
        return
    state = model.state_dict() if isinstance(model, Gte) else model.model.state_dict()
    tensors = {k: v.to(dtype) for k, v in state.items() if v.is_floating_point()}
    if name == "jina":
        tensors = as_jina(tensors, config)
    save_file(tensors, folder / "model.safetensors", meta)


def as_jina(tensors: dict, config: dict) -> dict:
    """XLM-RoBERTa's tensors as xlm-roberta-flash-implementation calls them."""
    names = {
        "attention.output.dense": "mixer.out_proj",
        "attention.output.LayerNorm": "norm1",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "output.LayerNorm": "norm2",
    }
    out = {}
    for key, value in tensors.items():
        if ".attention.self." in key:
            continue
        key = key.replace("embeddings.LayerNorm", "emb_ln")
        if ".layer." in key:
            head, rest = key.split(".layer.")
            index, part = rest.split(".", 1)
            module, kind = part.rsplit(".", 1)
            key = f"{head}.layers.{index}.{names[module]}.{kind}"
        out[key] = value
    for index in range(config["num_hidden_layers"]):
        for kind in ("weight", "bias"):
            parts = [tensors[f"roberta.encoder.layer.{index}.attention.self.{p}.{kind}"] for p in ("query", "key", "value")]
            out[f"roberta.encoder.layers.{index}.mixer.Wqkv.{kind}"] = torch.cat(parts)
    return out


# -------------------------------------------------------------------------------------------------------------- answers


def sequence(length: int, vocab: int, seed: int) -> list[int]:
    """Ids that a test makes for itself: no list of 8192 has to be stored."""
    return [(seed + 7919 * at + at * at % 1009) % (vocab - 5) + 5 for at in range(length)]


def lengths(config: dict) -> list[int]:
    most = config["max_position_embeddings"]
    if config["model_type"] in ("xlm-roberta", "mpnet"):
        most -= 2
    # every length up to beyond two windows, then powers and their neighbours
    some = list(range(1, 31)) + [47, 48, 62, 63, 64, 127, 128, 129, 130, 257, 300, 512, most]
    return sorted({length for length in some if length <= most})


@torch.inference_mode()
def golden(config: dict, model: nn.Module, exact: nn.Module, name: str) -> dict:
    types = config.get("type_vocab_size", 1) > 1
    rows, wide = [], []
    for length in lengths(config):
        seed = 3 * length + 1
        ids = sequence(length, config["vocab_size"], seed)
        if name == "mpnet" and length > 8:
            ids[5] = 1  # its padding token, which is not counted
        segments = [int(types and at >= length // 2) for at in range(length)]
        inputs = torch.tensor(ids), torch.tensor(segments)
        rows.append([length, seed, float(model(*inputs))])
        # in f64 the longest would take minutes and gigabytes
        wide.append(float(exact(*inputs)) if length <= 512 else rows[-1][2])
    logits = np.array([row[2] for row in rows])
    error, spread = np.abs(logits - np.array(wide)).max(), logits.std()
    print(f"{name}: spread {spread:.2f}, f32 against f64 {error:.1e}", file=sys.stderr)
    if not (0.3 < spread < 5 and error < 4e-6):
        raise SystemExit(f"{name}: not fit for a reference")
    return {"model": name, "max_length": rows[-1][0], "segments": types, "rows": rows}


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--out", type=pathlib.Path, default=HERE)
    args.add_argument("--check", action="store_true")
    args.add_argument("names", nargs="*")
    args = args.parse_args()
    torch.set_num_threads(1)
    wrong = []
    for name, (tokenizer, config) in FAMILIES.items():
        if args.names and name not in args.names:
            continue
        folder = args.out / name
        bytes_of = (args.out / tokenizer / "tokenizer.json").read_bytes()
        vocab = json.loads((args.out / tokenizer / "config.json").read_text())["vocab_size"]
        config = {**config, "vocab_size": vocab}
        dtype = getattr(torch, config.get("torch_dtype", "float32"))
        model = build(config)
        with torch.no_grad():
            draw(name, model, dtype)
        if not args.check:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / "tokenizer.json").write_bytes(bytes_of)
            (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            if name == "mpnet":
                # its own tokenizer's class builds other pairs than the file
                settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids"]}
                (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n")
            save(folder, name, config, model, dtype)
        exact = build(config).double()
        exact.load_state_dict(model.state_dict())
        made = golden(config, model, exact, name)
        file = args.out / f"{name}.json"
        if args.check:
            wrong += [f"{name}{d}" for d in differences(json.loads(file.read_text()), made)]
        else:
            file.write_text(compact(made))
    for line in wrong[:20]:
        print(line, file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
