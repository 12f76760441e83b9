"""The deployed service, asked through its public address."""

import json
import math
import time
import urllib.error
import urllib.request

from common import DEMO, Stop, asked, published_pairs, say, step

# What int8 may cost, in scores between 0 and 1; `reranker verify` allows the same.
TOLERANCE = 0.03
PASSAGES, WORDS = 32, 90


class Service:
    def __init__(self, url, key):
        self.url = url.rstrip("/")
        self.key = key

    def ask(self, path, body=None, timeout=60):
        """Status, headers and body; status 0 where nothing answers."""
        headers = {"content-type": "application/json"}
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.headers, json.loads(answer.read() or "{}")
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read().decode(errors="replace")
        except (OSError, ValueError) as error:
            return 0, {}, str(error)

    def wait(self):
        """Until the model scores: a new image comes slowly, and an address may take a while to be known."""
        limit = float(asked("READY_TIMEOUT_S") or 600)
        step(f"waiting for {self.url}/ready, at most {limit:.0f} s")
        end = time.monotonic() + limit
        while True:
            status, _, body = self.ask("/ready")
            if status == 200:
                return
            if time.monotonic() > end:
                raise Stop(f"{self.url}/ready does not answer 200 after {limit:.0f} s; the last answer was {status}: {str(body)[:300]}\n"
                           "docs/operations.md, \"When something is wrong\", says what to look at; the same command goes on from here")
            time.sleep(2)

    def prove(self, model):
        """The model that is meant answers, and the published pairs get their scores."""
        status, _, info = self.ask("/info")
        if status == 401:
            raise Stop("the service refuses the newest key (401): the version that serves is from before that key; "
                       "rotate the key, or give the one of that day")
        if status != 200:
            raise Stop(f"{self.url}/info answers {status}: {info}")
        if info["demo"] != (model == DEMO) or (model != DEMO and info["model"] != model):
            raise Stop(f"{self.url} serves {info['model']}, and MODEL is {model}")
        rows = [row for row in published_pairs(model) if row["passage"]][:3]
        for row in rows:
            pair = {"query": row["query"], "passage": row["passage"]}
            status, _, answer = self.ask("/rerank", pair)
            if status != 200:
                raise Stop(f"{self.url}/rerank answers {status}: {answer}")
            wanted = row["score"] if "score" in row else 1 / (1 + math.exp(-row["logit"]))
            if abs(answer["score"] - wanted) > TOLERANCE:
                raise Stop(f"{row['query']!r} and {row['passage']!r} score {answer['score']:.4f}; published is {wanted:.4f}")
        revision = f" at {info['revision']}" if info.get("revision") else ""
        told = f"{len(rows)} published pairs have their scores" if rows else "nobody has published scores of it: none were compared"
        say(f"   {info['model']}{revision} in {info['precision']}: {told}")
        return info

    def seconds_of_a_request(self):
        """What 32 passages cost by this instance's own measured speed, and the GB-seconds of it."""
        passage = " ".join(["Returns are accepted within sixty days of delivery"] * (WORDS // 8))
        body = {"query": "Can I get a refund after 30 days?", "documents": [passage] * PASSAGES}
        # Equal pairs are scored once; these are not equal.
        body["documents"] = [f"{index} {text}" for index, text in enumerate(body["documents"])]
        status, _, estimate = self.ask("/estimate", body)
        if status != 200 or "compute_ms" not in estimate:
            return None
        return estimate["compute_ms"] / 1000, estimate["gb_seconds"], estimate["tokens"]


def curl(url, key):
    bearer = f" -H 'authorization: Bearer {key}'" if key else ""
    body = '{"query": "Can I get a refund after 30 days?", "passage": "Returns are accepted within 60 days of delivery."}'
    return f"curl -s {url.rstrip('/')}/rerank{bearer} -H 'content-type: application/json' -d '{body}'"
