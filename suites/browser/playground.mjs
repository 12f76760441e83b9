// Drives the playground and the API's page in a browser: playground.mjs MODULES CHROMIUM PROGRAM.
//
// Starts PROGRAM on ports of its own, twice: open, and with API_KEYS. A reverse proxy mounts it under /prod/, as a stage of an API
// gateway does. Prints one line a test; exits 1 where one failed.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import http from "node:http";
import { createRequire } from "node:module";
import net from "node:net";
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const [modules, executablePath, program] = process.argv.slice(2);
const require = createRequire(resolve(modules, "package.json"));
const { chromium } = require("playwright-core");
const axe = require("axe-core");

const PATIENCE_MS = 60_000;
const KEY = "right-key-0123456789";
const KNOWN = "cross-encoder/ms-marco-MiniLM-L6-v2";
// A name that is not this machine's own gives a page that is not a secure context.
const PLAIN_HOST = "reranker.test";
// What shells, JSON, Python, JavaScript and HTML each give a meaning to.
const TEXTS = [
  `it's "quoted" $HOME $(id) \`id\` \\n \\ !! !x %s {x} \${x}`,
  "first line\nJSON\nEOF",
  "<img src=x onerror=alert(1)><script>alert(1)</script> &amp;",
  "ünï 漢字 😀 zero\u200bwidth \u202ereversed \u2028 \u0007 \ttab",
  "To reset your password, follow the link in the mail.",
];
const QUERY = `how's my "password" reset, $USER? <b>\\`;

async function freePort() {
  const probe = net.createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address();
  probe.close();
  await once(probe, "close");
  return port;
}

const children = [];
process.on("exit", () => children.forEach((child) => child.kill("SIGKILL")));

async function startProgram(variables = {}) {
  const port = await freePort();
  const child = spawn(program, ["serve"], {
    env: { PATH: process.env.PATH, HOST: "127.0.0.1", PORT: String(port), LOG_LEVEL: "warn", ...variables },
    stdio: ["ignore", "ignore", "inherit"],
  });
  children.push(child);
  const origin = `http://127.0.0.1:${port}`;
  for (const end = Date.now() + PATIENCE_MS; ; await sleep(20)) {
    assert(child.exitCode === null && Date.now() < end, "the program did not become ready");
    const ready = await fetch(`${origin}/ready`).catch(() => null);
    if (ready?.ok) return { child, port, origin };
  }
}

/** Mounts a server below /prod. What is asked for outside is kept, because a stage does not own it. `gate` can hold scoring back. */
async function startStage(port) {
  const stage = { outside: [], gate: null, arrived: 0, broken: 0 };
  const server = http.createServer(async (request, response) => {
    const [, rest] = /^\/prod(?=[/?]|$)(.*)$/.exec(request.url) ?? [];
    if (rest === undefined) {
      stage.outside.push(request.url);
      response.writeHead(404).end();
      return;
    }
    if (request.method === "POST") {
      stage.arrived += 1;
      response.on("close", () => (stage.broken += response.writableFinished ? 0 : 1));
      await stage.gate;
    }
    const path = rest.startsWith("/") ? rest : `/${rest}`;
    const forwarded = http.request({ host: "127.0.0.1", port, path, method: request.method, headers: request.headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    forwarded.on("error", () => response.destroy());
    request.pipe(forwarded);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return Object.assign(stage, { server, origin: `http://127.0.0.1:${server.address().port}` });
}

async function rerank(origin, body, headers = {}) {
  const response = await fetch(`${origin}/rerank/batch`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
  });
  return { status: response.status, answer: await response.json() };
}

const pairs = (query, documents) => documents.map((passage) => ({ query, passage }));
const ranked = (results) => [...results].sort((a, b) => b.logit - a.logit || a.index - b.index);

const open = await startProgram();
// Its weights are others: what counts is the name.
const known = await startProgram({ MODEL_DIR: "tests/golden/bert", MODEL_NAME: KNOWN });
const locked = await startProgram({ API_KEYS: `another-key,${KEY}` });
const stage = await startStage(open.port);
const browser = await chromium.launch({
  executablePath,
  args: [`--host-resolver-rules=MAP ${PLAIN_HOST} 127.0.0.1`, ...(process.getuid() === 0 ? ["--no-sandbox"] : [])],
});

/** A page that is watched: whatever it asks for, and whatever it complains about. `expected`: complaints that belong to the test. */
async function visit(address, { expected = [], ...settings } = {}) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 900 }, ...settings });
  const { origin } = new URL(address);
  await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin }).catch(() => {});
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const seen = { requests: [], complaints: [] };
  page.on("request", (request) => seen.requests.push(request.url()));
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) seen.complaints.push(message.text());
  });
  page.on("pageerror", (error) => seen.complaints.push(String(error)));
  const response = await page.goto(address);
  assert.equal(response.status(), 200);
  page.finish = async () => {
    const abroad = seen.requests.filter((url) => !url.startsWith("data:") && new URL(url).origin !== origin);
    assert.deepEqual(abroad, [], "asked for something elsewhere");
    const unexpected = seen.complaints.filter((text) => !expected.some((pattern) => pattern.test(text)));
    assert.deepEqual(unexpected, [], "the console has complaints");
    await context.close();
  };
  page.seen = seen;
  page.policy = response.headers()["content-security-policy"];
  return page;
}

const field = (page, name) => page.getByRole("textbox", { name, exact: true });
const summary = (page) => page.locator("#summary");
const alert = (page) => page.getByRole("alert");
const key = (page) => page.getByLabel("API key", { exact: true });
const press = (page, name) => page.getByRole("button", { name, exact: true }).click();
const choose = (page, name) => page.getByRole("radio", { name, exact: true }).check();

async function until(what, condition) {
  for (const end = Date.now() + PATIENCE_MS; !(await condition()); await sleep(20)) {
    if (Date.now() > end) throw new Error(`${what}: waited in vain`);
  }
}

async function untilRanked(page, documents) {
  await until("ranked", async () => (await summary(page).textContent()).startsWith(`${documents} document${documents === 1 ? "" : "s"} ranked`));
}

/** The ranking as the page shows it. */
const shown = (page) =>
  page.locator("#results > li").evaluateAll((items) =>
    items.map((item) => ({
      text: item.querySelector(".text").textContent,
      score: item.querySelector(".score").textContent,
      width: parseFloat(item.querySelector(".bar div").style.width),
      start: parseFloat(item.querySelector(".bar div").style.left),
      about: [...item.querySelectorAll(".about span")].map((part) => part.textContent),
    })),
  );

/** What runs the code that was copied, read from its standard input. */
const RUNNERS = { curl: ["bash"], Python: ["python3", "-"], JavaScript: [process.execPath, "--input-type=module", "-"] };
// The packages are there once `make suite SUITES=clients` has run; without them the code is only compiled.
const PACKAGES = { cohere: "cohere", LangChain: "langchain_cohere" };
function withPackages(language, code) {
  const PYTHONPATH = language === "LangChain" ? resolve("target/clients/older") : "";
  return spawnSync(resolve("target/clients/venv/bin/python"), ["-"], { input: code, encoding: "utf8", env: { PYTHONIOENCODING: "utf-8", PYTHONPATH } });
}

function runCode(language, code, variables = {}) {
  const [command, ...rest] = RUNNERS[language];
  const env = { PATH: process.env.PATH, PYTHONIOENCODING: "utf-8", ...variables };
  const run = spawnSync(command, rest, { input: code, encoding: "utf8", env });
  assert.equal(run.status, 0, `${language}: ${run.stderr}`);
  return run.stdout;
}

const near = (got, wanted, tolerance, what) => assert(Math.abs(got - wanted) <= tolerance, `${what}: ${got}, not ${wanted}`);

async function holdsAccessibilityRules(page) {
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate(() => window.axe.run());
  assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`), []);
}

async function fill(page, query, documents) {
  await choose(page, "separated by blank lines");
  await field(page, "Query").fill(query);
  await field(page, "Documents").fill(documents.join("\n\n"));
}

const copied = async (page) => {
  await press(page, "Copy");
  await until("copied", async () => (await page.locator("#copied").textContent()) === "Copied");
  return page.evaluate(() => navigator.clipboard.readText());
};

const tests = {
  async "the sample is ranked, in the order and with the numbers of the service's own answer"() {
    const page = await visit(`${open.origin}/`);
    const [query, documents] = [await field(page, "Query").inputValue(), (await field(page, "Documents").inputValue()).split("\n")];
    await press(page, "Rank");
    await untilRanked(page, documents.length);
    const { answer } = await rerank(open.origin, { pairs: pairs(query, documents) });
    const wanted = ranked(answer.results);
    const items = await shown(page);
    assert.deepEqual(items.map(({ text }) => text), wanted.map(({ index }) => documents[index]));
    // Whoever sees it first should agree with it.
    assert.match(items[0].text, /^To reset your password/);
    assert.match(items[1].text, /^If you have forgotten your password/);
    assert.match(items.at(-1).text, /^Our offices/);
    for (const [place, { index, score, logit, tokens }] of wanted.entries()) {
      assert.equal(items[place].score, score.toFixed(4));
      assert.deepEqual(items[place].about, [`document ${index + 1}`, `logit ${logit.toFixed(3)}`, `${tokens} tokens`]);
      near(items[place].width, score * 100, 0.01, "width of the bar");
      near(items[place].start, 0, 0, "start of the bar");
    }
    assert.match(await summary(page).textContent(), new RegExp(`Best: document ${wanted[0].index + 1}, score ${wanted[0].score.toFixed(4)}`));
    assert.match(await page.locator("#facts").textContent(), /Round trip[\d.,]+ ms.*In the server[\d.,]+ ms.*Tokens\d+/s);
    await page.finish();
  },

  async "the model is named, and the bundled one says that it is a demo"() {
    const page = await visit(`${open.origin}/`);
    const health = await (await fetch(`${open.origin}/health`)).json();
    await until("the model's name", async () => (await page.locator("#model").textContent()).includes(health.model));
    const line = await page.locator("#model").textContent();
    assert.match(line, /bundled demo model, not bge-reranker-v2-m3/);
    // Of a model that is not known, what it says of itself.
    const millions = (health.parameters / 1e6).toPrecision(3);
    for (const fact of ["bert", `${millions} M parameters`, health.precision, `version ${health.version}`]) assert(line.includes(fact), fact);
    await page.finish();
  },

  async "a known model is shown with its licence, what others published and what was measured"() {
    const page = await visit(`${known.origin}/`);
    const { known: about } = await (await fetch(`${known.origin}/health`)).json();
    await until("the model's name", async () => (await page.locator("#model").textContent()).includes(KNOWN));
    const line = await page.locator("#model").textContent();
    assert(about.quality.length > 0 && about.time, "the table has figures of it");
    const ms = Math.round(about.time.ms).toLocaleString("en");
    for (const fact of [about.family, about.licence, `${ms} ms for 100 passages`]) assert(line.includes(fact), fact);
    for (const { measure, value, source } of about.quality) {
      const link = page.locator("#model a", { hasText: `${measure} ${value < 1 ? value.toFixed(4) : value.toFixed(1)}` });
      assert.equal(await link.getAttribute("href"), source);
    }
    await holdsAccessibilityRules(page);
    await page.finish();
  },

  async "the page has a strict policy"() {
    const page = await visit(`${open.origin}/`);
    for (const part of ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"]) assert(page.policy.includes(part), part);
    await page.finish();
  },

  async "raw scores have bars on both sides of zero"() {
    const page = await visit(`${open.origin}/`);
    await page.getByRole("combobox", { name: "Scores" }).selectOption("raw logits");
    await press(page, "Rank");
    await untilRanked(page, 6);
    const items = await shown(page);
    const scores = items.map(({ score }) => Number(score));
    const [low, high] = [Math.min(0, ...scores), Math.max(0, ...scores)];
    assert(low < 0 && high > 1, "the sample has logits on both sides");
    for (const [place, score] of scores.entries()) {
      near(items[place].width, (Math.abs(score) / (high - low)) * 100, 0.05, "width of the bar");
      near(items[place].start, ((Math.min(0, score) - low) / (high - low)) * 100, 0.05, "start of the bar");
    }
    await page.finish();
  },

  async "a cut document says so, and a long one is shown in full when asked for"() {
    const page = await visit(`${open.origin}/`);
    const long = "password ".repeat(100).trim();
    await fill(page, "password", [long, "short"]);
    await page.getByRole("spinbutton", { name: "Max length, in tokens" }).fill("16");
    await press(page, "Rank");
    await untilRanked(page, 2);
    const { answer } = await rerank(open.origin, { pairs: pairs("password", [long, "short"]), max_length: 16 });
    assert.equal(answer.results[0].truncated, true);
    const item = page.getByRole("listitem").filter({ hasText: "document 1" });
    const dropped = answer.results[0].dropped_tokens;
    assert.equal(await item.locator(".cut").textContent(), dropped === undefined ? "truncated" : `truncated, ${dropped} tokens dropped`);
    assert.equal(await page.locator(".cut").count(), 1);
    assert.match(await summary(page).textContent(), /1 document did not fit and was cut/);
    await item.getByText("All 899 characters").click();
    assert.equal(await item.locator("details .text").textContent(), long);
    assert(await item.locator("details .text").isVisible());
    await page.finish();
  },

  async "texts are shown as texts"() {
    const page = await visit(`${open.origin}/`);
    await fill(page, QUERY, TEXTS);
    await press(page, "Rank");
    await untilRanked(page, TEXTS.length);
    assert.deepEqual((await shown(page)).map(({ text }) => text).sort(), [...TEXTS].sort());
    assert.equal(await page.locator("#results img, #results script").count(), 0);
    await page.finish();
  },

  async "an empty query or no documents: told, with the focus on the field"() {
    const page = await visit(`${open.origin}/`);
    await field(page, "Query").fill("  ");
    await press(page, "Rank");
    assert.equal(await alert(page).textContent(), "Enter a query.");
    assert.equal(await page.evaluate(() => document.activeElement.id), "query");
    assert.equal(await field(page, "Query").getAttribute("aria-invalid"), "true");
    await field(page, "Query").fill("x");
    await field(page, "Documents").fill(" \n\n");
    await press(page, "Rank");
    assert.equal(await alert(page).textContent(), "Enter at least one document.");
    assert.equal(await page.evaluate(() => document.activeElement.id), "documents");
    assert(!page.seen.requests.some((url) => url.endsWith("rerank/batch")));
    await page.finish();
  },

  async "the server's own error is shown, names the document, and goes with the next ranking"() {
    const page = await visit(`${open.origin}/`, { expected: [/status of 422/] });
    const documents = ["short", "x".repeat(100_001)];
    await fill(page, "x", documents);
    await press(page, "Rank");
    const { status, answer } = await rerank(open.origin, { pairs: pairs("x", documents) });
    assert.equal(status, 422);
    await until("an alert", async () => (await alert(page).textContent()) === `${answer.error.message} (document 2)`);
    assert.equal(await page.locator("#results > li").count(), 0);
    await fill(page, "x", ["short"]);
    await press(page, "Rank");
    await untilRanked(page, 1);
    assert.equal(await alert(page).textContent(), "");
    assert.equal(await field(page, "Documents").getAttribute("aria-invalid"), null);
    await page.finish();
  },

  async "a wrong length is told at its field"() {
    const page = await visit(`${open.origin}/`, { expected: [/status of 422/] });
    await page.getByRole("spinbutton", { name: "Max length, in tokens" }).fill("999999");
    await press(page, "Rank");
    const { answer } = await rerank(open.origin, { pairs: pairs("x", ["x"]), max_length: 999999 });
    await until("an alert", async () => (await alert(page).textContent()) === answer.error.message);
    assert.equal(await page.locator("#max-length-problem").textContent(), answer.error.message);
    await page.finish();
  },

  async "a server that is gone is told"() {
    const brief = await startProgram();
    const page = await visit(`${brief.origin}/`, { expected: [/ERR_CONNECTION/, /Failed to fetch/] });
    brief.child.kill("SIGTERM");
    await once(brief.child, "exit");
    await press(page, "Rank");
    await until("an alert", async () => /cannot be reached/.test(await alert(page).textContent()));
    await page.finish();
  },

  async "every address holds below a stage, with and without the last slash"() {
    for (const path of ["/prod/", "/prod", "/prod?utm=1"]) {
      const page = await visit(`${stage.origin}${path}`);
      await press(page, "Rank");
      await untilRanked(page, 6);
      assert(page.seen.requests.includes(`${stage.origin}/prod/rerank/batch`));
      assert((await copied(page)).includes(`'${stage.origin}/prod/rerank'`));
      await choose(page, "cohere");
      assert((await copied(page)).includes(`base_url="${stage.origin}/prod"`));
      await page.getByRole("link", { name: "API", exact: true }).click();
      await page.locator(".opblock").first().waitFor();
      assert.equal(page.url(), `${stage.origin}/prod/docs`);
      await page.finish();
    }
    assert.deepEqual(stage.outside.filter((url) => url !== "/favicon.ico"), []);
  },

  async "a request can be cancelled, and a new one takes the place of the old"() {
    const page = await visit(`${stage.origin}/prod/`);
    let release;
    stage.gate = new Promise((resolve) => (release = resolve));
    const before = { arrived: stage.arrived, broken: stage.broken };
    await press(page, "Rank");
    await until("the request", () => stage.arrived === before.arrived + 1);
    await page.getByRole("button", { name: "Cancel" }).focus();
    await page.keyboard.press("Enter");
    assert.equal(await summary(page).textContent(), "Cancelled.");
    assert.equal(await page.evaluate(() => document.activeElement.id), "rank");
    await until("the end of the connection", () => stage.broken === before.broken + 1);

    await press(page, "Rank");
    await until("the second request", () => stage.arrived === before.arrived + 2);
    await fill(page, "second", ["of one document"]);
    await press(page, "Rank");
    await until("the third request", () => stage.arrived === before.arrived + 3);
    await until("the end of the second", () => stage.broken === before.broken + 2);
    release();
    await untilRanked(page, 1);
    assert.deepEqual((await shown(page)).map(({ text }) => text), ["of one document"]);
    stage.gate = null;
    await page.finish();
  },

  async "the copied code runs as it is, and gives the same scores"() {
    for (const normalize of [true, false]) {
      const page = await visit(`${open.origin}/`);
      await fill(page, QUERY, TEXTS);
      if (!normalize) {
        await page.getByRole("combobox", { name: "Scores" }).selectOption("raw logits");
        await page.getByRole("spinbutton", { name: "Max length, in tokens" }).fill("64");
      }
      const { answer } = await rerank(open.origin, { pairs: pairs(QUERY, TEXTS), ...(normalize ? {} : { normalize, max_length: 64 }) });
      const { answer: plain } = await rerank(open.origin, { pairs: pairs(QUERY, TEXTS) });
      const best = ranked(answer.results);
      const lines = (results) => ranked(results).map(({ index, score }) => `${score} ${TEXTS[index]}\n`).join("");
      for (const language of [...Object.keys(RUNNERS), ...Object.keys(PACKAGES)]) {
        await choose(page, language);
        const code = await copied(page);
        if (language === "curl") {
          const { results } = JSON.parse(runCode(language, code));
          assert.deepEqual(results.map(({ index, relevance_score }) => [index, relevance_score]), best.map(({ index, score }) => [index, score]));
          assert.match(code, /\/rerank' .*"query": .*"documents": .*"top_n": 5/s);
        } else if (language in RUNNERS) {
          assert.equal(runCode(language, code), lines(answer.results), language);
        } else if (withPackages(language, `import ${PACKAGES[language]}`).status === 0) {
          const run = withPackages(language, code);
          assert.equal(run.status, 0, run.stderr);
          assert.equal(run.stdout, lines(language === "LangChain" ? plain.results : answer.results), language);
        } else {
          const run = spawnSync("python3", ["-c", "import sys; compile(sys.stdin.read(), 'copied', 'exec')"], { input: code, encoding: "utf8" });
          assert.equal(run.status, 0, run.stderr);
        }
        // What cannot be seen must not be copied.
        assert.doesNotMatch(code, /[\u007f-\u009f\u2028\u2029]|\p{Cf}/u);
      }
      await page.finish();
    }
  },

  async "copying works on a page over plain HTTP too"() {
    const { port } = new URL(open.origin);
    const page = await visit(`http://${PLAIN_HOST}:${port}/`);
    assert.equal(await page.evaluate(() => isSecureContext), false);
    await press(page, "Copy");
    await until("copied", async () => (await page.locator("#copied").textContent()) === "Copied");
    const code = await page.locator("#snippet").textContent();
    await field(page, "Documents").fill("");
    await field(page, "Documents").press("Control+v");
    assert.equal((await field(page, "Documents").inputValue()).trim(), code.trim());
    await page.finish();
  },

  async "a key is asked for, sent, kept in this tab alone, and never copied"() {
    const page = await visit(`${locked.origin}/`, { expected: [/status of 401/] });
    await press(page, "Rank");
    const refusal = await rerank(locked.origin, { pairs: pairs("x", ["x"]) });
    assert.equal(refusal.status, 401);
    await until("an alert", async () => (await alert(page).textContent()).startsWith(refusal.answer.error.message));
    assert.equal(await page.locator("#key-problem").textContent(), "The server wants a key.");
    await alert(page).getByRole("button", { name: "Enter an API key" }).click();
    assert.equal(await page.evaluate(() => document.activeElement.id), "key");
    await page.keyboard.type("wrong-key");
    await page.keyboard.press("Control+Enter");
    await until("a second refusal", async () => page.seen.complaints.length === 2 && (await alert(page).textContent()) !== "");
    assert.equal(await key(page).getAttribute("aria-invalid"), "true");
    assert.equal(await page.locator("#key-problem").textContent(), "The server wants a key, and not this one.");
    await key(page).fill(`${KEY} `);
    await press(page, "Rank");
    await untilRanked(page, 6);
    assert.equal(await key(page).getAttribute("aria-invalid"), null);
    assert.equal(await key(page).getAttribute("type"), "password");

    for (const language of [...Object.keys(RUNNERS), ...Object.keys(PACKAGES)]) {
      await choose(page, language);
      const code = await copied(page);
      assert(!code.includes(KEY) && code.includes("API_KEY"), language);
      if (language in RUNNERS) assert.match(runCode(language, code, { API_KEY: KEY }), language === "curl" ? /"relevance_score":/ : /^\d\.\d+ /, language);
    }

    await page.reload();
    assert.equal((await key(page).inputValue()).trim(), KEY);
    assert.deepEqual(await page.evaluate(() => [localStorage.length, document.cookie, location.search]), [0, "", ""]);
    const other = await page.context().newPage();
    await other.goto(`${locked.origin}/`);
    assert.equal(await key(other).inputValue(), "");
    await page.finish();
  },

  async "the keyboard alone is enough, in the order of the page"() {
    const page = await visit(`${open.origin}/`);
    const order = [];
    const focused = () =>
      page.evaluate(() => {
        const at = document.activeElement;
        return at.id || at.textContent.trim() || `${at.name}=${at.value}`;
      });
    for (let step = 0; step < 12; step += 1) {
      await page.keyboard.press("Tab");
      order.push(await focused());
      assert.notEqual(await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle), "none", `focus on ${order.at(-1)} cannot be seen`);
    }
    assert.deepEqual(order, [
      "Skip to the ranking", "docs", "openapi", "query", "documents", "separator=line", "scores", "max-length", "key", "rank", "copy", "language=curl",
    ]);
    await page.keyboard.press("Tab");
    assert.equal(await focused(), "snippet");

    await page.reload();
    for (const stop of ["Skip to the ranking", "docs", "openapi", "query"]) {
      await page.keyboard.press("Tab");
      assert.equal(await focused(), stop);
    }
    await page.keyboard.press("Control+a");
    await page.keyboard.type("when is the office open?");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Tab");
    await page.keyboard.press("ArrowRight");
    assert.equal(await page.locator("#documents-count").textContent(), "1 document");
    await page.keyboard.press("ArrowLeft");
    await page.keyboard.press("Control+Enter");
    await untilRanked(page, 6);
    assert.match((await shown(page))[0].text, /^Our offices are open/);
    await page.finish();
  },

  async "each part has its role and name, and no accessibility rule is broken: light, dark, narrow, with an error"() {
    for (const settings of [{ colorScheme: "light" }, { colorScheme: "dark" }, { viewport: { width: 320, height: 640 } }]) {
      const page = await visit(`${open.origin}/`, { ...settings, reducedMotion: "reduce", expected: [/status of 422/] });
      await press(page, "Rank");
      await untilRanked(page, 6);
      assert.equal(await page.getByRole("region", { name: "Ranking" }).getByRole("list").getByRole("listitem").count(), 6);
      for (const name of ["Request", "Documents are", "In"]) assert.equal(await page.getByRole(name === "Request" ? "form" : "group", { name, exact: true }).count(), 1, name);
      assert.equal(await page.locator(".bar div").first().evaluate((bar) => getComputedStyle(bar).animationName), "none");
      const width = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert(width[0] <= width[1], `the page is ${width[0]} wide in a window of ${width[1]}`);
      await holdsAccessibilityRules(page);
      await page.getByRole("spinbutton").fill("999999");
      await press(page, "Rank");
      await until("an alert", async () => (await alert(page).textContent()) !== "");
      await holdsAccessibilityRules(page);
      await page.finish();
    }
  },

  async "the API's page begins with this service's own routes, and has others' folded up"() {
    for (const colorScheme of ["light", "dark"]) {
      const page = await visit(`${open.origin}/docs`, { colorScheme });
      await page.locator(".opblock").first().waitFor();
      const paths = await page.locator(".opblock-summary-path").evaluateAll((found) => found.map((path) => path.textContent.replaceAll("\u200b", "")));
      assert.deepEqual(paths, ["/rerank", "/rerank/batch", "/estimate"]);
      const tags = await page.locator(".opblock-tag").evaluateAll((found) => found.map((tag) => tag.dataset.tag));
      assert.deepEqual(tags.slice(0, 3), ["rerank", "shared paths", "health"]);
      assert(tags.length > 10 && tags.at(-1) === "docs", tags.join(", "));
      // Nothing is painted on a light page, which browsers have white.
      const [red, green, blue, alpha = 1] = await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor.match(/[\d.]+/g).map(Number));
      assert.equal(alpha > 0 && red + green + blue < 300, colorScheme === "dark", `${colorScheme}: ${[red, green, blue, alpha]}`);
      assert.equal(await page.locator(".servers select").inputValue(), open.origin);
      await page.finish();
    }
  },

  async "the API's page tries a route out"() {
    const page = await visit(`${open.origin}/docs`);
    await page.locator(".opblock-summary-path").first().click();
    await page.getByRole("button", { name: "Execute" }).click();
    const status = page.locator(".live-responses-table .response .response-col_status").first();
    await until("an answer", async () => (await status.count()) > 0);
    assert.match(await status.textContent(), /^200/);
    await page.finish();
  },

  async "the API's page shows every operation, from this server alone"() {
    const page = await visit(`${open.origin}/docs`);
    await page.locator(".opblock").first().waitFor();
    // Each one that is opened is no longer among those that are closed.
    const closed = page.locator(".opblock-tag[data-is-open=false]");
    while ((await closed.count()) > 0) await closed.first().click();
    const document = await (await fetch(`${open.origin}/openapi.json`)).json();
    const operations = Object.entries(document.paths).flatMap(([path, item]) => Object.keys(item).map((method) => `${method.toUpperCase()} ${path}`));
    await page.locator(".opblock").first().waitFor();
    const found = await page.locator(".opblock-summary").evaluateAll((blocks) =>
      blocks.map((block) => {
        const text = (name) => block.querySelector(name).textContent.replaceAll("\u200b", "");
        return `${text(".opblock-summary-method")} ${text(".opblock-summary-path")}`;
      }),
    );
    assert(operations.length > 5);
    assert.deepEqual(found.sort(), operations.sort());
    await page.finish();
  },
};

let failures = 0;
for (const [name, test] of Object.entries(tests)) {
  try {
    await test();
    console.log(`pass  ${name}`);
  } catch (error) {
    failures += 1;
    console.log(`FAIL  ${name}\n${error.stack}`);
  }
}
await browser.close();
stage.server.close();
stage.server.closeAllConnections();
for (const { child } of [open, locked]) {
  child.kill("SIGTERM");
  if (child.exitCode === null) await once(child, "exit");
}
process.exit(failures === 0 ? 0 : 1);
