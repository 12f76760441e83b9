#!/usr/bin/env python3
"""Makes the golden fixtures: three tiny models, and what Hugging Face and PyTorch answer for them.

usage: make_fixtures.py --charsmap-from TOKENIZER_JSON [--out DIR]     writes everything anew
       make_fixtures.py --check [--out DIR]                            recomputes ids and logits from the stored models

TOKENIZER_JSON is the tokenizer.json of an XLM-RoBERTa model (made with BAAI/bge-reranker-v2-m3's): the tiny tokenizer is
a cut of it. Everything is seeded; weights lie on a coarse grid, so that they come out the same on every machine. Logits
may differ between machines in the last bits: `--check` allows 4e-6.
"""

import argparse
import collections
import itertools
import json
import pathlib
import random
import shutil
import sys
import unicodedata

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "bench" / "pytorch"))

import torch_model  # noqa: E402
from pairs import PairEncoder  # noqa: E402

CHECK_TOLERANCE = 4e-6

# ---------------------------------------------------------------------------------------------------------------- texts

TEXTS = [
    "",
    " ",
    "     ",
    "\t",
    "\n",
    "\r\n\r\n",
    " \t \n ",
    "hello",
    "Hello, World!",
    "  leading and trailing  ",
    "two  spaces   three",
    "line one\nline two\n\nline four\t\ttabbed",
    "The giant panda is a bear species endemic to China.",
    "what is panda?",
    "don't, can't, we'll: it's o'clock",
    "a",
    ".",
    "?!?!...",
    "e\u0301a\u0300o\u0308 versus \u00e9\u00e0\u00f6",
    "Z\u0351\u036b\u0343a\u0321\u034al\u0335g\u0322o\u0320",
    "\u0301alone",
    "Stra\u00dfe GRO\u00dfE \u0130stanbul \u0131",
    "na\u00efve caf\u00e9 \u00c5ngstr\u00f6m \u017b\u00f3\u0142\u0107 \u0111\u1ea5t",
    "\ufb01nd the \ufb02oor o\ufb03ce \ufb05",
    "\uff26\uff55\uff4c\uff4c\uff57\uff49\uff44\uff54\uff48 \uff11\uff12\uff13\uff01",
    "\u2460\u2461 \u00bd \u00b2 \u2122 \u210c \u33a5",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u4eca\u5929\u5929\u6c14\u5f88\u597d",
    "\u6771\u4eac\u306f\u65e5\u672c\u306e\u9996\u90fd\u3067\u3059\u3002\u30ab\u30bf\u30ab\u30ca \uff76\uff9e",
    "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab\u1100\u116e\u11a8",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \ufefb",
    "\u05e9\u05b8\u05dc\u05d5\u05b9\u05dd \u05e2\u05d5\u05dc\u05dd",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0401\u043b\u043a\u0430 \u0439",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "\U0001f600 \U0001f680\U0001f680",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 family",
    "\U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1e9\U0001f1ea \U0001f44d\U0001f3fd \u2764\ufe0f 1\ufe0f\u20e3",
    "\U0001d573\U0001d58a\U0001d591\U0001d591\U0001d594 \U00020000",
    "a\u0000b",
    "\u0000",
    "bell\u0007 esc\u001b[31m del\u007f c1\u0085x",
    "\ufeffbom first, bom \ufeff inside",
    "soft\u00adhyphen co\u00adoperate",
    "no\u00a0break\u202fnarrow\u3000wide\u2009thin",
    "zero\u200bwidth\u200cnon\u200djoin\u2060er",
    "\u202eright to left override\u202c \u200fmark",
    "private \ue000 \uf8ff \U0010fffd",
    "replacement \ufffd noncharacter \uffff",
    "<s>",
    "</s>",
    "a <s> b </s> c",
    "x <mask> y<mask>z",
    "  <mask>  ",
    "<pad>",
    "pad <pad><pad> inside",
    "<unk> and <UNK>",
    "[CLS] [SEP] [PAD] [MASK] [UNK]",
    "a[SEP]b [sep]",
    "\u2581",
    "\u2581under\u2581score \u2581",
    "##ing ## \u0120token",
    "1234567890 3.14159 1,000,000 -5e10",
    "https://example.com/a/b?c=d&e=%20f#g",
    "fn main() { println!(\"{}\", x[0] as f32); } // => ok",
    "{\"key\": [1, null, \"v\\n\"]}",
    "user@example.org; C:\\dir\\file.txt",
    "Pneumonoultramicroscopicsilicovolcanoconiosis" * 3,
    "a" * 120,
    "ab\u00e9" * 40,
    "\u4e2d" * 60,
    "mixed \u4e2d\u6587 \u0438 \u0440\u0443\u0441\u0441\u043a\u0438\u0439 \u0648\u0639\u0631\u0628\u064a and \u03b5\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac",
]  # fmt: skip

SUBJECTS = "the panda|a small bear|the old river|this library|my neighbour|the capital|a machine|the engineer".split("|")
VERBS = "eats|describes|is near|was built by|returns|learns from|does not like|measures".split("|")
OBJECTS = (
    "bamboo leaves|the document|a large country in Asia|twelve bridges|the wrong answer|many examples|cold water"
    "|an open question|the weather of today|the length of the text"
).split("|")
ENDS = ". |, because it is cheap. |? |; that is known! | at 10:45. | (see page 7). | in the year 1984. ".split("|")
OTHER_SCRIPTS = "привет мир это строка|你好世界今天天气|مرحبا بالعالم|नमस्ते दुनिया|ελληνικά γράμματα|日本の首都".split("|")


def corpus() -> list[str]:
    """Sentences to make the tiny vocabularies from; written here, so nobody's licence matters."""
    rng = random.Random(11)
    lines = []
    for _ in range(1500):
        parts = [rng.choice(SUBJECTS), rng.choice(VERBS), rng.choice(OBJECTS)]
        line = " ".join(parts) + rng.choice(ENDS)
        lines.append(line.capitalize() if rng.random() < 0.5 else line)
    return lines + OTHER_SCRIPTS * 8


# ----------------------------------------------------------------------------------------------------------- tokenizers

ROBERTA_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def special(token: str, lstrip: bool = False) -> AddedToken:
    return AddedToken(token, lstrip=lstrip, normalized=False, special=True)


def cut_xlm_roberta(source: pathlib.Path, size: int = 2000) -> dict:
    """The true tokenizer with fewer pieces: everything but the vocabulary stays as it is."""
    full = json.loads(source.read_text(encoding="utf-8"))
    pieces = full["model"]["vocab"]  # ordered by falling score behind the four special tokens
    assert [p[0] for p in pieces[:4]] == ROBERTA_SPECIALS and pieces[-1][0] == "<mask>"
    assert full["model"]["unk_id"] == 3
    limits = {  # block -> how many of its single characters, best first
        "ascii": (range(0x21, 0x7F), 100),
        "latin": (range(0xA1, 0x250), 160),
        "greek": (range(0x370, 0x400), 60),
        "cyrillic": (range(0x400, 0x460), 90),
        "hebrew": (range(0x5D0, 0x5EB), 27),
        "arabic": (range(0x600, 0x700), 70),
        "devanagari": (range(0x900, 0x980), 80),
        "thai": (range(0xE00, 0xE80), 40),
        "punctuation": (range(0x2000, 0x2070), 30),
        "kana": (range(0x3000, 0x3100), 160),
        "cjk": (range(0x4E00, 0xA000), 260),
        "hangul": (range(0xAC00, 0xD7A4), 60),
        "emoji": (range(0x1F000, 0x1FB00), 60),
        "symbols": (range(0x2100, 0x2800), 40),
    }
    keep = set(range(4)) | {len(pieces) - 1}
    taken = dict.fromkeys(limits, 0)
    for at, (piece, _) in enumerate(pieces[4:-1], 4):
        if len(piece) == 1:
            for name, (block, most) in limits.items():
                if ord(piece) in block and taken[name] < most:
                    keep.add(at)
                    taken[name] += 1
    for at in range(4, len(pieces) - 1):
        if len(keep) >= size:
            break
        keep.add(at)
    full["model"]["vocab"] = [pieces[at] for at in sorted(keep)]
    for token in full["added_tokens"]:
        if token["content"] == "<mask>":
            token["id"] = len(keep) - 1
    return full


def train_roberta() -> dict:
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=599,
        special_tokens=ROBERTA_SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tok.train_from_iterator(corpus(), trainer)
    tok.add_special_tokens([special(t) for t in ROBERTA_SPECIALS] + [special("<mask>", lstrip=True)])
    tok.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    assert tok.token_to_id("<mask>") == tok.get_vocab_size() - 1
    return json.loads(tok.to_str())


def word_pieces(size: int = 700) -> dict[str, int]:
    """Letters, then the most frequent words and endings. The library's trainer breaks ties at random, this does not."""
    clean = normalizers.BertNormalizer(lowercase=True)
    split = pre_tokenizers.BertPreTokenizer()
    words = collections.Counter(w for line in corpus() for w, _ in split.pre_tokenize_str(clean.normalize_str(line)))
    endings: collections.Counter[str] = collections.Counter()
    for word, count in words.items():
        for at in range(1, len(word)):
            endings["##" + word[at:]] += count
    letters = sorted({c for word in words for c in word} | {chr(c) for c in range(33, 127) if not chr(c).isupper()})
    pieces = dict.fromkeys(BERT_SPECIALS + letters + ["##" + c for c in letters if c.isalnum()])
    ordered = [
        # one frequent word in three is left out, so that ordinary text also falls apart into pieces
        piece
        for at, (piece, _) in enumerate(sorted((words + endings).items(), key=lambda item: (-item[1], item[0])))
        if at % 3 != 1
    ]
    pieces |= dict.fromkeys(ordered)
    return {piece: at for at, piece in enumerate(list(pieces)[:size])}


def make_bert() -> dict:
    tok = Tokenizer(models.WordPiece(word_pieces(), unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=None, handle_chinese_chars=True)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.WordPiece()
    tok.add_special_tokens([special(t) for t in BERT_SPECIALS])
    tok.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    # as most BERT rerankers are published: with a truncation and a padding baked in, which nobody may obey blindly
    tok.enable_truncation(16)
    tok.enable_padding(pad_id=0, pad_token="[PAD]", length=16)
    return json.loads(tok.to_str())


# --------------------------------------------------------------------------------------------------------------- models

COMMON = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "id2label": {"0": "LABEL_0"},
    "label2id": {"LABEL_0": 0},
    "position_embedding_type": "absolute",
    "num_attention_heads": 4,
    "initializer_range": 0.02,
}

MODELS = {
    "xlm-roberta": {
        **COMMON,
        "architectures": ["XLMRobertaForSequenceClassification"],
        "model_type": "xlm-roberta",
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "intermediate_size": 100,
        "max_position_embeddings": 130,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-05,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    },
    "roberta": {
        **COMMON,
        "architectures": ["RobertaForSequenceClassification"],
        "model_type": "roberta",
        "hidden_size": 40,
        "num_hidden_layers": 2,
        "intermediate_size": 84,
        "max_position_embeddings": 66,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-05,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "torch_dtype": "float16",
    },
    "bert": {
        **COMMON,
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "hidden_size": 36,
        "num_hidden_layers": 3,
        "intermediate_size": 68,
        "max_position_embeddings": 96,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "torch_dtype": "bfloat16",
    },
}


# Seeds under which the logits of the pairs below differ most between inputs and least between f32 and f64.
SEEDS = {"xlm-roberta": 2029, "roberta": 2025, "bert": 2033}


def usable_length(config: dict) -> int:
    """The RoBERTa family counts positions from behind the pad token's id, so it loses that many and one."""
    lost = 0 if config["model_type"] == "bert" else config["pad_token_id"] + 1
    return config["max_position_embeddings"] - lost


def make_weights(name: str, config: dict) -> dict[str, torch.Tensor]:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    with torch.device("meta"):
        empty = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**config))
    rng = np.random.default_rng([SEEDS[name], len(name)])
    dtype = getattr(torch, config["torch_dtype"])
    out = {}
    for key, value in empty.state_dict().items():
        if key.endswith("position_ids") or key.endswith("embeddings.token_type_ids"):
            continue
        noise = rng.standard_normal(tuple(value.shape))
        if "LayerNorm.weight" in key:
            drawn = 1.0 + 0.25 * noise
        elif "LayerNorm.bias" in key:
            drawn = 0.2 * noise
        elif key == "classifier.out_proj.weight" or (name == "bert" and key == "classifier.weight"):
            drawn = 0.45 * noise
        elif "embeddings" in key:
            drawn = 0.5 * noise
        elif key.endswith("bias"):
            drawn = 0.2 * noise
        else:
            # 1 would keep the spread of what flows through; what attention mixes in is made stronger, because
            # only through it the first token, which the head reads, learns of the others
            gain = 2.0 if ".value." in key or "attention.output" in key else 1.0
            drawn = gain * noise / np.sqrt(value.shape[-1])
        # a grid of 2^-10: the same on every machine whatever its logarithms do in the last bit
        out[key] = torch.tensor(np.round(drawn * 1024) / 1024, dtype=torch.float32).to(dtype)
    return out


def save_model(folder: pathlib.Path, name: str, config: dict, weights: dict[str, torch.Tensor]) -> None:
    meta = {"format": "pt"}
    if name != "roberta":
        if name == "bert":
            # older published files carry this buffer: integers, and no weight
            positions = torch.arange(config["max_position_embeddings"]).unsqueeze(0)
            weights = {**weights, "bert.embeddings.position_ids": positions}
        save_file(weights, folder / "model.safetensors", metadata=meta)
        return
    keys = sorted(weights)
    parts = [keys[: len(keys) // 3], keys[len(keys) // 3 : 2 * len(keys) // 3], keys[2 * len(keys) // 3 :]]
    index = {"metadata": {"total_size": sum(t.numel() * t.element_size() for t in weights.values())}, "weight_map": {}}
    for at, part in enumerate(parts, 1):
        file = f"model-{at:05}-of-{len(parts):05}.safetensors"
        save_file({key: weights[key] for key in part}, folder / file, metadata=meta)
        index["weight_map"] |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


def write_model(out: pathlib.Path, name: str, source: pathlib.Path) -> None:
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tokenizer = {"xlm-roberta": lambda: cut_xlm_roberta(source), "roberta": train_roberta, "bert": make_bert}[name]()
    text = json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    size = Tokenizer.from_str(text).get_vocab_size(with_added_tokens=True)
    config = {**MODELS[name], "vocab_size": size}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_model(folder, name, config, make_weights(name, config))


# ------------------------------------------------------------------------------------------------------ golden answers

WORDS = (
    "the panda eats bamboo leaves near old river library returns wrong answer because many examples are cheap "
    "weather of today is cold water and length text machine learns from document 1984 page question"
).split()


def text_of(encoder: PairEncoder, tokens: int, seed: int) -> str:
    """A text of exactly so many tokens."""
    rng, text = random.Random(seed), ""
    while (have := encoder.count(text)) < tokens:
        for word in rng.sample(WORDS, len(WORDS)) + list("aeiou.,"):
            longer = f"{text} {word}" if text else word
            if have < encoder.count(longer) <= tokens:
                text = longer
                break
        else:
            raise AssertionError(f"no word fits behind {text!r}")
    return text


def pair_cases(encoder: PairEncoder, limit: int) -> list[tuple[str, str, int, str]]:
    """(query, passage, max_length, rule)"""
    s, cases = encoder.special_tokens, []
    panda = "The giant panda is a bear species endemic to China."
    lf, flag = "longest_first", "flag"
    plain = [
        ("what is panda?", "hi"), ("what is panda?", panda), ("query", "passage"), (panda, panda),
        ("", ""), ("", panda), ("what is panda?", ""), (" ", " "), ("\n\t", panda), ("what is panda?", "   "),
        ("  what is panda? ", f"\n{panda}\n"), ("WHAT IS PANDA?", panda.upper()),
    ]  # fmt: skip
    cases += [(q, p, limit, lf) for q, p in plain]
    cases += [(q, p, limit, flag) for q, p in (plain[0], plain[4], plain[5], plain[6])]
    odd = [
        "<s>", "a <s> b </s> c", "pad <pad><pad> inside", "<pad>", "x <mask> y<mask>z", "[CLS] [SEP] [PAD] [MASK] [UNK]",
        "\u2581", "a\u0000b", "\ufeffbom first, bom \ufeff inside", "e\u0301a\u0300o\u0308 versus \u00e9\u00e0\u00f6",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 family", "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u4eca\u5929\u5929\u6c14\u5f88\u597d",
        "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \ufefb", "https://example.com/a/b?c=d&e=%20f#g",
        "private \ue000 \uf8ff \U0010fffd",
    ]  # fmt: skip
    for at, text in enumerate(odd):
        assert text in TEXTS
        cases.append((text, panda, limit, lf) if at % 2 else ("what is panda?", text, limit, lf))
    cases.append((odd[2], odd[3], limit, lf))

    half = (limit - s) // 2
    cuts = [  # (query tokens, passage tokens, max_length)
        (5, 5, s + 9), (5, 5, s + 8), (5, 5, s + 1), (5, 5, s), (6, 5, s + 9), (5, 6, s + 9), (6, 5, s + 10),
        (5, 6, s + 10), (1, 20, s + 10), (20, 1, s + 10), (0, 20, s + 10), (20, 0, s + 10), (4, 20, s + 9),
        (20, 4, s + 9), (5, 20, s + 9), (20, 5, s + 9), (20, 21, s + 15), (21, 20, s + 15), (3, 4, s + 2),
        (half, limit, limit), (limit, half, limit), (half + 1, half + 1, limit), (half, half, limit),
        (limit + 9, limit + 30, limit), (2, limit + 60, limit), (limit + 60, 2, limit), (limit + 20, limit + 20, limit - 1),
        (limit + 5, 3, 20), (0, 0, s), (1, 1, s + 1),
    ]  # fmt: skip
    for at, (n1, n2, most) in enumerate(cuts):
        cases.append((text_of(encoder, n1, 3 * at), text_of(encoder, n2, 3 * at + 1), most, lf))
    flags = [
        (5, 40, 24), (18, 40, 24), (19, 40, 24), (60, 40, 24), (60, 1, 24), (60, 2, 24), (60, 3, 24), (12, 12, 24),
        (40, 5, 40), (30, 6, 40), (limit + 30, limit + 30, limit), (2, limit + 60, limit), (limit, 0, limit),
        (0, limit + 5, limit), (half, half, limit), (half, half + 3, limit), (20, 20, 17), (3, 9, s + 13), (9, 0, 17),
    ]  # fmt: skip
    for at, (n1, n2, most) in enumerate(flags):
        cases.append((text_of(encoder, n1, 900 + 3 * at), text_of(encoder, n2, 901 + 3 * at), most, flag))
    return cases


def golden(folder: pathlib.Path) -> dict:
    config = json.loads((folder / "config.json").read_text())
    encoder = PairEncoder(folder / "tokenizer.json")
    model = torch_model.load(str(folder))
    limit, types = usable_length(config), config["type_vocab_size"] > 1
    texts = [
        {"text": t, "input_ids": encoder.text_ids(t), "input_ids_special": encoder.text_ids(t, special=True)} for t in TEXTS
    ]
    pairs = []
    for query, passage, most, rule in pair_cases(encoder, limit):
        made = encoder.encode(query, passage, most, rule)
        pairs.append(
            {
                "query": query,
                "passage": passage,
                "max_length": most,
                "truncation": rule,
                "input_ids": made.ids,
                "token_type_ids": made.type_ids,
                "kept_query": made.kept_query,
                "kept_passage": made.kept_passage,
                "dropped_query": made.dropped_query,
                "dropped_passage": made.dropped_passage,
                "logit": torch_model.logit(model, made.ids, made.type_ids),
            }
        )
    # every total length from the bare special tokens to the model's own limit, by cutting one long pair
    query, passage = text_of(encoder, limit // 3, 5), text_of(encoder, limit, 6)
    sweep = {
        "query": query,
        "passage": passage,
        "truncation": "longest_first",
        "query_ids": encoder.text_ids(query),
        "passage_ids": encoder.text_ids(passage),
        "rows": [],
    }
    for most in range(encoder.special_tokens, limit + 1):
        made = encoder.encode(query, passage, most, "longest_first")
        assert len(made.ids) == most
        row = [most, made.kept_query, made.kept_passage, torch_model.logit(model, made.ids, made.type_ids)]
        sweep["rows"].append(row)
    # id sequences that no text gives: every length from one on, a pad token inside, the last ids of the vocabulary
    rng, vocab, raw = random.Random(77), config["vocab_size"], []
    lengths = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, limit - 1, limit, limit]
    for at, length in enumerate(lengths):
        ids = [rng.randrange(vocab) for _ in range(length)]
        type_ids = [int(types and i >= length // 2) for i in range(length)]
        if at == len(lengths) - 1:
            ids[3::5] = [config["pad_token_id"]] * len(ids[3::5])
            ids[0], ids[-1] = vocab - 1, vocab - 1
        raw.append({"input_ids": ids, "token_type_ids": type_ids, "logit": torch_model.logit(model, ids, type_ids)})
    return {
        "model": folder.name,
        "max_length": limit,
        "special_tokens": encoder.special_tokens,
        "texts": texts,
        "pairs": pairs,
        "sweep": sweep,
        "raw": raw,
    }


def liveliness(folder: pathlib.Path, fixture: dict) -> str:
    """Refuses models that could not tell a wrong forward pass from a right one, or that magnify rounding."""
    rows = [(p["input_ids"], p["token_type_ids"], p["logit"]) for p in fixture["pairs"] + fixture["raw"]]
    logits = np.array([r[2] for r in rows])
    model = torch_model.load(str(folder)).double()
    exact = np.array([torch_model.logit(model, ids, types) for ids, types, _ in rows])
    error, spread = np.abs(logits - exact).max(), logits.std()
    if not (0.5 < spread < 5 and error < 2.5e-6):
        raise SystemExit(f"{folder.name}: spread {spread:.3f}, f32 error {error:.2e}")
    return f"logits {logits.min():.2f} to {logits.max():.2f}, spread {spread:.2f}, f32 against f64 {error:.1e}"


# ----------------------------------------------------------------------------------------------------------- truncation


def kept_longest_first(n1: int, n2: int, room: int) -> tuple[int, int]:
    """What the fast tokenizer keeps of a query of n1 and a passage of n2 tokens when there is room for `room`."""
    if n1 + n2 <= room:
        return n1, n2
    short = min(n1, n2, room // 2)
    return (short, room - short) if n1 <= n2 else (room - short, short)


def kept_flag(n1: int, n2: int, most: int, special_tokens: int) -> tuple[int, int]:
    k1 = min(n1, most * 3 // 4)
    return k1, min(n2, max(0, most - special_tokens - k1))


def truncation(encoder: PairEncoder) -> dict:
    """Checks the two formulas against the real tokenizer, every case of a box, and keeps a telling part of them."""
    s, word = encoder.special_tokens, "panda"
    assert [encoder.count(" ".join([word] * n)) for n in (1, 2, 3)] == [k * encoder.count(word) for k in (1, 2, 3)]
    unit = next(w for w in ["a", "the", "de", "in"] if [encoder.count(" ".join([w] * n)) for n in (0, 1, 7)] == [0, 1, 7])
    text = [" ".join([unit] * n) for n in range(101)]
    seen = {"longest_first": [], "flag": []}

    def ask(rule: str, option: str, most: int, box) -> None:
        """The real tokenizer over many pairs at once."""
        asked = [(n1, n2) for n1, n2 in box]
        queries = [text[min(n1, most * 3 // 4) if rule == "flag" else n1] for n1, _ in asked]
        out = encoder.tok(queries, [text[n2] for _, n2 in asked], truncation=option, max_length=most)
        for at, (n1, n2) in enumerate(asked):
            sides = out[at].sequence_ids
            seen[rule].append([n1, n2, most, sides.count(0), sides.count(1)])

    numbers = range(41)
    for most in range(s, 41):
        ask("longest_first", "longest_first", most, itertools.product(numbers, numbers))
    for n1, n2, most, k1, k2 in seen["longest_first"]:
        assert (k1, k2) == kept_longest_first(n1, n2, most - s), (n1, n2, most, k1, k2)

    # `flag`: below 17 (with four special tokens) no passage token is left beside a long query, and references disagree
    for most in range(17, 57):
        ask("flag", "only_second", most, itertools.product(numbers, numbers))
    for n1, n2, most, k1, k2 in seen["flag"]:
        assert (k1, k2) == kept_flag(n1, n2, most, s), (n1, n2, most, k1, k2)
    # and the same through the step-by-step reference of pairs.py
    for row in random.Random(4).sample(seen["flag"], 300):
        made = encoder.encode(text[row[0]], text[row[1]], row[2], "flag")
        assert [made.kept_query, made.kept_passage] == row[3:]

    out = {"special_tokens": s}
    for rule, rows in seen.items():

        def telling(row) -> bool:
            n1, n2, most = row[:3]
            room = most - s
            edge = abs(n1 + n2 - room) <= 1 or abs(n1 - n2) <= 1 or abs(min(n1, n2) - room // 2) <= 1
            edge |= rule == "flag" and abs(n1 - most * 3 // 4) <= 1
            return edge and n1 + n2 >= room - 1

        rng = random.Random(9)
        edges, others = [r for r in rows if telling(r)], [r for r in rows if not telling(r)]
        out[rule] = sorted(rng.sample(edges, 1100) + rng.sample(others, 400))
        print(f"truncation {rule}: {len(rows)} cases agree with the tokenizer, {len(out[rule])} kept", file=sys.stderr)
    return out


# ----------------------------------------------------------------------------------------------------------------- main


def compact(value: dict) -> str:
    """One line an entry of the long lists: small, and readable in a diff."""
    lines = []
    for key, item in value.items():
        if isinstance(item, list):
            body = ",\n".join(json.dumps(row, separators=(",", ":")) for row in item)
            lines.append(f"{json.dumps(key)}:[\n{body}\n]")
        else:
            lines.append(f"{json.dumps(key)}:{json.dumps(item, separators=(',', ':'))}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def differences(stored, now, path: str = "") -> list[str]:
    """Everything must be equal but logits, which are the only floats."""
    if isinstance(stored, float) and isinstance(now, float):
        return [] if abs(stored - now) <= CHECK_TOLERANCE else [f"{path}: {stored} was stored, {now} computed"]
    if isinstance(stored, dict) and isinstance(now, dict) and stored.keys() == now.keys():
        return [d for key in stored for d in differences(stored[key], now[key], f"{path}.{key}")]
    if isinstance(stored, list) and isinstance(now, list) and len(stored) == len(now):
        return [d for at, (a, b) in enumerate(zip(stored, now)) for d in differences(a, b, f"{path}[{at}]")]
    return [] if stored == now else [f"{path}: {stored!r:.60} was stored, {now!r:.60} computed"]


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--charsmap-from", type=pathlib.Path, metavar="TOKENIZER_JSON")
    args.add_argument("--out", type=pathlib.Path, default=HERE)
    args.add_argument("--check", action="store_true")
    args = args.parse_args()
    if not args.check and args.charsmap_from is None:
        sys.exit("give --charsmap-from TOKENIZER_JSON, or --check")
    torch.set_num_threads(1)
    for text in TEXTS:
        assert not any(unicodedata.category(c) == "Cs" for c in text)
    assert len(set(TEXTS)) == len(TEXTS)

    made = {}
    for name in MODELS:
        if not args.check:
            write_model(args.out, name, args.charsmap_from)
        made[name] = golden(args.out / name)
        print(f"{name}: {liveliness(args.out / name, made[name])}", file=sys.stderr)
    made["truncation"] = truncation(PairEncoder(args.out / "xlm-roberta" / "tokenizer.json"))

    wrong = []
    for name, value in made.items():
        file = args.out / f"{name}.json"
        if args.check:
            wrong += [f"{name}{d}" for d in differences(json.loads(file.read_text()), value)]
        else:
            file.write_text(compact(value))
    for line in wrong[:20]:
        print(line, file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
