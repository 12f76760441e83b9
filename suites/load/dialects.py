"""Every dialect's bodies, and how its answers and errors are read. What is expected is known from the pairs asked alone."""

import dataclasses
import typing


@dataclasses.dataclass
class Wish:
    """What a request asks for besides scores, in no dialect's words."""

    top: int | None = None
    raw: bool = False
    returned: bool = False
    as_objects: bool = False
    least: float | None = None
    spans: bool = False


@dataclasses.dataclass(frozen=True)
class Dialect:
    name: str
    # Its paths, each with the dialect in which errors are told there before the body shows whose it is.
    paths: tuple
    body: typing.Callable  # (query, documents, wish): the request's body
    results: typing.Callable  # (answer): [(index, score, document or None)]
    complaint: typing.Callable  # (error body): the message in it
    headers: dict = dataclasses.field(default_factory=dict)
    # How long documents are read: "cut", or in pieces as Cohere's v1 or v2 has it.
    way: str = "cut"
    ordered: bool = True
    # What of a wish it has words for.
    words: frozenset = frozenset()
    # Whether documents come back unasked, and as strings.
    always_returns: bool = False
    strings: bool = False
    always_raw: bool = False


def documents(texts, wish):
    return [{"text": text, "n": n} for n, text in enumerate(texts)] if wish.as_objects else texts


def given(**fields):
    """Fields that are asked for, as careful clients send them."""
    return {name: value for name, value in fields.items() if value is not None}


def usual(query, texts, wish):
    """With null for whatever is not asked for, as many clients send it."""
    return {
        "model": "any", "query": query, "documents": documents(texts, wish), "top_n": wish.top,
        "return_documents": wish.returned or None, "raw_scores": wish.raw or None, "min_score": wish.least,
        "relevant_spans": {"mode": "enabled", "threshold": 0.0} if wish.spans else None,
    }


def voyage(query, texts, wish):
    # Its clients send booleans; others' arrive as strings.
    return {
        "query": query, "documents": texts, "model": "any", "top_k": wish.top, "truncation": True,
        "return_documents": "true" if wish.returned else "false",
    }


def tei(query, texts, wish):
    return {
        "query": query, "texts": texts, "truncate": True,
        **given(raw_scores=wish.raw, return_text=wish.returned, top_n=wish.top, min_score=wish.least),
    }


def bedrock(query, texts, wish):
    inline = [{"type": "TEXT", "textDocument": {"text": text}} for text in texts]
    ours = {"modelConfiguration": {"modelArn": "arn:any"}, "numberOfResults": wish.top}
    return {
        "queries": [{"type": "TEXT", "textQuery": {"text": query}}],
        "sources": [{"type": "INLINE", "inlineDocumentSource": source} for source in inline],
        "rerankingConfiguration": {"type": "BEDROCK_RERANKING_MODEL", "bedrockRerankingConfiguration": ours},
    }


def pinecone(query, texts, wish):
    return {
        "model": "any", "query": query, "documents": [{"id": str(n), "text": text} for n, text in enumerate(texts)],
        "rank_fields": ["text"], "parameters": {"truncate": "END"}, "return_documents": wish.returned,
        **given(top_n=wish.top, min_score=wish.least),
    }


def mixedbread(query, texts, wish):
    return {
        "model": "any", "query": query, "input": documents(texts, wish), "return_input": wish.returned,
        **given(top_k=wish.top, min_score=wish.least),
    }


def azure(query, texts, wish):
    return {
        "query": query, "documents": texts, "returnDocuments": wish.returned, "topK": wish.top, "batchSize": 32,
        "returnSentenceScore": wish.spans, "sort": True,
    }


def score(query, texts, wish):
    return {"model": "any", "queries": query, "documents": texts, "use_activation": not wish.raw}


def batch(query, texts, wish):
    return {"pairs": [{"query": query, "passage": text} for text in texts], "normalize": not wish.raw}


def one(query, texts, wish):
    return {"query": query, "passage": texts[0], "normalize": not wish.raw}


def items(within, score, document="document"):
    """Reads a list of results below `within`."""
    return lambda answer: [
        (item["index"], item[score], item.get(document)) for item in (answer[within] if within else answer)
    ]


def openai(body):
    return body["error"]["message"] if isinstance(body["error"]["code"], int) else None


def native_error(body):
    return body["detail"] if body["error"]["message"] == body["detail"] else None


SHARED = ("/rerank", "/v1/rerank", "/reranking", "/v1/reranking")
USUAL_WORDS = frozenset({"top", "returned", "as_objects", "least"})


def shared(*paths):
    return tuple((path, "native") for path in paths)


def own(name, *paths):
    return tuple((path, name) for path in paths)


ALL = [
    Dialect("native", shared(*SHARED), one, lambda a: [(0, a["score"], None)], native_error, ordered=False, words=frozenset({"raw"})),
    Dialect(
        "native batch", shared("/rerank/batch", *SHARED), batch, items("results", "score"), native_error,
        ordered=False, words=frozenset({"raw"}),
    ),
    Dialect("common", shared(*SHARED), usual, items("results", "relevance_score"), native_error, words=USUAL_WORDS | {"raw"}),
    Dialect(
        "tei", own("tei", "/tei/rerank") + shared("/rerank"), tei, items("", "score", "text"),
        lambda e: e["error"] if e["error_type"] else None, words=frozenset({"top", "returned", "raw", "least"}), strings=True,
    ),
    Dialect(
        "cohere v1", own("cohere v1", "/cohere/v1/rerank"), usual, items("results", "relevance_score"),
        lambda e: e["message"], way="v1", words=USUAL_WORDS,
    ),
    Dialect(
        "cohere v2", own("cohere v2", "/v2/rerank", "/cohere/v2/rerank"), usual, items("results", "relevance_score"),
        lambda e: e["message"], way="v2", words=frozenset({"top", "as_objects", "spans"}),
    ),
    Dialect(
        "jina", own("jina", "/jina/v1/rerank"), usual, items("results", "relevance_score"), lambda e: e["detail"], words=USUAL_WORDS,
    ),
    Dialect(
        "vllm rerank", own("vllm rerank", "/vllm/rerank", "/vllm/v1/rerank", "/vllm/v2/rerank"), usual,
        items("results", "relevance_score"), openai, words=frozenset({"top", "as_objects"}), always_returns=True,
    ),
    Dialect(
        "vllm score", own("vllm score", "/score", "/v1/score", "/vllm/score", "/vllm/v1/score") + shared("/rerank"), score,
        items("data", "score"), openai, ordered=False, words=frozenset({"raw"}),
    ),
    Dialect(
        "infinity", own("infinity", "/infinity/rerank"), usual, items("results", "relevance_score"), openai,
        words=USUAL_WORDS - {"as_objects"} | {"raw"}, strings=True,
    ),
    Dialect(
        "llama.cpp", own("llama.cpp", "/llamacpp/rerank", "/llamacpp/reranking", "/llamacpp/v1/rerank", "/llamacpp/v1/reranking"), usual,
        items("results", "relevance_score"), openai, words=frozenset({"top", "returned", "as_objects"}), always_raw=True,
    ),
    Dialect(
        "voyage", own("voyage", "/voyage/rerank", "/voyage/v1/rerank"), voyage, items("data", "relevance_score"),
        lambda e: e["detail"], words=frozenset({"top", "returned"}), strings=True,
    ),
    Dialect(
        "mixedbread", own("mixedbread", "/mixedbread/reranking", "/mixedbread/v1/reranking") + shared("/v1/reranking"), mixedbread,
        items("data", "score", "input"), lambda e: e["message"], words=USUAL_WORDS, strings=True,
    ),
    # Where its header is missing because the request is broken, the path tells whose it is: so only its own is told by `own`.
    Dialect(
        "pinecone", own("pinecone", "/pinecone/rerank") + shared("/rerank"), pinecone, items("data", "score"),
        lambda e: e["error"]["message"], headers={"X-Pinecone-Api-Version": "2025-10"}, words=frozenset({"top", "returned", "least"}),
    ),
    Dialect(
        "bedrock", own("bedrock", "/bedrock/rerank") + shared("/rerank"), bedrock, items("results", "relevanceScore"),
        lambda e: e["message"], words=frozenset({"top"}),
    ),
    Dialect(
        "azure", own("azure", "/inference/semanticReranking", "/azure/inference/semanticReranking"), azure, items("scores", "score"),
        lambda e: e["error"]["message"], words=frozenset({"top", "returned", "spans"}), strings=True,
    ),
]
BY_NAME = {dialect.name: dialect for dialect in ALL}
