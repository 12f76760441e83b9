"""The clients that can be installed together at their newest versions."""

import json
import os
from types import SimpleNamespace

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import azure.core.pipeline.policies._authentication
import boto3
import botocore.config
import cohere
import litellm
import mixedbread
import pinecone
import voyageai
from azure.core.credentials import AccessToken
from azure.cosmos._inference_service import _InferenceService
from azure.cosmos.documents import ConnectionPolicy
from haystack import Document as HaystackDocument
from haystack.utils import Secret
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
from haystack_integrations.components.rankers.jina import JinaRanker
from langchain_aws.document_compressors.rerank import BedrockRerank
from langchain_core.documents import Document as LangChainDocument
from langchain_voyageai import VoyageAIRerank
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference
from llama_index.postprocessor.xinference_rerank import XinferenceRerank
from rerankers.models.api_rankers import APIRanker

from checks import MODEL, client, main

MODEL_ARN = f"arn:aws:bedrock:us-east-1::foundation-model/{MODEL}"


# Cohere's own package.


@client("cohere", "Client.rerank", refuses="UnprocessableEntityError", unauthorized="UnauthorizedError")
def cohere_v1(url, key, query, documents, top_n):
    answer = cohere.Client(key, base_url=url).rerank(
        model=MODEL, query=query, documents=documents, top_n=top_n, return_documents=True
    )
    assert answer.id
    assert answer.meta.api_version.version == "1"
    assert answer.meta.billed_units.search_units == 1
    assert answer.meta.tokens.input_tokens > 0
    return [(result.index, result.relevance_score, result.document.text) for result in answer.results]


@client("cohere", "Client.rerank, documents with fields", refuses="UnprocessableEntityError", unauthorized="UnauthorizedError")
def cohere_v1_fields(url, key, query, documents, top_n):
    answer = cohere.Client(key, base_url=url).rerank(
        model=MODEL,
        query=query,
        documents=[{"id": str(index), "body": text} for index, text in enumerate(documents)],
        rank_fields=["body"],
        top_n=top_n,
    )
    assert all(result.document is None for result in answer.results)
    return [(result.index, result.relevance_score, None) for result in answer.results]


@client("cohere", "ClientV2.rerank", refuses="UnprocessableEntityError", unauthorized="UnauthorizedError")
def cohere_v2(url, key, query, documents, top_n):
    answer = cohere.ClientV2(key, base_url=url).rerank(
        model=MODEL, query=query, documents=documents, top_n=top_n, max_tokens_per_doc=400, priority=1
    )
    assert answer.id
    assert answer.meta.api_version.version == "2"
    assert answer.meta.billed_units.search_units == 1
    return [(result.index, result.relevance_score, None) for result in answer.results]


@client("cohere", "ClientV2.rerank, relevant spans", refuses="UnprocessableEntityError", unauthorized="UnauthorizedError")
def cohere_v2_spans(url, key, query, documents, top_n):
    answer = cohere.ClientV2(key, base_url=url).rerank(
        model=MODEL,
        query=query,
        documents=documents,
        top_n=top_n,
        relevant_spans=cohere.RerankRelevantSpans(mode="enabled", threshold=0.1, max_spans=2),
    )
    for span in answer.results[0].relevant_spans:
        assert 0 <= span.start < span.end <= len(documents[answer.results[0].index])
        assert 0.1 <= span.score <= 1
    return [(result.index, result.relevance_score, None) for result in answer.results]


# LlamaIndex.


def nodes_of(documents):
    return [NodeWithScore(node=TextNode(id_=str(index), text=text)) for index, text in enumerate(documents)]


def ranked_nodes(nodes):
    return [(int(node.node.node_id), node.score, node.text) for node in nodes]


# It takes any answer for a list of scores, and counts them.
@client(
    "llama-index-postprocessor-tei-rerank", "TextEmbeddingInference", refuses="AssertionError", unauthorized="AssertionError", silent=True
)
def llama_index_tei(url, key, query, documents, top_n):
    ranker = TextEmbeddingInference(base_url=url, auth_token=key, top_n=top_n)
    return ranked_nodes(ranker.postprocess_nodes(nodes_of(documents), query_str=query))


@client("llama-index-postprocessor-jinaai-rerank", "JinaRerank", refuses="RuntimeError", unauthorized="RuntimeError")
def llama_index_jina(url, key, query, documents, top_n):
    ranker = JinaRerank(base_url=f"{url}/v1", api_key=key, model=MODEL, top_n=top_n)
    return ranked_nodes(ranker.postprocess_nodes(nodes_of(documents), query_str=query))


@client("llama-index-postprocessor-xinference-rerank", "XinferenceRerank", refuses="Exception", unauthorized="Exception", keyless=True)
def llama_index_xinference(url, key, query, documents, top_n):
    ranker = XinferenceRerank(base_url=url, model=MODEL, top_n=top_n)
    return ranked_nodes(ranker.postprocess_nodes(nodes_of(documents), query_str=query))


# Haystack.


def haystack_documents(documents):
    return [HaystackDocument(id=str(index), content=text) for index, text in enumerate(documents)]


def ranked_haystack(documents):
    return [(int(document.id), document.score, document.content) for document in documents]


@client("huggingface-api-haystack", "HuggingFaceTEIRanker", refuses="RuntimeError", unauthorized="RuntimeError")
def haystack_tei(url, key, query, documents, top_n):
    ranker = HuggingFaceTEIRanker(url=url, token=Secret.from_token(key), top_k=top_n, max_retries=1)
    return ranked_haystack(ranker.run(query, haystack_documents(documents))["documents"])


@client("cohere-haystack", "CohereRanker", refuses="UnprocessableEntityError", unauthorized="UnauthorizedError")
def haystack_cohere(url, key, query, documents, top_n):
    ranker = CohereRanker(model=MODEL, api_key=Secret.from_token(key), api_base_url=url, top_k=top_n)
    return ranked_haystack(ranker.run(query, haystack_documents(documents))["documents"])


@client("jina-haystack", "JinaRanker", refuses="RuntimeError", unauthorized="RuntimeError")
def haystack_jina(url, key, query, documents, top_n):
    # Without top_k it sends `top_n: null`, which is all of them.
    ranker = JinaRanker(model=MODEL, api_key=Secret.from_token(key), base_url=f"{url}/v1/rerank")
    answer = ranker.run(query, haystack_documents(documents))
    assert len(answer["documents"]) == len(documents)
    assert answer["meta"]["model"]
    assert answer["meta"]["usage"]["total_tokens"] > 0
    return ranked_haystack(answer["documents"])[:top_n]


# LiteLLM, a provider each. It asks for documents back wherever the provider can.

litellm.suppress_debug_info = True


def litellm_rank(provider, base, key, query, documents, top_n, **options):
    answer = litellm.rerank(
        model=f"{provider}/{MODEL}", query=query, documents=documents, top_n=top_n, api_base=base, api_key=key, num_retries=0, **options
    )
    assert answer.id
    ranked = [(result["index"], result["relevance_score"], result.get("document", {}).get("text")) for result in answer.results]
    return answer.meta, ranked


@client("litellm", "rerank cohere/", refuses="BadRequestError", unauthorized="AuthenticationError")
def litellm_cohere(url, key, query, documents, top_n):
    meta, ranked = litellm_rank("cohere", url, key, query, documents, top_n, max_tokens_per_doc=400)
    assert meta["billed_units"]["search_units"] == 1
    return ranked


@client("litellm", "rerank cohere/, base ending in /v1/rerank", refuses="BadRequestError", unauthorized="AuthenticationError")
def litellm_cohere_v1(url, key, query, documents, top_n):
    meta, ranked = litellm_rank("cohere", f"{url}/v1/rerank", key, query, documents, top_n, max_chunks_per_doc=3)
    assert meta["billed_units"]["search_units"] == 1
    assert meta["tokens"]["input_tokens"] > 0
    assert all(text for _, _, text in ranked)
    return ranked


@client("litellm", "rerank huggingface/", refuses="APIError", unauthorized="AuthenticationError")
def litellm_huggingface(url, key, query, documents, top_n):
    _, ranked = litellm_rank("huggingface", url, key, query, documents, top_n)
    assert all(text for _, _, text in ranked)
    return ranked


# It replaces the whole path of its base by /v1/rerank.
@client("litellm", "rerank jina_ai/", refuses="BadRequestError", unauthorized="AuthenticationError")
def litellm_jina(url, key, query, documents, top_n):
    meta, ranked = litellm_rank("jina_ai", url, key, query, documents, top_n)
    assert meta["billed_units"]["total_tokens"] > 0
    assert all(text for _, _, text in ranked)
    return ranked


@client("litellm", "rerank hosted_vllm/", refuses="BadRequestError", unauthorized="AuthenticationError")
def litellm_vllm(url, key, query, documents, top_n):
    meta, ranked = litellm_rank("hosted_vllm", f"{url}/vllm/v1/rerank", key, query, documents, top_n)
    assert meta["tokens"]["input_tokens"] > 0
    assert all(text for _, _, text in ranked)
    return ranked


@client("litellm", "rerank infinity/", refuses="BadRequestError", unauthorized="AuthenticationError")
def litellm_infinity(url, key, query, documents, top_n):
    meta, ranked = litellm_rank("infinity", f"{url}/infinity", key, query, documents, top_n)
    assert meta["tokens"]["input_tokens"] > 0
    assert all(text for _, _, text in ranked)
    return ranked


@client("litellm", "rerank voyage/", refuses="BadRequestError", unauthorized="AuthenticationError")
def litellm_voyage(url, key, query, documents, top_n):
    meta, ranked = litellm_rank("voyage", f"{url}/voyage/v1", key, query, documents, top_n)
    assert meta["billed_units"]["total_tokens"] > 0
    assert all(text for _, _, text in ranked)
    return ranked


# Voyage.


@client("voyageai", "Client.rerank", refuses="MalformedRequestError", unauthorized="AuthenticationError")
def voyage(url, key, query, documents, top_n):
    answer = voyageai.Client(key, base_url=f"{url}/voyage/v1").rerank(query, documents, MODEL, top_k=top_n)
    assert answer.total_tokens > 0
    return [(result.index, result.relevance_score, result.document) for result in answer.results]


@client("langchain-voyageai", "VoyageAIRerank", refuses="MalformedRequestError", unauthorized="AuthenticationError")
def langchain_voyage(url, key, query, documents, top_n):
    # Without top_k it sends `top_k: null`, which is all of them.
    ranker = VoyageAIRerank(model=MODEL, api_key=key, base_url=f"{url}/voyage/v1")
    ranked = ranked_langchain(ranker.compress_documents(langchain_documents(documents), query))
    assert len(ranked) == len(documents)
    return ranked[:top_n]


def langchain_documents(documents):
    return [LangChainDocument(text, metadata={"index": index}) for index, text in enumerate(documents)]


def ranked_langchain(documents):
    return [(document.metadata["index"], document.metadata["relevance_score"], document.page_content) for document in documents]


# Bedrock. Anything may stand for the access key's id; the secret is the server's key. AWS's own packages have no bearer token for
# this service: its model knows signatures only. The AI SDK has one, see npm.mjs.


def bedrock(url, service="bedrock-agent-runtime", **credentials):
    config = botocore.config.Config(retries={"total_max_attempts": 1})
    return boto3.client(service, endpoint_url=url, region_name="us-east-1", config=config, **credentials)


def bedrock_rank(runtime, query, documents, top_n):
    answer = runtime.rerank(
        queries=[{"type": "TEXT", "textQuery": {"text": query}}],
        sources=[
            {"type": "INLINE", "inlineDocumentSource": {"type": "TEXT", "textDocument": {"text": text}}} for text in documents
        ],
        rerankingConfiguration={
            "type": "BEDROCK_RERANKING_MODEL",
            "bedrockRerankingConfiguration": {"numberOfResults": top_n, "modelConfiguration": {"modelArn": MODEL_ARN}},
        },
    )
    return [(result["index"], result["relevanceScore"], None) for result in answer["results"]]


@client("boto3", "bedrock-agent-runtime rerank, signed", refuses="ValidationException", unauthorized="AccessDeniedException")
def bedrock_signed(url, key, query, documents, top_n):
    return bedrock_rank(bedrock(url, aws_access_key_id="anyone", aws_secret_access_key=key), query, documents, top_n)


@client("boto3", "bedrock-agent-runtime rerank, signed with session token", refuses="ValidationException", unauthorized="AccessDeniedException")
def bedrock_signed_session(url, key, query, documents, top_n):
    runtime = bedrock(url, aws_access_key_id="anyone", aws_secret_access_key=key, aws_session_token="any/session+token==")
    return bedrock_rank(runtime, query, documents, top_n)


@client("boto3", "bedrock-runtime invoke_model, signed", refuses="ValidationException", unauthorized="AccessDeniedException")
def bedrock_invoke(url, key, query, documents, top_n):
    runtime = bedrock(url, "bedrock-runtime", aws_access_key_id="anyone", aws_secret_access_key=key)
    body = {"query": query, "documents": documents, "top_n": top_n, "api_version": 2}
    answer = runtime.invoke_model(modelId="cohere.rerank-v3-5:0", body=json.dumps(body))
    results = json.loads(answer["body"].read())["results"]
    return [(result["index"], result["relevance_score"], None) for result in results]


@client("langchain-aws", "BedrockRerank", refuses="ValidationException", unauthorized="AccessDeniedException")
def langchain_bedrock(url, key, query, documents, top_n):
    runtime = bedrock(f"{url}/bedrock", aws_access_key_id="anyone", aws_secret_access_key=key)
    ranker = BedrockRerank(model_arn=MODEL_ARN, client=runtime, top_n=top_n)
    return ranked_langchain(ranker.compress_documents(langchain_documents(documents), query))


# Pinecone and Mixedbread.


@client("pinecone", "inference.rerank", refuses="ApiError", unauthorized="UnauthorizedError")
def pinecone_inference(url, key, query, documents, top_n):
    answer = pinecone.Pinecone(api_key=key, host=url).inference.rerank(
        model=MODEL, query=query, documents=documents, top_n=top_n, return_documents=True, parameters={"truncate": "END"}
    )
    assert answer.model
    assert answer.usage.rerank_units == 1
    return [(result.index, result.score, result.document["text"]) for result in answer.data]


@client("pinecone", "inference.rerank, documents with fields", refuses="ApiError", unauthorized="UnauthorizedError")
def pinecone_fields(url, key, query, documents, top_n):
    answer = pinecone.Pinecone(api_key=key, host=f"{url}/pinecone").inference.rerank(
        model=MODEL,
        query=query,
        documents=[{"id": str(index), "body": text} for index, text in enumerate(documents)],
        rank_fields=["body"],
        top_n=top_n,
    )
    assert all(result.document["id"] == str(result.index) for result in answer.data)
    return [(result.index, result.score, result.document["body"]) for result in answer.data]


@client("mixedbread", "Mixedbread.rerank", refuses="UnprocessableEntityError", unauthorized="AuthenticationError")
def mixedbread_rerank(url, key, query, documents, top_n):
    answer = mixedbread.Mixedbread(api_key=key, base_url=f"{url}/mixedbread", max_retries=0).rerank(
        model=MODEL, query=query, input=documents, top_k=top_n, return_input=True
    )
    assert answer.model and answer.object == "list"
    assert answer.usage.total_tokens >= answer.usage.prompt_tokens > 0
    assert answer.top_k == top_n and answer.return_input is True
    assert all(result.object == "rank_result" for result in answer.data)
    return [(result.index, result.score, result.input) for result in answer.data]


# rerankers looks at no status: whatever comes is searched for results. It always asks for all documents.


def rerankers_rank(provider, url, key, query, documents, top_n):
    answer = APIRanker(MODEL, key, provider, verbose=0, url=url).rank(query, documents)
    assert len(answer.results) == len(documents)
    return [(result.doc_id, result.score, result.text) for result in answer.top_k(top_n)]


@client("rerankers", "APIRanker cohere", refuses="KeyError", unauthorized="KeyError", silent=True)
def rerankers_cohere(url, *arguments):
    return rerankers_rank("cohere", f"{url}/v1/rerank", *arguments)


@client("rerankers", "APIRanker jina", refuses="KeyError", unauthorized="KeyError", silent=True)
def rerankers_jina(url, *arguments):
    return rerankers_rank("jina", f"{url}/jina/v1/rerank", *arguments)


@client("rerankers", "APIRanker text-embeddings-inference", refuses="TypeError", unauthorized="TypeError", silent=True)
def rerankers_tei(url, *arguments):
    return rerankers_rank("text-embeddings-inference", f"{url}/rerank", *arguments)


@client("rerankers", "APIRanker voyage", refuses="KeyError", unauthorized="KeyError", silent=True)
def rerankers_voyage(url, *arguments):
    return rerankers_rank("voyage", f"{url}/voyage/v1/rerank", *arguments)


@client("rerankers", "APIRanker mixedbread.ai", refuses="KeyError", unauthorized="KeyError", silent=True)
def rerankers_mixedbread(url, *arguments):
    return rerankers_rank("mixedbread.ai", f"{url}/v1/reranking", *arguments)


@client("rerankers", "APIRanker pinecone", refuses="KeyError", unauthorized="KeyError", silent=True)
def rerankers_pinecone(url, *arguments):
    return rerankers_rank("pinecone", f"{url}/rerank", *arguments)


# Azure. `container.semantic_rerank` hands everything to this service, but its client wants to talk to its account first; and it
# sends tokens over TLS only, which a server on loopback does not have.

azure.core.pipeline.policies._authentication._enforce_https = lambda request: None


@client("azure-cosmos", "container.semantic_rerank", refuses="CosmosHttpResponseError", unauthorized="CosmosHttpResponseError")
def azure_cosmos(url, key, query, documents, top_n):
    os.environ["AZURE_COSMOS_SEMANTIC_RERANKER_INFERENCE_ENDPOINT"] = url
    policy = ConnectionPolicy()
    policy.ConnectionRetryConfiguration = 0
    account = SimpleNamespace(
        aad_credentials=SimpleNamespace(get_token=lambda *scopes, **options: AccessToken(key, 2**40)),
        connection_policy=policy,
        _user_agent="tests",
        _enable_diagnostics_logging=False,
    )
    answer = _InferenceService(account).rerank(query, documents, {"return_documents": True, "top_k": top_n, "batch_size": 32, "sort": True})
    assert answer["meta"]["tokenUsage"]["totalTokens"] > 0
    return [(score["index"], score["score"], score["document"]) for score in answer["scores"]]


if __name__ == "__main__":
    main()
