#!/usr/bin/env python3
"""Ranks documents by their relevance to a query, with a reranker over HTTP. Needs only Python 3.8.

As a program:

    rerank.py --query "How do I reset my password?" "first document" "second document"
    rerank.py --query "…" --file documents.txt        one document a line; "-" reads standard input

As a module:

    from rerank import rerank
    for result in rerank("How do I reset my password?", documents):
        print(result["score"], result["document"])
"""

import argparse
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request

URL = "http://localhost:8000"
# What a busy or starting server answers; everything else would be answered the same a second time.
WORTH_ANOTHER_TRY = (429, 503)
LONGEST_WAIT_S = 30.0


class RerankError(Exception):
    """No ranking. `status` is the HTTP status, or None where no answer came; `code` is the server's name for the error."""

    def __init__(self, message, status=None, code=None):
        super().__init__(message)
        self.status = status
        self.code = code


def rerank(query, documents, url=None, key=None, normalize=True, max_length=None, timeout=60.0, tries=4):
    """Scores every document and returns them, best first, as dicts: index, document, score, logit, tokens, truncated.

    url: the service's root, by default RERANKER_URL; key: by default RERANKER_API_KEY; timeout: seconds for each try.
    """
    documents = list(documents)
    key = key or os.environ.get("RERANKER_API_KEY")
    body = {"pairs": [{"query": query, "passage": document} for document in documents], "normalize": normalize}
    if max_length is not None:
        body["max_length"] = max_length
    answer = ask(request_to(root(url), "/rerank/batch", body, key), timeout, tries)
    try:
        # The scores are sorted by these two.
        results = sorted(answer["results"], key=lambda result: (-result["logit"], result["index"]))
    except (TypeError, KeyError):
        raise RerankError(f"{root(url)} answered, but not as a reranker does") from None
    return [{**result, "document": documents[result["index"]]} for result in results]


def root(url=None):
    """The service's root, by default RERANKER_URL, with a scheme and without a slash at its end."""
    url = (url or os.environ.get("RERANKER_URL") or URL).rstrip("/")
    return url if "://" in url else "http://" + url


def request_to(url, path, body, key=None):
    """A request with a JSON body and, where there is one, the key."""
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = "Bearer " + key
    try:
        return urllib.request.Request(url + path, json.dumps(body).encode(), headers)
    except ValueError as error:
        raise RerankError(str(error)) from error


def ask(request, timeout=60.0, tries=4):
    """The answer as a dict; comes back when a busy server says."""
    for left in range(tries - 1, -1, -1):
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return _read_answer(response.read(), request.full_url)
        except urllib.error.HTTPError as refusal:
            with refusal:
                if not left or refusal.code not in WORTH_ANOTHER_TRY:
                    raise _read_refusal(refusal) from None
                wait = _seconds(refusal.headers.get("Retry-After"), default=2.0 ** (tries - 1 - left))
            time.sleep(min(wait, LONGEST_WAIT_S))
        except (OSError, http.client.HTTPException) as error:
            # URLError wraps what happened while connecting; while reading it comes as it is.
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, TimeoutError) or "timed out" in str(reason):
                reason = f"no answer within {timeout:g} s"
            raise RerankError(f"{request.full_url}: {reason}") from error
        except ValueError as error:
            # A key with a line's end in it, for one, is no header.
            raise RerankError(str(error)) from error
    raise ValueError("tries must be 1 or more")


def _read_answer(body, url):
    try:
        return json.loads(body)
    except ValueError:
        raise RerankError(f"{url} answered, but not as a reranker does") from None


def _read_refusal(refusal):
    """The server's own words, where it has any; a proxy in front of it may answer in another form."""
    code = None
    message = refusal.reason
    try:
        answer = json.loads(refusal.read())
        error = answer.get("error")
        if isinstance(error, dict):
            code, message = error.get("code"), error["message"]
        else:
            message = answer.get("detail") or answer.get("message") or message
    except (OSError, ValueError, AttributeError, KeyError, http.client.HTTPException):
        pass
    hint = " (set RERANKER_API_KEY)" if refusal.code == 401 else ""
    return RerankError(f"{refusal.code}: {message}{hint}", refusal.code, code)


def _seconds(retry_after, default):
    try:
        return max(0.0, float(retry_after))
    except (TypeError, ValueError):
        return default


def _read_documents(arguments):
    if arguments.file is None:
        if arguments.documents:
            return arguments.documents
        arguments.file = "-"
    elif arguments.documents:
        raise RerankError("documents come from the command line or from --file, not from both")
    if arguments.file == "-":
        text = sys.stdin.buffer.read()
    else:
        with open(arguments.file, "rb") as file:
            text = file.read()
    return [line.strip() for line in text.decode("utf-8").split("\n") if line.strip()]


def _positive(text):
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


def main():
    parser = argparse.ArgumentParser(description="Rank documents by their relevance to a query.")
    parser.add_argument("documents", nargs="*", metavar="DOCUMENT", help="without any, and without --file: one a line from standard input")
    parser.add_argument("-q", "--query", required=True)
    parser.add_argument("-f", "--file", help="one document a line; - is standard input")
    parser.add_argument("-n", "--top", type=int, metavar="N", help="print the best N only")
    parser.add_argument("--raw", action="store_true", help="raw logits instead of scores from 0 to 1")
    parser.add_argument("--max-length", type=int, metavar="TOKENS", help="longest sequence; longer ones are cut")
    parser.add_argument("--url", help=f"the service's root (RERANKER_URL, {URL}); the key comes from RERANKER_API_KEY")
    parser.add_argument("--timeout", type=_positive, default=60.0, metavar="SECONDS", help="for one try (60)")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    arguments = parser.parse_args()
    try:
        documents = _read_documents(arguments)
        ranking = rerank(
            arguments.query, documents, arguments.url, normalize=not arguments.raw, max_length=arguments.max_length, timeout=arguments.timeout
        )
    except (RerankError, UnicodeDecodeError) as error:
        print(f"rerank: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"rerank: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    if arguments.top is not None:
        ranking = ranking[: max(0, arguments.top)]
    # Whatever the terminal's encoding is: a document must not break the program.
    sys.stdout.reconfigure(errors="replace")
    if arguments.json:
        print(json.dumps(ranking, indent=2))
        return 0
    print(f"{'score':>8}  {'tokens':>6}  {'place':>5}  document")
    for result in ranking:
        cut = " (cut)" if result["truncated"] else ""
        text = " ".join(result["document"].split())
        print(f"{result['score']:8.4f}  {result['tokens']:6}  {result['index'] + 1:5}  {text}{cut}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
