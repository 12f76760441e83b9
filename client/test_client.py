#!/usr/bin/env python3
"""Calls a running reranker in each of its three ways: health, one pair, a batch. Prints a line for each, and "ok" in the end.

    test_client.py [URL]        by default RERANKER_URL, else http://localhost:8000; the key comes from RERANKER_API_KEY

Needs only Python 3.8. Exits 1 where an answer is missing or wrong.
"""

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.request

from rerank import RerankError, ask, request_to, root

QUERY = "Can I get a refund after 30 days?"
PASSAGES = [
    "Returns are accepted within 60 days of delivery, and the full price is refunded.",
    "Our offices are open from nine to five, and closed on public holidays.",
]
PATIENCE_S = 120


def health(url):
    """What the service says of itself, once its model is loaded."""
    for _ in range(PATIENCE_S):
        try:
            with urllib.request.urlopen(url + "/health", timeout=10) as response:
                return json.load(response)
        except urllib.error.HTTPError as refusal:
            with refusal:
                answer = json.load(refusal)
            if answer.get("status") != "loading":
                raise RerankError(f"/health: {answer.get('reason') or answer}", refusal.code) from None
        except (OSError, ValueError) as error:
            raise RerankError(f"{url}/health: {getattr(error, 'reason', None) or error}") from error
        time.sleep(1)
    raise RerankError(f"the model is not loaded after {PATIENCE_S} s")


def main():
    parser = argparse.ArgumentParser(description="Call a running reranker: health, one pair, a batch.")
    parser.add_argument("url", nargs="?", help="the service's root (RERANKER_URL, http://localhost:8000); the key comes from RERANKER_API_KEY")
    url = root(parser.parse_args().url)
    key = os.environ.get("RERANKER_API_KEY")
    try:
        about = health(url)
        print(f"health  {about['status']}: {about['model']}, {about['precision']}, version {about['version']}")
        pair = ask(request_to(url, "/rerank", {"query": QUERY, "passage": PASSAGES[0]}, key))
        print(f"pair    score {pair['score']:.4f}, {pair['tokens']} tokens")
        pairs = [{"query": QUERY, "passage": passage} for passage in PASSAGES]
        batch = ask(request_to(url, "/rerank/batch", {"pairs": pairs, "normalize": True}, key))
        print("batch   scores " + ", ".join(f"{score:.4f}" for score in batch["scores"]))
    except RerankError as error:
        print(f"FAIL    {error}", file=sys.stderr)
        return 1
    except (KeyError, TypeError) as error:
        print(f"FAIL    {url} answered, but not as a reranker does: {error}", file=sys.stderr)
        return 1
    # A pair's score does not depend on what it is sent with.
    if batch["count"] != len(PASSAGES) or batch["results"][0]["logit"] != pair["logit"]:
        print("FAIL    the batch has other scores than the pair alone", file=sys.stderr)
        return 1
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
