"use strict";

// The playground: reads the form, asks `rerank/batch`, shows the ranking, and writes the same request as code.
// Texts of users and of the server come into the page as text only, never as markup.

const $ = (id) => document.getElementById(id);
const FIELDS = ["query", "documents", "max-length", "key"];
const KEY_STORE = "serverless-reranker.key";
const PREVIEW_CHARS = 280;
const HEALTH_RETRY_MS = 2000;

// The page is served at the service's root, which behind a stage or a prefix may come without its last slash. With the origin in
// front, because a path such as "//host/" alone would name another host.
const BASE = location.origin + location.pathname.replace(/\/*$/, "/");

const decimals = (digits) => new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const SCORE = decimals(4);
const LOGIT = decimals(3);
const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
const milliseconds = (ms) => `${ms < 10 ? decimals(1).format(ms) : Math.round(ms).toLocaleString("en")} ms`;

/** An element with a class and either a text or children. */
function element(name, className, ...content) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...content);
  return made;
}

const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;

// ---- the form

function readDocuments() {
  const text = $("documents").value;
  const parts = chosen("separator") === "line" ? text.split("\n") : text.split(/\n(?:[^\S\n]*\n)+/);
  return parts.map((part) => part.trim()).filter((part) => part !== "");
}

function readForm() {
  const form = { query: $("query").value, documents: readDocuments(), options: {} };
  if ($("scores").value === "raw") form.options.normalize = false;
  // Any number goes to the server, which knows what it takes and says so.
  if ($("max-length").value !== "") form.options.max_length = Number($("max-length").value);
  return form;
}

// A key that was copied often brings a space or a line's end along.
const readKey = () => $("key").value.trim();

const pairsOf = ({ query, documents }) => documents.map((passage) => ({ query, passage }));

function showProblem(field, message) {
  $(field).setAttribute("aria-invalid", "true");
  $(`${field}-problem`).textContent = message;
}

function clearProblems() {
  $("alert").replaceChildren();
  for (const field of FIELDS) {
    $(field).removeAttribute("aria-invalid");
    $(`${field}-problem`).textContent = "";
  }
}

/** The first field that cannot be sent, and why. */
function findProblem({ query, documents }) {
  if (query.trim() === "") return ["query", "Enter a query."];
  if (documents.length === 0) return ["documents", "Enter at least one document."];
  if ($("max-length").validity.badInput) return ["max-length", "Enter a whole number, or nothing."];
  if (/[^\x21-\x7e]/.test(readKey())) return ["key", "A key has no spaces, and no letters but English ones."];
  return null;
}

// ---- asking

/** What went wrong, in the server's words where it sent any. */
class Refused extends Error {
  constructor(message, { status = 0, field = "", retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, field, retryAfter });
  }
}

async function ask({ query, documents, options }, key, signal) {
  const headers = { "content-type": "application/json" };
  if (key !== "") headers.authorization = `Bearer ${key}`;
  const body = JSON.stringify({ pairs: pairsOf({ query, documents }), ...options });
  const began = performance.now();
  const response = await fetch(`${BASE}rerank/batch`, { method: "POST", headers, body, signal });
  const text = await response.text();
  const roundTrip = performance.now() - began;
  let answer = null;
  try {
    answer = JSON.parse(text);
  } catch {
    // Something in front of the service may answer in its own words; the status says enough.
  }
  if (!response.ok) {
    const said = answer?.error?.message ?? answer?.detail ?? answer?.message;
    throw new Refused(typeof said === "string" ? said : `The server answered ${response.status} ${response.statusText}`.trim(), {
      status: response.status,
      field: String(answer?.error?.field ?? ""),
      retryAfter: response.headers.get("retry-after"),
    });
  }
  if (answer?.results?.length !== documents.length) throw new Refused("The server's answer is not a ranking of these documents.");
  return { answer, roundTrip, phases: phasesOf(response.headers.get("server-timing") ?? "") };
}

/** Names and durations of a Server-Timing header. */
function phasesOf(header) {
  return header
    .replace(/"(?:[^"\\]|\\.)*"/g, "")
    .split(",")
    .map((metric) => [metric.split(";")[0].trim(), Number(/;\s*dur=([\d.]+)/i.exec(metric)?.[1] ?? NaN)])
    .filter(([name, ms]) => name !== "" && Number.isFinite(ms));
}

let running = null;

async function rank() {
  running?.abort();
  clearProblems();
  const form = readForm();
  const problem = findProblem(form);
  if (problem) {
    finish("");
    showProblem(...problem);
    showAlert(problem[1]);
    $(problem[0]).focus();
    return;
  }
  const request = new AbortController();
  running = request;
  $("cancel").hidden = false;
  $("ranking").setAttribute("aria-busy", "true");
  $("summary").textContent = `Ranking ${count(form.documents.length, "document")} …`;
  try {
    const answered = await ask(form, readKey(), request.signal);
    if (running === request) finish(showRanking(form, answered));
  } catch (error) {
    if (running !== request) return;
    finish("");
    if (!(error instanceof Refused)) {
      console.warn(error);
      error = new Refused("The server cannot be reached, or broke off. Is it running?");
    }
    showRefusal(error);
  }
}

function cancel() {
  running?.abort();
  finish("Cancelled.");
}

/** Back to rest, whatever ended the request; a focus on the button that goes away must not be lost. */
function finish(summary) {
  running = null;
  if (document.activeElement === $("cancel")) $("rank").focus();
  $("cancel").hidden = true;
  $("ranking").removeAttribute("aria-busy");
  $("summary").textContent = summary;
}

// ---- showing

function showAlert(...content) {
  clearRanking();
  $("alert").replaceChildren(...content);
}

function showRefusal({ message, status, field, retryAfter }) {
  const said = [message];
  const place = /^pairs\[(\d+)\]\.passage$/.exec(field);
  if (place) said.push(` (document ${Number(place[1]) + 1})`);
  if (retryAfter) said.push(` · Try again in ${retryAfter} s.`);
  if (status === 401) {
    showProblem("key", readKey() === "" ? "The server wants a key." : "The server wants a key, and not this one.");
    const toKey = element("button", "quiet", "Enter an API key");
    toKey.type = "button";
    toKey.addEventListener("click", () => $("key").focus());
    said.push(element("br"), toKey);
  } else if (field === "max_length") {
    showProblem("max-length", message);
  } else if (field.endsWith(".query")) {
    showProblem("query", message);
  } else if (field.startsWith("pairs")) {
    showProblem("documents", message);
  }
  showAlert(...said);
}

function clearRanking() {
  $("facts").hidden = true;
  $("results").replaceChildren();
}

/** Shows the answer, and returns it in a sentence. */
function showRanking({ documents }, { answer, roundTrip, phases }) {
  const ranked = [...answer.results].sort((a, b) => b.logit - a.logit || a.index - b.index);
  const scale = scaleOf(ranked.map(({ score }) => score), answer.normalized);
  $("results").replaceChildren(...ranked.map((result) => resultItem(result, documents[result.index], scale)));
  const tokens = ranked.reduce((sum, result) => sum + result.tokens, 0);
  showFacts([
    ["Round trip", milliseconds(roundTrip)],
    ["In the server", milliseconds(answer.ms)],
    ["Tokens", tokens.toLocaleString("en")],
    ...phases.map(([name, ms]) => [name, milliseconds(ms)]),
  ]);
  const [best] = ranked;
  const cut = ranked.filter(({ truncated }) => truncated).length;
  return (
    `${count(documents.length, "document")} ranked in ${milliseconds(roundTrip)}. ` +
    `Best: document ${best.index + 1}, ${answer.normalized ? "score" : "logit"} ${SCORE.format(best.score)}.` +
    (cut > 0 ? ` ${count(cut, "document")} did not fit and ${cut === 1 ? "was" : "were"} cut.` : "")
  );
}

function showFacts(facts) {
  $("facts").replaceChildren(...facts.map(([name, value]) => element("div", "", element("dt", "", name), element("dd", "", value))));
  $("facts").hidden = false;
}

/** Where a score's bar begins and how long it is, in hundredths. Bars start at zero, so raw scores below it point to the left. */
function scaleOf(scores, normalized) {
  const low = Math.min(0, ...scores);
  const high = normalized ? 1 : Math.max(0, ...scores);
  const whole = high - low || 1;
  return (score) => ({ start: ((Math.min(0, score) - low) / whole) * 100, length: (Math.abs(score) / whole) * 100 });
}

function resultItem({ index, score, logit, tokens, truncated, dropped_tokens: dropped }, text, scale) {
  const fill = element("div", score < 0 ? "below-zero" : "");
  const { start, length } = scale(score);
  fill.style.left = `${start}%`;
  fill.style.width = `${length}%`;
  const bar = element("div", "bar", fill);
  bar.setAttribute("aria-hidden", "true");

  const about = element("p", "about", element("span", "", `document ${index + 1}`), element("span", "", `logit ${LOGIT.format(logit)}`));
  about.append(element("span", "", count(tokens, "token")));
  if (truncated) about.append(element("span", "cut", dropped > 0 ? `truncated, ${count(dropped, "token")} dropped` : "truncated"));

  const characters = [...text];
  const long = characters.length > PREVIEW_CHARS;
  const item = element("li", "", element("p", "text", long ? `${characters.slice(0, PREVIEW_CHARS).join("")}…` : text));
  item.append(element("p", "score", SCORE.format(score)), bar, about);
  if (long) {
    const summary = element("summary", "", `All ${count(characters.length, "character")} of document ${index + 1}`);
    item.append(element("details", "", summary, element("p", "text", text)));
  }
  return item;
}

// ---- the same request as code

/** A string literal that JSON, Python and JavaScript all read alike. What would not be seen on the screen is written as an escape. */
function literal(text) {
  const escape = (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(text).replace(/[\u007f-\u009f\u2028\u2029\p{Cf}]/gu, (found) => found.split("").map(escape).join(""));
}

const shellQuoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

const list = (documents) => documents.map((document) => `    ${literal(document)},\n`).join("");
const pythonValue = (value) => (value === false ? "False" : JSON.stringify(value));
const pythonTexts = ({ query, documents }) => `query = ${literal(query)}\ndocuments = [\n${list(documents)}]\n`;

const SNIPPETS = {
  // The body stands in a quoted here-document: the shell takes it as it is, at any length. No line of it can be its last one,
  // because JSON keeps every text within quotes.
  curl({ query, documents, options }, withKey) {
    const rest = Object.entries(options).map(([name, value]) => `,\n ${literal(name)}: ${JSON.stringify(value)}`);
    const texts = documents.map((document) => `  ${literal(document)}`).join(",\n");
    return (
      `curl -sS ${shellQuoted(`${BASE}rerank`)} -H 'content-type: application/json' \\\n` +
      (withKey ? `  -H "authorization: Bearer $API_KEY" \\\n` : "") +
      `  --data-binary @- <<'JSON'\n{"query": ${literal(query)},\n "documents": [\n${texts}],\n "top_n": ${documents.length}${rest.join("")}}\nJSON\n`
    );
  },

  python({ query, documents, options }, withKey) {
    const rest = Object.entries(options).map(([name, value]) => `, ${literal(name)}: ${pythonValue(value)}`);
    return (
      `import json\n${withKey ? "import os\n" : ""}import urllib.request\n\n${pythonTexts({ query, documents })}` +
      `body = {"query": query, "documents": documents, "top_n": ${documents.length}${rest.join("")}}\n` +
      `headers = {"Content-Type": "application/json"${withKey ? `, "Authorization": "Bearer " + os.environ["API_KEY"]` : ""}}\n` +
      `request = urllib.request.Request(\n    ${literal(`${BASE}rerank`)}, json.dumps(body).encode(), headers)\n` +
      `with urllib.request.urlopen(request) as response:\n    results = json.load(response)["results"]\n\n` +
      `for result in results:\n    print(result["relevance_score"], documents[result["index"]])\n`
    );
  },

  javascript({ query, documents, options }, withKey) {
    const rest = Object.entries(options).map(([name, value]) => `, ${name}: ${JSON.stringify(value)}`);
    return (
      `const query = ${literal(query)};\nconst documents = [\n${list(documents)}];\n\n` +
      `const response = await fetch(${literal(`${BASE}rerank`)}, {\n  method: "POST",\n` +
      `  headers: { "content-type": "application/json"${withKey ? ", authorization: `Bearer ${process.env.API_KEY}`" : ""} },\n` +
      `  body: JSON.stringify({ query, documents, top_n: ${documents.length}${rest.join("")} }),\n});\n` +
      `if (!response.ok) throw new Error(await response.text());\n\n` +
      `const { results } = await response.json();\n` +
      `for (const { relevance_score, index } of results) console.log(relevance_score, documents[index]);\n`
    );
  },

  // The package cohere, which is given this server's address. It wants a key, whether the server does or not.
  cohere({ query, documents, options }, withKey) {
    const rest = Object.entries(options).map(([name, value]) => `${literal(name)}: ${pythonValue(value)}`);
    const more = rest.length > 0 ? `,\n    request_options={"additional_body_parameters": {${rest.join(", ")}}}` : "";
    return (
      `${withKey ? "import os\n\n" : ""}import cohere\n\n${pythonTexts({ query, documents })}` +
      `client = cohere.ClientV2(${withKey ? `os.environ["API_KEY"]` : `"no key"`}, base_url=${literal(BASE.slice(0, -1))})\n` +
      `answer = client.rerank(\n    model="any", query=query, documents=documents, top_n=${documents.length}${more})\n\n` +
      `for result in answer.results:\n    print(result.relevance_score, documents[result.index])\n`
    );
  },

  // langchain-cohere sends no options of ours, so those of the form are left out.
  langchain({ query, documents }, withKey) {
    return (
      `${withKey ? "import os\n\n" : ""}from langchain_cohere import CohereRerank\n\n${pythonTexts({ query, documents })}` +
      `reranker = CohereRerank(\n    model="any", base_url=${literal(BASE.slice(0, -1))}, cohere_api_key=${withKey ? `os.environ["API_KEY"]` : `"no key"`})\n\n` +
      `for result in reranker.rerank(documents, query, top_n=${documents.length}):\n` +
      `    print(result["relevance_score"], documents[result["index"]])\n`
    );
  },
};

/** The key itself is never written: a copied command ends up in histories and chats. */
function showSnippet() {
  const snippet = SNIPPETS[chosen("language")](readForm(), readKey() !== "");
  $("snippet").firstElementChild.textContent = snippet;
}

async function copySnippet() {
  showSnippet();
  $("copied").textContent = "";
  const text = $("snippet").textContent;
  let done = "Copied";
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Browsers give no clipboard to pages over plain HTTP; the old way works there, and needs the text selected.
    getSelection().selectAllChildren($("snippet"));
    if (!document.execCommand("copy")) done = "Selected: press Ctrl+C to copy";
  }
  $("copied").textContent = done;
}

// ---- the model

/** What is known of the model: of any its size, of known ones what others have published and what was measured. */
function facts({ known, architecture, parameters, precision, version }) {
  const size = parameters < 1e6 ? parameters.toLocaleString("en") : `${(parameters / 1e6).toPrecision(3)} M`;
  const all = [known?.family ?? architecture, `${size} parameters`, precision];
  if (known) {
    all.push(known.licence);
    for (const { measure, value, what, source } of known.quality) {
      const link = element("a", "", `${measure} ${value < 1 ? value.toFixed(4) : value.toFixed(1)}`);
      Object.assign(link, { href: source, title: what });
      all.push(link);
    }
    if (known.time) {
      const time = element("span", "", `${Math.round(known.time.ms).toLocaleString("en")} ms for 100 passages`);
      time.title = known.time.what;
      all.push(time);
    }
  }
  all.push(`version ${version}`);
  return all.flatMap((fact) => [" · ", fact]).slice(1).concat(" ");
}

async function showModel() {
  let said;
  try {
    const response = await fetch(`${BASE}health`);
    const health = await response.json();
    if (health.status === "ok") {
      said = [element("strong", "", health.model), " ", ...facts(health)];
      if (health.note) said.push(element("span", "note", health.note));
    } else if (health.status === "loading") {
      said = ["The model is loading …"];
      setTimeout(showModel, HEALTH_RETRY_MS);
    } else {
      said = [`No model: ${health.reason ?? health.status ?? `the server answered ${response.status}`}`];
    }
  } catch {
    said = ["The server cannot be reached."];
  }
  $("model").replaceChildren(...said);
}

// ---- what is kept in this tab; a browser may refuse to keep anything

function restoreKey() {
  try {
    $("key").value = sessionStorage.getItem(KEY_STORE) ?? "";
  } catch {
    // Then the key lives as long as the page.
  }
}

function keepKey() {
  try {
    if ($("key").value === "") sessionStorage.removeItem(KEY_STORE);
    else sessionStorage.setItem(KEY_STORE, $("key").value);
  } catch {
    // As above.
  }
}

// ---- putting it together

let pending = 0;

/** What follows from the form. Once a frame at most: a long paste must not be worked on at every key. */
function follow() {
  cancelAnimationFrame(pending);
  pending = requestAnimationFrame(() => {
    $("documents-count").textContent = count(readDocuments().length, "document");
    showSnippet();
  });
}

$("docs").href = `${BASE}docs`;
$("openapi").href = `${BASE}openapi.json`;
restoreKey();
showModel();
follow();

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  rank();
});
$("form").addEventListener("input", follow);
$("cancel").addEventListener("click", cancel);
$("key").addEventListener("input", keepKey);
$("copy").addEventListener("click", copySnippet);
document.querySelectorAll('input[name="language"]').forEach((radio) => radio.addEventListener("change", follow));
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.repeat) {
    event.preventDefault();
    rank();
  }
});
