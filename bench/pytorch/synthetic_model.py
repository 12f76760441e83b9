#!/usr/bin/env python3
"""Writes a full-size model of bge-reranker-v2-m3's shape with seeded random weights, as a Hugging Face folder.

usage: synthetic_model.py OUT [--tokenizer DIR] [--layers N] [--outliers] [--seed 1234]
--tokenizer DIR  copies DIR's tokenizer files and takes the shape from DIR/config.json when it has one. Without it, the
                 folder gets v2-m3's shape and a stand-in tokenizer that knows single ASCII characters: enough for
                 everything that works on token ids, useless for text.
--layers N       fewer layers, for a quick look
--outliers       scales a few channels of every layer norm 20 to 40 times, as trained models of this family have them

Speed does not depend on the values, and exactness is tested better by values that nobody chose.
"""

import argparse
import json
import pathlib
import shutil
import sys
import zlib

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

V2_M3 = {
    "architectures": ["XLMRobertaForSequenceClassification"],
    "model_type": "xlm-roberta",
    "vocab_size": 250002,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "hidden_act": "gelu",
    "max_position_embeddings": 8194,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-05,
    "initializer_range": 0.02,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "position_embedding_type": "absolute",
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "id2label": {"0": "LABEL_0"},
    "label2id": {"LABEL_0": 0},
    "torch_dtype": "float32",
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def shapes(config: dict) -> dict[str, list[int]]:
    """Every tensor of the model by its name in the file."""
    h, ffn = config["hidden_size"], config["intermediate_size"]
    out: dict[str, list[int]] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        out[f"{name}.weight"], out[f"{name}.bias"] = [rows, columns], [rows]

    def norm(name: str) -> None:
        out[f"{name}.LayerNorm.weight"], out[f"{name}.LayerNorm.bias"] = [h], [h]

    embeddings = "roberta.embeddings"
    out[f"{embeddings}.word_embeddings.weight"] = [config["vocab_size"], h]
    out[f"{embeddings}.position_embeddings.weight"] = [config["max_position_embeddings"], h]
    out[f"{embeddings}.token_type_embeddings.weight"] = [config["type_vocab_size"], h]
    norm(embeddings)
    for at in range(config["num_hidden_layers"]):
        layer = f"roberta.encoder.layer.{at}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", h, h)
        linear(f"{layer}.attention.output.dense", h, h)
        norm(f"{layer}.attention.output")
        linear(f"{layer}.intermediate.dense", ffn, h)
        linear(f"{layer}.output.dense", h, ffn)
        norm(f"{layer}.output")
    linear("classifier.dense", h, h)
    linear("classifier.out_proj", 1, h)
    return out


def tensor(name: str, shape: list[int], config: dict, seed: int, outliers: bool) -> torch.Tensor:
    # seeded by name, so that a model of fewer layers shares the layers it has with the full one
    draw = torch.Generator().manual_seed(seed ^ zlib.crc32(name.encode()))
    if not name.endswith("LayerNorm.weight"):
        # biases too are random: a forgotten bias must show. The last layer is drawn wider, so that logits of
        # different pairs differ by about one, as a trained reranker's do, and a tolerance on them means something.
        spread = config["initializer_range"] * (8 if name == "classifier.out_proj.weight" else 1)
        return torch.empty(shape).normal_(0.0, spread, generator=draw)
    gamma = torch.empty(shape).normal_(1.0, config["initializer_range"], generator=draw)
    if outliers:
        channels = torch.randperm(shape[0], generator=draw)[:4]
        gamma[channels] *= torch.empty(4).uniform_(20.0, 40.0, generator=draw)
    return gamma


def stand_in_tokenizer() -> Tokenizer:
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(chr(code), -4.0) for code in range(33, 127)] + [("<mask>", 0.0)]
    made = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B:0 </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    specials = [AddedToken(t, normalized=False, special=True) for t in ("<s>", "<pad>", "</s>", "<unk>")]
    made.add_special_tokens([*specials, AddedToken("<mask>", lstrip=True, normalized=False, special=True)])
    return made


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("out", type=pathlib.Path)
    args.add_argument("--tokenizer", type=pathlib.Path, metavar="DIR")
    args.add_argument("--layers", type=int)
    args.add_argument("--outliers", action="store_true")
    args.add_argument("--seed", type=int, default=1234)
    args = args.parse_args()
    config = dict(V2_M3)
    if args.tokenizer and not (args.tokenizer / "tokenizer.json").is_file():
        sys.exit(f"{args.tokenizer} has no tokenizer.json")
    if args.tokenizer and (args.tokenizer / "config.json").is_file():
        config = json.loads((args.tokenizer / "config.json").read_text(encoding="utf-8"))
        if config.get("model_type") not in ("xlm-roberta", "roberta"):
            sys.exit(f"{args.tokenizer}/config.json: model_type {config.get('model_type')}, only the RoBERTa family here")
    if args.layers is not None:
        config["num_hidden_layers"] = args.layers

    args.out.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor(name, shape, config, args.seed, args.outliers) for name, shape in shapes(config).items()
    }
    save_file(weights, args.out / "model.safetensors", metadata={"format": "pt"})
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if args.tokenizer:
        for name in TOKENIZER_FILES:
            if (args.tokenizer / name).is_file():
                shutil.copyfile(args.tokenizer / name, args.out / name)
    else:
        stand_in_tokenizer().save(str(args.out / "tokenizer.json"))
        # As it stands, and not as XLM-R's own class would build it.
        stands = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
        (args.out / "tokenizer_config.json").write_text(json.dumps(stands) + "\n", encoding="utf-8")
        print("no --tokenizer: a stand-in tokenizer was written, good for token ids only", file=sys.stderr)
    size = (args.out / "model.safetensors").stat().st_size
    parameters = sum(t.numel() for t in weights.values())
    print(json.dumps({"out": str(args.out), "parameters": parameters, "bytes": size, "layers": config["num_hidden_layers"]}))


if __name__ == "__main__":
    main()
