"use strict";

// Shows the document of the API: what is this service's own first, other services' formats folded up behind it.

// In this order; whatever else a tag has comes behind, by its path.
const ORDER = ["/rerank", "/rerank/batch", "/estimate", "/health", "/ready", "/live", "/info", "/metrics"];
const OPEN = "rerank";

const dark = matchMedia("(prefers-color-scheme: dark)");
const followTheme = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
followTheme();
dark.addEventListener("change", followTheme);

const place = (path) => (ORDER.includes(path) ? ORDER.indexOf(path) : ORDER.length);

async function show() {
  const url = new URL("openapi.json", location.href);
  const spec = await (await fetch(url)).json();
  // The address that requests go to is shown whole, not as the "." that holds below any prefix.
  spec.servers = [{ url: new URL(".", url).href.replace(/\/$/, "") }];
  const ui = SwaggerUIBundle({
    spec,
    domNode: document.getElementById("docs"),
    tryItOutEnabled: true,
    validatorUrl: null,
    docExpansion: "none",
    defaultModelsExpandDepth: 0,
    operationsSorter: (a, b) => place(a.get("path")) - place(b.get("path")) || a.get("path").localeCompare(b.get("path")),
  });
  ui.layoutActions.show(["operations-tag", OPEN], true);
}

show().catch((error) => {
  document.getElementById("docs").textContent = `The API's description cannot be shown: ${error.message}`;
});
