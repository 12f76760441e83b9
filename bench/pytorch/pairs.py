"""Builds (query, passage) token ids with Hugging Face's fast tokenizer, as the reference for the Rust code.

Owns: the two truncation rules, expressed through the real tokenizer. Data in: texts, a maximal length, a rule.
Data out: ids, type ids and how many tokens of each side were kept and dropped.

The tokenizer is loaded from `tokenizer.json` exactly as the file says. `AutoTokenizer` of transformers 5 is
avoided on purpose: for XLM-RoBERTa, RoBERTa and BERT it rebuilds the pre-tokenizer and the post-processor from
its own class and ignores what the file says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

logging.set_verbosity_error()  # "longer than the maximum length" is expected here

RULES = ("longest_first", "flag", "none")


@dataclass
class Pair:
    ids: list[int]
    type_ids: list[int]
    kept_query: int
    kept_passage: int
    dropped_query: int
    dropped_passage: int


class PairEncoder:
    def __init__(self, tokenizer_json: str | Path):
        self.tok = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_json))
        self._refuse_a_rewritten_pipeline(Path(tokenizer_json))
        probe = self._call("", "")
        self.special_tokens = len(probe["input_ids"][0])
        self.template = self._find_template()

    def _refuse_a_rewritten_pipeline(self, path: Path) -> None:
        """The reference is the file; a tokenizer class that changes it on loading would make the fixtures lie."""
        said = json.loads(path.read_text(encoding="utf-8"))
        got = json.loads(self.tok.backend_tokenizer.to_str())
        for part in ("normalizer", "pre_tokenizer", "post_processor", "added_tokens"):
            if json.dumps(said[part], sort_keys=True) != json.dumps(got[part], sort_keys=True):
                if part == "added_tokens" or not _same_but_defaults(said[part], got[part]):
                    raise SystemExit(f"{path}: the library changed `{part}` while loading")

    def _call(self, query: str, passage: str, **options):
        # Lists, not strings: with two plain strings an *empty* passage makes transformers encode a single
        # text, without the second separator. Every reranker library passes lists.
        return self.tok([query], [passage], return_token_type_ids=True, **options)

    def text_ids(self, text: str, special: bool = False, max_length: int | None = None) -> list[int]:
        options = {} if max_length is None else {"truncation": True, "max_length": max_length}
        return self.tok([text], add_special_tokens=special, **options)["input_ids"][0]

    def count(self, text: str) -> int:
        return len(self.text_ids(text))

    def _find_template(self):
        """(prefix, middle, suffix) special ids and the type id of each of the five parts, read off one encoding."""
        out = self._call("a", "a")
        sides, ids, types = out[0].sequence_ids, out["input_ids"][0], out["token_type_ids"][0]
        first, last = sides.index(0), len(sides) - 1 - sides[::-1].index(0)
        second, final = sides.index(1), len(sides) - 1 - sides[::-1].index(1)
        return [
            (ids[:first], types[:first]),
            (None, types[first]),
            (ids[last + 1 : second], types[last + 1 : second]),
            (None, types[second]),
            (ids[final + 1 :], types[final + 1 :]),
        ]

    def encode(self, query: str, passage: str, max_length: int, rule: str) -> Pair:
        total_query, total_passage = self.count(query), self.count(passage)
        if rule == "flag":
            kept_q, kept_p = self._flag_ids(query, passage, max_length)
            ids, type_ids = self._build(kept_q, kept_p)
            k1, k2 = len(kept_q), len(kept_p)
        else:
            if rule == "longest_first":
                if max_length < self.special_tokens:
                    # the library subtracts below zero there and then cuts nothing at all
                    raise ValueError(f"max_length {max_length} is below the {self.special_tokens} special tokens")
                out = self._call(query, passage, truncation="longest_first", max_length=max_length)
            else:
                out = self._call(query, passage)
            ids, type_ids, sides = out["input_ids"][0], out["token_type_ids"][0], out[0].sequence_ids
            k1, k2 = sides.count(0), sides.count(1)
        assert len(ids) == k1 + k2 + self.special_tokens == len(type_ids)
        return Pair(ids, type_ids, k1, k2, total_query - k1, total_passage - k2)

    def _flag_ids(self, query: str, passage: str, max_length: int) -> tuple[list[int], list[int]]:
        """FlagEmbedding's reranker: the query is cut to three quarters of the length, the passage to the length,
        then only the passage is cut to make the pair fit."""
        q = self.text_ids(query, max_length=max_length * 3 // 4)
        p = self.text_ids(passage, max_length=max_length)
        excess = len(q) + len(p) + self.special_tokens - max_length
        if excess > 0:
            if len(p) <= excess:
                # the reference either gives up on cutting or raises, depending on its version: nothing to agree with
                raise ValueError(f"max_length {max_length} leaves no passage token beside {len(q)} query tokens")
            p = p[: len(p) - excess]
        return q, p

    def _build(self, q: list[int], p: list[int]) -> tuple[list[int], list[int]]:
        (before, tb), (_, tq), (between, tm), (_, tp), (after, ta) = self.template
        ids = before + q + between + p + after
        return ids, tb + [tq] * len(q) + tm + [tp] * len(p) + ta


def _same_but_defaults(said, got) -> bool:
    """True when `got` says everything `said` says; keys that the library fills with defaults are allowed."""
    if isinstance(said, dict) and isinstance(got, dict):
        # Metaspace once had `add_prefix_space`; today it is read, ignored in favour of `prepend_scheme`, and dropped
        gone = {"add_prefix_space"} if said.get("type") == "Metaspace" else set()
        return all(k in got and _same_but_defaults(v, got[k]) for k, v in said.items() if k not in gone)
    if isinstance(said, list) and isinstance(got, list):
        return len(said) == len(got) and all(map(_same_but_defaults, said, got))
    return said == got
