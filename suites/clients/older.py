"""The clients that need an older package than others do: Cohere's at version 5, httpx before 0.28."""

from infinity_client import AuthenticatedClient, Client
from infinity_client.api.default import rerank as infinity_rerank
from infinity_client.models import HTTPValidationError, RerankInput
from langchain_cohere import CohereRerank as LangChainCohereRerank
from langchain_community.document_compressors.infinity_rerank import InfinityRerank
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank as LlamaIndexCohereRerank

from checks import MODEL, client, main


def langchain_rank(ranker, query, documents):
    documents = [Document(text, metadata={"index": index}) for index, text in enumerate(documents)]
    ranked = ranker.compress_documents(documents, query)
    return [(document.metadata["index"], document.metadata["relevance_score"], document.page_content) for document in ranked]


@client("langchain-cohere", "CohereRerank", refuses="UnprocessableEntityError", unauthorized="UnauthorizedError")
def langchain_cohere(url, key, query, documents, top_n):
    return langchain_rank(LangChainCohereRerank(base_url=url, cohere_api_key=key, model=MODEL, top_n=top_n), query, documents)


@client(
    "llama-index-postprocessor-cohere-rerank", "CohereRerank", refuses="UnprocessableEntityError", unauthorized="UnauthorizedError"
)
def llama_index_cohere(url, key, query, documents, top_n):
    ranker = LlamaIndexCohereRerank(base_url=url, api_key=key, model=MODEL, top_n=top_n, max_retries=1)
    nodes = [NodeWithScore(node=TextNode(id_=str(index), text=text)) for index, text in enumerate(documents)]
    ranked = ranker.postprocess_nodes(nodes, query_str=query)
    return [(int(node.node.node_id), node.score, node.text) for node in ranked]


class Refused(Exception):
    """The package returns a 422 as a value instead of raising it."""


@client("infinity-client", "api.default.rerank", refuses="Refused", unauthorized="UnexpectedStatus")
def infinity(url, key, query, documents, top_n):
    infinity = AuthenticatedClient(base_url=f"{url}/infinity", token=key, raise_on_unexpected_status=True)
    body = RerankInput(query=query, documents=documents, model=MODEL, top_n=top_n, return_documents=True)
    answer = infinity_rerank.sync(client=infinity, body=body)
    if isinstance(answer, HTTPValidationError):
        raise Refused(answer["error"]["message"])
    assert answer.model and answer.id and answer.created
    assert answer.object_.value == "rerank"
    assert answer.usage.total_tokens >= answer.usage.prompt_tokens > 0
    return [(result.index, result.relevance_score, result.document) for result in answer.results]


# It takes a client without a key only, and an error that it has been returned for the results.
@client("langchain-community", "InfinityRerank", refuses="KeyError", unauthorized="UnexpectedStatus", silent=True)
def langchain_infinity(url, key, query, documents, top_n):
    infinity = Client(base_url=f"{url}/infinity", headers={"Authorization": f"Bearer {key}"}, raise_on_unexpected_status=True)
    return langchain_rank(InfinityRerank(client=infinity, model=MODEL, top_n=top_n), query, documents)


if __name__ == "__main__":
    main()
