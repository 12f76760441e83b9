"""Loads a Hugging Face reranker folder in PyTorch f32 and scores id sequences one by one: the numerical reference."""

from __future__ import annotations

import torch
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()


def load(folder: str, attention: str = "eager"):
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention
    )
    if model.config.num_labels != 1:
        raise SystemExit(f"{folder}: {model.config.num_labels} labels, one is needed")
    return model.eval()


def tensors(rows: list[list[int]], types: list[list[int]] | None = None, pad: int = 1) -> dict:
    """One padded batch. A single row is not padded. The mask covers every real token, also a literal pad token."""
    width = max(map(len, rows))
    batch = {
        "input_ids": torch.tensor([row + [pad] * (width - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
    }
    if types is not None:
        batch["token_type_ids"] = torch.tensor([row + [0] * (width - len(row)) for row in types])
    return batch


@torch.inference_mode()
def logit(model, ids: list[int], type_ids: list[int] | None = None) -> float:
    # a model without segment embeddings has one row there, whatever the tokenizer says
    types = [type_ids] if type_ids is not None and model.config.type_vocab_size > 1 else None
    return float(model(**tensors([ids], types)).logits[0, 0])


def scorer(model):
    """A function from a batch of id sequences to their logits, for timing: padded to the longest, in one pass."""
    pad = model.config.pad_token_id

    @torch.inference_mode()
    def score(rows: list[list[int]]) -> list[float]:
        return model(**tensors(rows, pad=pad)).logits[:, 0].tolist()

    return score
