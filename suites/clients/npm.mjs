// The clients from npm, put through what checks.py does to Python's. drive.py gives the same SETUP and RESULTS.

import { appendFileSync, readFileSync, statSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

import { createAmazonBedrock } from "@ai-sdk/amazon-bedrock";
import { createCohere } from "@ai-sdk/cohere";
import { createVoyage } from "@ai-sdk/voyage";
import { BedrockAgentRuntimeClient, RerankCommand } from "@aws-sdk/client-bedrock-agent-runtime";
import { Mixedbread } from "@mixedbread/sdk";
import { Pinecone } from "@pinecone-database/pinecone";
import { rerank } from "ai";
import { CohereClient, CohereClientV2 } from "cohere-ai";
import { VoyageAIClient } from "voyageai";

import assert from "node:assert/strict";

const SETUP = JSON.parse(readFileSync(process.env.SETUP));
const MODEL = "any-name";
const MODEL_ARN = `arn:aws:bedrock:us-east-1::foundation-model/${MODEL}`;
const TOP_N = 2;
const TOLERANCE = 1e-6;

// Each ranks documents by calling its package the way its users do, and gives [{index, score, text}]. `refuses` and `unauthorized`
// are the names of the errors that it throws; `silent` says that it does not show the server's message to its caller.
const clients = [
  {
    package: "cohere-ai",
    called: "CohereClient.rerank",
    refuses: "UnprocessableEntityError",
    unauthorized: "UnauthorizedError",
    async rank(url, key, query, documents, topN) {
      const cohere = new CohereClient({ token: key, environment: url });
      const answer = await cohere.rerank({ model: MODEL, query, documents, topN, returnDocuments: true }, { maxRetries: 0 });
      assert.ok(answer.id);
      assert.equal(answer.meta.apiVersion.version, "1");
      assert.equal(answer.meta.billedUnits.searchUnits, 1);
      return answer.results.map(({ index, relevanceScore, document }) => ({ index, score: relevanceScore, text: document.text }));
    },
  },
  {
    package: "cohere-ai",
    called: "CohereClientV2.rerank",
    refuses: "UnprocessableEntityError",
    unauthorized: "UnauthorizedError",
    async rank(url, key, query, documents, topN) {
      const cohere = new CohereClientV2({ token: key, environment: url });
      const answer = await cohere.rerank({ model: MODEL, query, documents, topN, maxTokensPerDoc: 400 }, { maxRetries: 0 });
      assert.ok(answer.id);
      assert.equal(answer.meta.apiVersion.version, "2");
      assert.equal(answer.meta.billedUnits.searchUnits, 1);
      return answer.results.map(({ index, relevanceScore }) => ({ index, score: relevanceScore }));
    },
  },
  {
    package: "@ai-sdk/cohere",
    called: "rerank of `ai`",
    refuses: "AI_APICallError",
    unauthorized: "AI_APICallError",
    async rank(url, key, query, documents, topN) {
      const model = createCohere({ baseURL: `${url}/v2`, apiKey: key }).reranking(MODEL);
      const answer = await rerank({ model, query, documents, topN, maxRetries: 0 });
      assert.ok(answer.response.id);
      return answer.ranking.map(({ originalIndex, score, document }) => ({ index: originalIndex, score, text: document }));
    },
  },
  {
    package: "@ai-sdk/voyage",
    called: "rerank of `ai`",
    refuses: "AI_APICallError",
    unauthorized: "AI_APICallError",
    async rank(url, key, query, documents, topN) {
      const model = createVoyage({ baseURL: `${url}/voyage/v1`, apiKey: key }).reranking(MODEL);
      const answer = await rerank({ model, query, documents, topN, maxRetries: 0 });
      return answer.ranking.map(({ originalIndex, score, document }) => ({ index: originalIndex, score, text: document }));
    },
  },
  {
    package: "@ai-sdk/amazon-bedrock",
    called: "rerank of `ai`, signed",
    refuses: "AI_APICallError",
    unauthorized: "AI_APICallError",
    async rank(url, key, query, documents, topN) {
      const signed = { region: "us-east-1", baseURL: url, accessKeyId: "anyone", secretAccessKey: key };
      const answer = await rerank({ model: createAmazonBedrock(signed).reranking(MODEL), query, documents, topN, maxRetries: 0 });
      return answer.ranking.map(({ originalIndex, score, document }) => ({ index: originalIndex, score, text: document }));
    },
  },
  {
    package: "@ai-sdk/amazon-bedrock",
    called: "rerank of `ai`, bearer token",
    refuses: "AI_APICallError",
    unauthorized: "AI_APICallError",
    async rank(url, key, query, documents, topN) {
      const model = createAmazonBedrock({ region: "us-east-1", baseURL: `${url}/bedrock`, apiKey: key }).reranking(MODEL);
      const answer = await rerank({ model, query, documents, topN, maxRetries: 0 });
      return answer.ranking.map(({ originalIndex, score, document }) => ({ index: originalIndex, score, text: document }));
    },
  },
  {
    package: "@aws-sdk/client-bedrock-agent-runtime",
    called: "RerankCommand, signed",
    refuses: "ValidationException",
    unauthorized: "AccessDeniedException",
    rank: (url, key, ...request) =>
      bedrockRank({ endpoint: url, credentials: { accessKeyId: "anyone", secretAccessKey: key } }, ...request),
  },
  {
    package: "voyageai",
    called: "VoyageAIClient.rerank",
    refuses: "VoyageAIError",
    unauthorized: "VoyageAIError",
    async rank(url, key, query, documents, topN) {
      const voyage = new VoyageAIClient({ apiKey: key, environment: `${url}/voyage/v1` });
      const request = { model: MODEL, query, documents, topK: topN, returnDocuments: true };
      const answer = await voyage.rerank(request, { maxRetries: 0 });
      assert.ok(answer.model);
      assert.ok(answer.usage.totalTokens > 0);
      return answer.data.map(({ index, relevanceScore, document }) => ({ index, score: relevanceScore, text: document }));
    },
  },
  {
    package: "@mixedbread/sdk",
    called: "Mixedbread.rerank",
    refuses: "UnprocessableEntityError",
    unauthorized: "AuthenticationError",
    async rank(url, key, query, documents, topN) {
      const mixedbread = new Mixedbread({ apiKey: key, baseURL: url, maxRetries: 0 });
      const answer = await mixedbread.rerank({ model: MODEL, query, input: documents, top_k: topN, return_input: true });
      assert.ok(answer.model);
      assert.ok(answer.usage.total_tokens > 0);
      return answer.data.map(({ index, score, input }) => ({ index, score, text: input }));
    },
  },
  {
    package: "@pinecone-database/pinecone",
    called: "inference.rerank",
    refuses: "PineconeUnprocessableEntityError",
    unauthorized: "PineconeAuthorizationError",
    async rank(url, key, query, documents, topN) {
      const pinecone = new Pinecone({ apiKey: key, controllerHostUrl: url });
      const answer = await pinecone.inference.rerank({ model: MODEL, query, documents, topN });
      assert.ok(answer.model);
      assert.equal(answer.usage.rerankUnits, 1);
      return answer.data.map(({ index, score, document }) => ({ index, score, text: document.text }));
    },
  },
];

async function bedrockRank(options, query, documents, topN) {
  const runtime = new BedrockAgentRuntimeClient({ region: "us-east-1", maxAttempts: 1, ...options });
  const answer = await runtime.send(
    new RerankCommand({
      queries: [{ type: "TEXT", textQuery: { text: query } }],
      sources: documents.map((text) => ({ type: "INLINE", inlineDocumentSource: { type: "TEXT", textDocument: { text } } })),
      rerankingConfiguration: {
        type: "BEDROCK_RERANKING_MODEL",
        bedrockRerankingConfiguration: { numberOfResults: topN, modelConfiguration: { modelArn: MODEL_ARN } },
      },
    }),
  );
  return answer.results.map(({ index, relevanceScore }) => ({ index, score: relevanceScore }));
}

async function requestsSince(offset) {
  const end = Date.now() + 5000;
  for (;;) {
    const lines = readFileSync(SETUP.log).subarray(offset).toString().split("\n").slice(0, -1);
    const requests = lines.map((line) => JSON.parse(line)).filter((entry) => entry.message === "request");
    if (requests.length > 0 || Date.now() > end) return requests;
    await sleep(10);
  }
}

function checkSuccess(outcome, status) {
  if (outcome instanceof Error) throw outcome;
  assert.equal(status, 200);
  const best = SETUP.scores.map((_, index) => index).sort((a, b) => SETUP.scores[b] - SETUP.scores[a]).slice(0, TOP_N);
  assert.deepEqual(outcome.map(({ index }) => index), best);
  for (const { index, score, text } of outcome) {
    assert.ok(Math.abs(score - SETUP.scores[index]) < TOLERANCE, `${score} for document ${index}, whose score is ${SETUP.scores[index]}`);
    if (text !== undefined) assert.equal(text, SETUP.documents[index]);
  }
}

function checkThrown(outcome, status, expectedStatus, name, message) {
  assert.equal(status, expectedStatus);
  assert.ok(outcome instanceof Error, `no error but ${JSON.stringify(outcome)}`);
  const names = [outcome.name, outcome.constructor.name];
  assert.ok(names.includes(name), `${names} instead of ${name}: ${outcome.message}`);
  if (message !== undefined) assert.ok(outcome.message.includes(message), `no '${message}' in '${outcome.message}'`);
}

/** What a client is given behind the server's address, as the function that calls it has it. */
const base = (rank) => /\$\{url\}(\/[^`]*)`/.exec(rank.toString())?.[1] ?? "";

async function check({ package: name, called, refuses, unauthorized, silent = false, rank }) {
  const { version } = JSON.parse(readFileSync(`node_modules/${name}/package.json`));
  const result = { registry: "npm", package: name, version, called, base: base(rank), route: null, silent, keyless: false, failures: {} };
  const passed = async (part, key, documents, judge) => {
    try {
      const offset = statSync(SETUP.log).size;
      const outcome = await rank(SETUP.url, key, SETUP.query, documents, TOP_N).catch((error) => error);
      const requests = await requestsSince(offset);
      const seen = JSON.stringify(requests.map(({ route, status }) => [route, status]));
      assert.equal(requests.length, 1, `the server saw ${seen}: ${outcome.stack}`);
      const [{ route, status }] = requests;
      if (part === "success") result.route = route;
      assert.equal(route, result.route);
      judge(outcome, status);
    } catch (error) {
      result.failures[part] = error.stack;
    }
    result[part] = !(part in result.failures);
  };
  const tooLong = [...SETUP.documents.slice(0, 2), "x".repeat(SETUP.limit + 1)];
  const limitNamed = silent ? undefined : `limit is ${SETUP.limit}`;
  await passed("success", SETUP.key, SETUP.documents, checkSuccess);
  await passed("error", SETUP.key, tooLong, (...seen) => checkThrown(...seen, 422, refuses, limitNamed));
  await passed("auth", "not-the-key", SETUP.documents, (...seen) => checkThrown(...seen, 401, unauthorized));
  appendFileSync(process.env.RESULTS, JSON.stringify(result) + "\n");
}

for (const client of clients) await check(client);
