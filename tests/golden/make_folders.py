#!/usr/bin/env python3
"""Makes folders.json: model folders whose tokenizer files say different things, and what transformers 4 and 5 make of them.

usage: make_folders.py --version-4 PYTHON --version-5 PYTHON [--check]

Each PYTHON has one major version of transformers (4.57.3 and requirements.txt's); the second has torch too. A case is a golden model
with its JSON files changed by merge patches (RFC 7396). Where both versions give the same ids and segments, they are recorded, with
PyTorch's logit; where they differ, or one of them fails, the case names the file and the field by which the folder must be refused.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
PAIRS = [
    ("What is the Panda?", "The giant PANDA is a bear species, eats bamboo  leaves."),
    ("naïve Café Ångström", "e\u0301a\u0300 你好，世界 hello\tworld z"),
    (" lead [MASK] <mask>x", "[CLS] trail a\ufffdb ﬁnd ＡＢＣ zebra superlongword "),
    ("spec species x spec.", "an and panda <mask>x y<mask> z [MASK] q"),
]


# Less than RoBERTa's positions.
LENGTH = 60


def token(content, **flags):
    plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    return {"content": content, **plain, **flags}


def added(base, content, **flags):
    tokens = json.loads((HERE / base / "tokenizer.json").read_text())["added_tokens"]
    return [*tokens, {"id": 10_000, **token(content, **flags)}]


def without(base, content=None):
    tokens = json.loads((HERE / base / "tokenizer.json").read_text())["added_tokens"]
    return [token for token in tokens if content is not None and token["content"] != content]


# In a patch: SentencePiece's rules of the base, which are long.
RULES = {"type": "Precompiled", "precompiled_charsmap": "$rules"}


def pair(first, separator, doubled=False, segment=1, reverse=False):
    """A template; `segment` of the second text and what follows it."""
    special = lambda name, at: {"SpecialToken": {"id": name, "type_id": at}}  # noqa: E731
    text = lambda name, at: {"Sequence": {"id": name, "type_id": at}}  # noqa: E731
    a, b = ("B", "A") if reverse else ("A", "B")
    middle = [special(separator[0], 0)] * (2 if doubled else 1)
    return {
        "type": "TemplateProcessing",
        "single": [special(first[0], 0), text("A", 0), special(separator[0], 0)],
        "pair": [special(first[0], 0), text(a, 0), *middle, text(b, segment), special(separator[0], segment)],
        "special_tokens": {name: {"id": name, "ids": [at], "tokens": [name]} for name, at in (first, separator)},
    }


BERT, ROBERTA, XLM = "bert", "roberta", "xlm-roberta"
CLS, SEP, START, END = ("[CLS]", 2), ("[SEP]", 3), ("<s>", 0), ("</s>", 2)
SETTINGS, JSON = "tokenizer_config.json", "tokenizer.json"
GENERIC = {"tokenizer_class": "PreTrainedTokenizerFast"}
NAMES, NO_SEGMENTS = ["input_ids", "token_type_ids", "attention_mask"], ["input_ids", "attention_mask"]
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
SPLIT = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]}
MPNET, MODERN = "mpnet", "modernbert"
# MPNet's special tokens, as published models have them: BERT's words and RoBERTa's marks.
MARKS = {"<pad>": 0, "[UNK]": 1, "<s>": 2, "</s>": 3, "<mask>": 4}
FIRST, LAST = ("<s>", 2), ("</s>", 3)
MARKED = {
    "model": {"vocab": {"[PAD]": None, "[CLS]": None, "[SEP]": None, "[MASK]": None, **MARKS}},
    "added_tokens": [{"id": at, **token(mark, lstrip=mark == "<mask>")} for mark, at in MARKS.items()],
    "post_processor": pair(FIRST, LAST, doubled=True, segment=0),
    "truncation": None,
    "padding": None,
}
OF_MPNET = {"tokenizer_class": "MPNetTokenizer"}


def sentencepiece(prepend="never", template=True, **more):
    """XLM-R's tokenizer in place of another, with the template that a LlamaTokenizer has."""
    special = lambda name, at: {"SpecialToken": {"id": name, "type_id": at}}  # noqa: E731
    text = lambda name, at: {"Sequence": {"id": name, "type_id": at}}  # noqa: E731
    one = [special("<s>", 0), text("A", 0), special("</s>", 0)]
    patch = {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": prepend, "split": False}}
    if template:
        patch["post_processor"] = {"single": one, "pair": [*one, special("<s>", 1), text("B", 1), special("</s>", 1)]}
    return {"$of": XLM, **patch, **more}


OF_LLAMA = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
BOTH_ENDS = {**OF_LLAMA, "add_bos_token": True, "add_eos_token": True}
LARGER = {"vocab_size": 2000, "pad_token_id": 1}
# The same tokenizer by other names: no logits of its own.
SAME = {"vocab_size": 379}
SPLIT_NEVER = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, {**METASPACE, "prepend_scheme": "never"}]}

# (what is special, base, tokenizer.json, tokenizer_config.json, config.json, refused: file and field)
CASES = [
    ("as it is", BERT, {}, None, {}, None),
    ("as it is", ROBERTA, {}, None, {}, None),
    ("as it is", XLM, {"pre_tokenizer": SPLIT}, None, {}, None),
    ("empty settings", BERT, {}, {}, {}, None),
    ("nulls in the settings", BERT, {}, {"tokenizer_class": None, "strip_accents": None, "model_max_length": None}, {}, None),
    # case, accents, Chinese
    ("cased by the settings", BERT, {}, {"do_lower_case": False}, {}, None),
    ("cased by the file alone", BERT, {"normalizer": {"lowercase": False}}, None, {}, None),
    ("cased by both", BERT, {"normalizer": {"lowercase": False}}, {"do_lower_case": False}, {}, None),
    ("cased, of the fast class", BERT, {}, {"do_lower_case": False, "tokenizer_class": "BertTokenizerFast"}, {}, None),
    ("cased, of a generic class", BERT, {}, {**GENERIC, "do_lower_case": False, "model_input_names": NAMES}, {}, None),
    ("cased, of ELECTRA's class", BERT, {}, {"do_lower_case": False, "tokenizer_class": "ElectraTokenizer"}, {}, None),
    ("lower case for XLM-R", XLM, {"pre_tokenizer": SPLIT}, {"do_lower_case": True}, {}, None),
    ("accents kept", BERT, {}, {"strip_accents": False}, {}, None),
    ("accents off, cased", BERT, {}, {"strip_accents": True, "do_lower_case": False}, {}, None),
    ("accents off by the file alone", BERT, {"normalizer": {"strip_accents": True, "lowercase": False}}, {"do_lower_case": False}, {}, None),
    ("Chinese in one", BERT, {}, {"tokenize_chinese_chars": False}, {}, None),
    ("Chinese in one by the file alone", BERT, {"normalizer": {"handle_chinese_chars": False}}, None, {}, None),
    ("control characters kept", BERT, {"normalizer": {"clean_text": False}}, None, {}, (JSON, "normalizer.clean_text")),
    ("another normalizer", BERT, {"normalizer": {"type": "Lowercase"}}, None, {}, (JSON, "normalizer")),
    ("no normalizer", BERT, {"normalizer": None}, None, {}, (JSON, "normalizer")),
    ("a normalizer of RoBERTa's", ROBERTA, {"normalizer": {"type": "Lowercase"}}, None, {}, (JSON, "normalizer")),
    ("another normalizer, read as it stands", ROBERTA, {"normalizer": {"type": "Lowercase"}}, {**GENERIC}, {}, None),
    ("lower case by XLM-R's file", XLM, {"pre_tokenizer": SPLIT, "normalizer": {"type": "Sequence", "normalizers": [RULES, {"type": "Lowercase"}]}}, None, {}, (JSON, "normalizer")),
    ("SentencePiece's rules alone", XLM, {"pre_tokenizer": SPLIT, "normalizer": RULES}, None, {}, None),
    ("no rules", XLM, {"pre_tokenizer": SPLIT, "normalizer": None}, None, {}, None),
    # the model's part
    ("short words only", BERT, {"model": {"max_input_chars_per_word": 3}}, None, {}, (JSON, "model.max_input_chars_per_word")),
    ("another continuation", BERT, {"model": {"continuing_subword_prefix": "@@"}}, None, {}, (JSON, "model.continuing_subword_prefix")),
    ("another unknown token", BERT, {}, {"unk_token": "[MASK]"}, {}, (JSON, "model.unk_token")),
    ("an end of words", ROBERTA, {"model": {"end_of_word_suffix": "</w>"}}, None, {}, (JSON, "model.end_of_word_suffix")),
    ("another unknown piece", XLM, {"pre_tokenizer": SPLIT, "model": {"unk_id": 4}}, None, {}, (JSON, "model.unk_id")),
    ("dropout", ROBERTA, {"model": {"dropout": None}}, None, {}, None),
    # a space in front
    ("a space by the settings", ROBERTA, {}, {"add_prefix_space": True}, {}, None),
    ("a space by the file alone", ROBERTA, {"pre_tokenizer": {"add_prefix_space": True}}, None, {}, None),
    ("a space, of a generic class", ROBERTA, {"pre_tokenizer": {"add_prefix_space": True}}, {**GENERIC, "add_prefix_space": True}, {}, None),
    ("a space by the file of a generic class", ROBERTA, {"pre_tokenizer": {"add_prefix_space": True}}, GENERIC, {}, (JSON, "pre_tokenizer.add_prefix_space")),
    ("no space before SentencePiece", XLM, {"pre_tokenizer": SPLIT}, {"add_prefix_space": False}, {}, (SETTINGS, "add_prefix_space")),
    ("no space by SentencePiece's file", XLM, {"pre_tokenizer": SPLIT_NEVER}, None, {}, (JSON, "pre_tokenizer")),
    ("no space by both", XLM, {"pre_tokenizer": SPLIT_NEVER}, {"add_prefix_space": False}, {}, (SETTINGS, "add_prefix_space")),
    # segments
    ("a generic class without names", BERT, {}, GENERIC, {}, (SETTINGS, "model_input_names")),
    ("the same by config.json", BERT, {}, None, GENERIC, (SETTINGS, "model_input_names")),
    ("a generic class with segments", BERT, {}, {**GENERIC, "model_input_names": NAMES}, {}, None),
    ("a generic class without segments", BERT, {}, {**GENERIC, "model_input_names": NO_SEGMENTS}, {}, None),
    ("the generic class of 5", BERT, {}, {"tokenizer_class": "TokenizersBackend"}, {}, None),
    ("BERT without segments", BERT, {}, {"model_input_names": NO_SEGMENTS}, {}, None),
    ("DistilBERT's class", BERT, {}, {"tokenizer_class": "DistilBertTokenizer"}, {}, None),
    ("segments of a template for XLM-R", XLM, {"pre_tokenizer": SPLIT, "post_processor": pair(START, END, doubled=True)}, None, {}, None),
    ("segments of BERT's template", BERT, {"post_processor": {"type": "BertProcessing", "sep": list(SEP), "cls": list(CLS), "special_tokens": None, "single": None, "pair": None}}, None, {}, None),
    ("no segments in BERT's template", BERT, {"post_processor": pair(CLS, SEP, segment=0)}, None, {}, (JSON, "post_processor")),
    # templates
    ("RoBERTa's separators in BERT's", BERT, {"post_processor": pair(CLS, SEP, doubled=True)}, None, {}, (JSON, "post_processor")),
    ("BERT's separators in RoBERTa's", ROBERTA, {"post_processor": {"type": "BertProcessing", "sep": list(END), "cls": list(START), "trim_offsets": None, "add_prefix_space": None}}, None, {}, (JSON, "post_processor")),
    ("another first token", BERT, {}, {"cls_token": "[MASK]"}, {}, (JSON, "post_processor")),
    ("the passage first", BERT, {"post_processor": pair(CLS, SEP, reverse=True)}, None, {}, (JSON, "post_processor")),
    # tokens of their own
    ("no declared tokens", BERT, {"added_tokens": []}, None, {}, None),
    ("the mask not declared", BERT, {"added_tokens": without(BERT, "[MASK]")}, None, {}, None),
    ("XLM-R's not declared", XLM, {"pre_tokenizer": SPLIT, "added_tokens": []}, None, {}, None),
    ("RoBERTa's not declared", ROBERTA, {"added_tokens": []}, None, {}, (JSON, "added_tokens")),
    ("a token by the file", BERT, {"added_tokens": added(BERT, "spec")}, None, {"vocab_size": 380}, None),
    ("a token by the settings", BERT, {}, {"added_tokens_decoder": {"379": token("spec")}}, {"vocab_size": 380}, None),
    ("a whole word by the settings", BERT, {"added_tokens": added(BERT, "spec")}, {"added_tokens_decoder": {"379": token("spec", single_word=True)}}, {"vocab_size": 380}, None),
    ("one more special token", BERT, {}, {"additional_special_tokens": ["an"]}, {}, None),
    ("another mask", BERT, {}, {"mask_token": "an"}, {}, None),
    ("another mask of a generic class", BERT, {}, {**GENERIC, "mask_token": "an", "model_input_names": NAMES}, {}, None),
    ("a mask that leaves spaces", ROBERTA, {}, {"added_tokens_decoder": {"4": token("<mask>", lstrip=False)}}, {}, None),
    ("special tokens split", BERT, {}, {"split_special_tokens": True}, {}, (SETTINGS, "split_special_tokens")),
    # lengths and sides
    ("a length", BERT, {}, {"model_max_length": 12}, {}, None),
    ("a length by its old name", BERT, {}, {"max_len": 33}, {}, None),
    ("no length", BERT, {}, {"model_max_length": 1000000000000000019884624838656}, {}, None),
    ("a length in words", BERT, {}, {"model_max_length": "12"}, {}, (SETTINGS, "model_max_length")),
    ("cut on the left", BERT, {}, {"truncation_side": "left"}, {}, (SETTINGS, "truncation_side")),
    ("cut on the left by the file", BERT, {"truncation": {"direction": "Left"}}, None, {}, (JSON, "truncation.direction")),
    # classes
    ("an unknown class", BERT, {}, {"tokenizer_class": "MyOwnTokenizer"}, {}, (SETTINGS, "tokenizer_class")),
    ("another model's class", BERT, {}, {"tokenizer_class": "MPNetTokenizer"}, {}, (JSON, "post_processor")),
    ("MPNet's", MPNET, MARKED, OF_MPNET, SAME, None),
    ("MPNet's by the model's type", MPNET, MARKED, {}, SAME, None),
    ("MPNet's, cased by the settings", MPNET, MARKED, {**OF_MPNET, "do_lower_case": False}, SAME, None),
    ("MPNet's, cased by the file alone", MPNET, {**MARKED, "normalizer": {"lowercase": False}}, OF_MPNET, SAME, None),
    ("MPNet's, accents kept", MPNET, MARKED, {**OF_MPNET, "strip_accents": False}, SAME, None),
    ("MPNet's, Chinese in one by both", MPNET, {**MARKED, "normalizer": {"handle_chinese_chars": False}}, {**OF_MPNET, "tokenize_chinese_chars": False}, SAME, None),
    ("MPNet's, Chinese in one by the file", MPNET, {**MARKED, "normalizer": {"handle_chinese_chars": False}}, OF_MPNET, SAME, (JSON, "normalizer.handle_chinese_chars")),
    ("MPNet's, Chinese in one by the settings", MPNET, MARKED, {**OF_MPNET, "tokenize_chinese_chars": False}, SAME, (JSON, "normalizer.handle_chinese_chars")),
    ("MPNet's, with tokens by the settings", MPNET, MARKED, {**OF_MPNET, "added_tokens_decoder": {str(at): token(mark, lstrip=mark == "<mask>") for mark, at in MARKS.items()}}, SAME, None),
    ("MPNet's, one separator", MPNET, {**MARKED, "post_processor": pair(FIRST, LAST, segment=0)}, OF_MPNET, SAME, (JSON, "post_processor")),
    ("MPNet's, a mask that leaves spaces", MPNET, {**MARKED, "added_tokens": [{"id": at, **token(mark)} for mark, at in MARKS.items()]}, OF_MPNET, SAME, None),
    ("MPNet's not declared", MPNET, {**MARKED, "added_tokens": []}, OF_MPNET, SAME, None),
    ("MPNet's for another file", MPNET, {**MARKED, "model": {"type": "BPE"}}, OF_MPNET, SAME, (JSON, "model.type")),
    ("a LlamaTokenizer", MODERN, sentencepiece(), BOTH_ENDS, LARGER, None),
    ("a LlamaTokenizer, a mark first", MODERN, sentencepiece("first", normalizer=None), BOTH_ENDS, LARGER, None),
    ("a LlamaTokenizer, a mark always", MODERN, sentencepiece("always"), BOTH_ENDS, LARGER, None),
    ("a LlamaTokenizer of the fast class", MODERN, sentencepiece(), {**BOTH_ENDS, "tokenizer_class": "LlamaTokenizerFast"}, LARGER, None),
    ("a LlamaTokenizer, marks by the normalizer", MODERN, sentencepiece(normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}, pre_tokenizer=None), BOTH_ENDS, LARGER, None),
    ("a LlamaTokenizer's default ends", MODERN, sentencepiece(), OF_LLAMA, LARGER, (JSON, "post_processor")),
    ("a LlamaTokenizer, another template", MODERN, sentencepiece(template=False), BOTH_ENDS, LARGER, (JSON, "post_processor")),
    ("a LlamaTokenizer, a space by the settings", MODERN, sentencepiece(), {**BOTH_ENDS, "add_prefix_space": False}, LARGER, (SETTINGS, "add_prefix_space")),
    ("a LlamaTokenizer of bytes", MODERN, sentencepiece(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}), BOTH_ENDS, LARGER, None),
    ("a LlamaTokenizer's tokens not declared", MODERN, sentencepiece(added_tokens=[]), BOTH_ENDS, LARGER, None),
    ("a LlamaTokenizer of another model", XLM, sentencepiece(), BOTH_ENDS, {}, (SETTINGS, "tokenizer_class")),
    ("a class for another file", BERT, {}, {"tokenizer_class": "XLMRobertaTokenizer"}, {}, (JSON, "model.type")),
    ("CamemBERT", XLM, {"pre_tokenizer": SPLIT}, {"tokenizer_class": "CamembertTokenizer"}, {"model_type": "camembert", "architectures": ["CamembertForSequenceClassification"]}, None),
]  # fmt: skip

# What both versions obey and this project cannot: it cuts and splits in one way only.
OBEYED = {"split_special_tokens", "truncation_side", "truncation.direction"}


def merged(target, patch):
    if not isinstance(patch, dict) or not isinstance(target, dict):
        return patch
    out = dict(target)
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merged(out.get(key), value)
    return out


def write(folder: pathlib.Path, base, tokenizer, settings, config) -> None:
    folder.mkdir(parents=True)
    for path in (HERE / base).iterdir():
        shutil.copy(path, folder / path.name)
    for name, patch in ((JSON, tokenizer), ("config.json", config)):
        path = folder / name
        # Another model's tokenizer may be the one that is changed.
        other = patch.get("$of")
        before = json.loads((HERE / other / name if other else path).read_text())
        patch = {field: value for field, value in patch.items() if field != "$of"}
        rules = json.dumps(((before.get("normalizer") or {}).get("normalizers") or [{}])[0].get("precompiled_charsmap"))
        path.write_text(json.dumps(merged(before, patch), ensure_ascii=False).replace('"$rules"', rules))
    if settings is not None:
        (folder / SETTINGS).write_text(json.dumps(settings, ensure_ascii=False))


def answer(folder: pathlib.Path) -> None:
    """In the version of the interpreter that runs this: what it makes of each folder, on stdout."""
    import transformers
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    transformers.logging.set_verbosity_error()
    out = []
    for at in range(len(CASES)):
        here = str(folder / str(at))
        try:
            tokenizer = AutoTokenizer.from_pretrained(here)
            rows = []
            for query, passage in PAIRS:
                got = tokenizer(query, passage, truncation=True, max_length=LENGTH)
                segments = got.get("token_type_ids") or [0] * len(got["input_ids"])
                rows.append({"input_ids": got["input_ids"], "token_type_ids": segments})
            longest = tokenizer.model_max_length
            got = {"pairs": rows, "max_length": longest if longest < 1e9 else None}
        except BaseException as error:  # the crate's panics are no Exception
            out.append({"failed": type(error).__name__})
            continue
        if transformers.__version__.startswith("5") and not CASES[at][5] and "vocab_size" not in CASES[at][4]:
            import torch

            model = AutoModelForSequenceClassification.from_pretrained(here, dtype=torch.float32, attn_implementation="eager").eval()
            for row in rows:
                inputs = {name: torch.tensor([values]) for name, values in row.items()}
                with torch.no_grad():
                    row["logit"] = model(**inputs).logits[0][0].item()
        out.append(got)
    json.dump(out, sys.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version-4")
    parser.add_argument("--version-5")
    parser.add_argument("--answer", type=pathlib.Path)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.answer:
        return answer(args.answer)
    with tempfile.TemporaryDirectory() as scratch:
        for at, (_, base, *files, _) in enumerate(CASES):
            write(pathlib.Path(scratch) / str(at), base, *files)
        answers = []
        for python in (args.version_4, args.version_5):
            done = subprocess.run([python, __file__, "--answer", scratch], stdout=subprocess.PIPE, check=True)
            answers.append(json.loads(done.stdout))
    cases = []
    for (name, base, tokenizer, settings, config, refused), four, five in zip(CASES, *answers):
        case = {"name": name, "base": base, "tokenizer": tokenizer, "config": config}
        if settings is not None:
            case["settings"] = settings
        plain = lambda got: [{k: v for k, v in row.items() if k != "logit"} for row in got.get("pairs", [])]  # noqa: E731
        only_5 = (settings or {}).get("tokenizer_class") == "TokenizersBackend"
        agree = "failed" not in four and "failed" not in five and plain(four) == plain(five)
        if refused:
            assert not agree or refused[1] in OBEYED, f"{base}, {name}: both versions agree"
            case["refused"] = list(refused)
        else:
            assert agree or (only_5 and "failed" in four), f"{base}, {name}: the versions differ: {four} {five}"
            case |= five
        cases.append(case)
    text = json.dumps({"texts": PAIRS, "length": LENGTH, "cases": cases}, ensure_ascii=False, separators=(",", ":")) + "\n"
    path = HERE / "folders.json"
    if args.check:
        stored = json.loads(path.read_text())
        assert len(stored["cases"]) == len(cases)
        for old, new in zip(stored["cases"], cases):
            for a, b in zip(old.pop("pairs", []), new.pop("pairs", [])):
                assert abs(a.pop("logit", 0) - b.pop("logit", 0)) < 4e-6 and a == b, new["name"]
            assert old == new, new["name"]
        print(f"{len(cases)} folders as recorded")
    else:
        path.write_text(text)
        print(f"{path}: {len(cases)} folders, {sum('refused' in case for case in cases)} refused")


if __name__ == "__main__":
    main()
