"""Write scores.json: what PyTorch gives in f32 for a few pairs on the exported weights. `reranker verify` compares with it.

    python reference.py [--model DIR]
"""

import argparse
import json
import math
import os

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from export import dequantise

HERE = os.path.dirname(os.path.abspath(__file__))
MAX_LENGTH = 512
TOLERANCE = 1e-3

PANDA = "The giant panda (Ailuropoda melanoleuca), sometimes called a panda bear or simply panda, is a bear species endemic to China."
REFERENCE_PAIRS = [
    ("query", "passage"),
    ("what is panda?", "hi"),
    ("what is panda?", PANDA),
    ("What is the capital of China?", "The capital of China is Beijing."),
    ("What is the capital of China?", "China is a large country in Asia."),
    ("What is the capital of China?", "Paris is the capital of France."),
    ("How to cook pasta?", "Boil water, add pasta, cook 8-12 minutes."),
    ("How to cook pasta?", "Pasta is made from wheat flour."),
    ("What is machine learning?", "Machine learning is a subset of artificial intelligence."),
    ("What is machine learning?", "The weather today is sunny."),
    ("A man is eating pasta.", "A man is eating food."),
    ("How do I change my delivery address?", "Changing an order Open your account, choose the order, and edit the address until the parcel has left the warehouse."),
    ("How do I change my delivery address?", "Paying by card We accept the usual credit and debit cards. Your bank may ask you to confirm the payment."),
    ("Can I keep my café seat?", "Naïve résumé — 東京タワーは333メートルです。 🐼 Straße, Ελλάδα, Привет"),
    ("what is panda?", ""),
    ("what is panda?", " ".join([PANDA] * 40)),
]


def load(folder):
    with open(os.path.join(folder, "config.json")) as f:
        config = BertConfig.from_dict(json.load(f))
    model = BertForSequenceClassification(config)
    model.load_state_dict(dequantise(load_file(os.path.join(folder, "model.safetensors"))))
    return model.eval(), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def logit(model, tokenizer, query, passage):
    """Pair by pair, so that nothing is padded; in lists, because a bare empty passage would not count as the second text."""
    pair = tokenizer([query], [passage], truncation="longest_first", max_length=MAX_LENGTH, return_tensors="pt")
    return model(**pair).logits.item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=HERE, help="folder of the exported model; scores.json is written into it")
    args = parser.parse_args()

    model, tokenizer = load(args.model)
    rows = [{"query": q, "passage": p, "logit": logit(model, tokenizer, q, p)} for q, p in REFERENCE_PAIRS]
    for row in rows:
        print(f"{row['logit']:9.4f}  {1 / (1 + math.exp(-row['logit'])):.4f}  {row['query'][:40]} | {row['passage'][:60]}")
    with open(os.path.join(args.model, "scores.json"), "w", encoding="utf-8") as f:
        json.dump({"model": "serverless-reranker-demo", "tolerance": TOLERANCE, "rows": rows}, f, indent=1, ensure_ascii=False)
        f.write("\n")


if __name__ == "__main__":
    main()
