"""Measure the exported demo model: nDCG@10 and MRR@10 over the candidates of IR sets, beside BM25's order.

    python evaluate.py --data DIR --sets feedbackqa-us,scifact-part          PyTorch f32 on the dequantised model
    python evaluate.py --data DIR --sets ... --dump-pairs pairs.jsonl        write {"id","query","passage"} and stop
    python evaluate.py --data DIR --sets ... --scores scored.jsonl           read {"id","logit"} made by another runtime
    python evaluate.py --write-scores                                        (re)make scores.json

Passage text is title + " " + text. nDCG has linear gain and its ideal over all judged passages; MRR counts score > 0;
queries without a relevant passage are left out.
"""

import argparse
import json
import math
import os

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from export import dequantise
from train import passage_text, read_jsonl

HERE = os.path.dirname(os.path.abspath(__file__))
MAX_LENGTH = 512

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
def logits_of(model, tokenizer, pairs, token_budget=6144, bf16=False):
    """f32 logits in the order of `pairs`; similar lengths are computed together, so little padding is."""
    encoded = []
    for start in range(0, len(pairs), 2048):
        part = pairs[start : start + 2048]
        batch = tokenizer([q for q, _ in part], [p for _, p in part], truncation="longest_first", max_length=MAX_LENGTH)
        encoded += list(zip(batch["input_ids"], batch["token_type_ids"]))
    out = [0.0] * len(pairs)
    order = sorted(range(len(pairs)), key=lambda i: len(encoded[i][0]))
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and len(encoded[order[end]][0]) * (end + 1 - start) <= token_budget:
            end += 1
        rows = order[start:end]
        width = len(encoded[rows[-1]][0])
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        types, mask = torch.zeros_like(ids), torch.zeros_like(ids)
        for r, i in enumerate(rows):
            n = len(encoded[i][0])
            ids[r, :n], types[r, :n], mask[r, :n] = torch.tensor(encoded[i][0]), torch.tensor(encoded[i][1]), 1
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            values = model(input_ids=ids, token_type_ids=types, attention_mask=mask).logits[:, 0].float().tolist()
        for i, value in zip(rows, values):
            out[i] = value
        start = end
    return out


def read_judgements(path):
    out = {}
    with open(path, encoding="utf-8") as f:
        next(f)
        for line in f:
            query, doc, score = line.rstrip("\n").split("\t")
            out.setdefault(query, {})[doc] = int(score)
    return out


def metrics(ranked, judged):
    gains = [max(0, judged.get(d, 0)) for d in ranked[:10]]
    best = sorted((max(0, s) for s in judged.values()), reverse=True)[:10]
    dcg = sum(g / math.log2(r + 2) for r, g in enumerate(gains))
    ideal = sum(g / math.log2(r + 2) for r, g in enumerate(best))
    return dcg / ideal, next((1 / (r + 1) for r, g in enumerate(gains) if g > 0), 0.0)


def load_set(data, name, split, limit):
    base = f"{data}/ir/{name}"
    corpus = {d["_id"]: passage_text(d) for d in read_jsonl(f"{base}/corpus.jsonl")}
    queries = {q["_id"]: q["text"] for q in read_jsonl(f"{base}/queries.jsonl")}
    judged = read_judgements(f"{base}/qrels/{split}.tsv")
    rows = []
    for row in read_jsonl(f"{base}/candidates.{split}.jsonl")[:limit]:
        if any(s > 0 for s in judged.get(row["query_id"], {}).values()):
            rows.append((row["query_id"], row["candidates"], judged[row["query_id"]]))
    pairs = [(f"{name}/{split}/{q}/{d}", queries[q], corpus[d]) for q, docs, _ in rows for d in docs]
    return rows, pairs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with ir/")
    parser.add_argument("--sets", default="", help="comma-separated names")
    parser.add_argument("--split", default="test", choices=("test", "dev"))
    parser.add_argument("--limit", type=int, help="first N queries of each set")
    parser.add_argument("--model", default=HERE, help="folder of the exported model")
    parser.add_argument("--checkpoint", help="measure this training checkpoint instead, unquantised")
    parser.add_argument("--dump-pairs")
    parser.add_argument("--scores")
    parser.add_argument("--bf16", action="store_true", help="faster, for a look while tuning; figures are then not exact")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write-scores", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    if args.write_scores:
        model, tokenizer = load(args.model)
        rows = [{"query": q, "passage": p, "logit": logits_of(model, tokenizer, [(q, p)])[0]} for q, p in REFERENCE_PAIRS]
        for row in rows:
            print(f"{row['logit']:9.4f}  {1 / (1 + math.exp(-row['logit'])):.4f}  {row['query'][:40]} | {row['passage'][:60]}")
        with open(os.path.join(args.model, "scores.json"), "w", encoding="utf-8") as f:
            json.dump({"model": "serverless-reranker-demo", "tolerance": 1e-3, "rows": rows}, f, indent=1, ensure_ascii=False)
            f.write("\n")
        return

    sets = {name: load_set(args.data, name, args.split, args.limit) for name in args.sets.split(",")}
    if args.dump_pairs:
        with open(args.dump_pairs, "w", encoding="utf-8") as f:
            for _, pairs in sets.values():
                for pair_id, query, passage in pairs:
                    f.write(json.dumps({"id": pair_id, "query": query, "passage": passage}, ensure_ascii=False) + "\n")
        return
    given = {row["id"]: row["logit"] for row in read_jsonl(args.scores)} if args.scores else None
    if given is None:
        model, tokenizer = load(args.model)
        if args.checkpoint:
            model.load_state_dict(torch.load(args.checkpoint, weights_only=True))
    for name, (rows, pairs) in sets.items():
        if given is None:
            logits = logits_of(model, tokenizer, [(q, p) for _, q, p in pairs], bf16=args.bf16)
        else:
            logits = [given[pair_id] for pair_id, _, _ in pairs]
        results, base, right, wrong, at = [], [], [], [], 0
        for query, docs, judged in rows:
            values = logits[at : at + len(docs)]
            at += len(docs)
            # Ties keep BM25's order, as the sort is stable.
            ranked = [d for _, d in sorted(zip(values, docs), key=lambda p: -p[0])]
            results.append(metrics(ranked, judged))
            base.append(metrics(docs, judged))
            for value, doc in zip(values, docs):
                (right if judged.get(doc, 0) > 0 else wrong).append(value > 0)
        ndcg, mrr = (sum(r[k] for r in results) / len(results) for k in (0, 1))
        bm_ndcg, bm_mrr = (sum(r[k] for r in base) / len(base) for k in (0, 1))
        print(
            f"{name:16} {args.split} {len(rows):5} queries  nDCG@10 {ndcg:.4f} (BM25 {bm_ndcg:.4f})  MRR@10 {mrr:.4f} (BM25 {bm_mrr:.4f})"
            f"  score > 0.5: {sum(right) / len(right):.3f} of relevant, {sum(wrong) / len(wrong):.3f} of others",
            flush=True,
        )


if __name__ == "__main__":
    main()
