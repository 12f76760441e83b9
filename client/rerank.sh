#!/usr/bin/env bash
# Ranks documents by their relevance to a query, with a reranker over HTTP. Needs bash, curl and jq.
#
#   rerank.sh QUERY DOCUMENT…            or one document a line on standard input: rerank.sh QUERY < documents.txt
#   RERANKER_URL=https://… RERANKER_API_KEY=… rerank.sh QUERY DOCUMENT…
#
# Prints score and document, best first, with a tab between. Exits 1 where there is no ranking, 2 where it was called wrongly.
set -euo pipefail

if (($# == 0)) || [[ $1 == -h || $1 == --help ]]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
for tool in curl jq; do
    if ! command -v "$tool" >/dev/null; then
        echo "rerank: $tool is missing" >&2
        exit 2
    fi
done
url=${RERANKER_URL:-http://localhost:8000}
query=$1
shift

if [[ ${RERANKER_API_KEY:-} == *[[:cntrl:]]* ]]; then
    echo "rerank: RERANKER_API_KEY has a line's end or another control character in it" >&2
    exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Texts are quoted by jq and never by the shell. The letter in front keeps jq from taking a document such as "-n" for an option.
documents() {
    if (($#)); then
        jq -nc '$ARGS.positional | map(.[1:])' --args "${@/#/x}"
    else
        jq -Rsc 'split("\n") | map(gsub("^\\s+|\\s+$"; "") | select(. != ""))'
    fi
}
documents "$@" | jq -c --arg query "$query" '{pairs: map({query: $query, passage: .})}' >"$work/body"

# The key goes to curl in its configuration, read from a pipe: arguments can be seen by everyone on the machine.
configuration() {
    if [[ -n ${RERANKER_API_KEY:-} ]]; then
        local key=${RERANKER_API_KEY//\\/\\\\}
        printf 'header = "Authorization: Bearer %s"\n' "${key//\"/\\\"}"
    fi
}
# curl itself tries again after 429 and 503, and waits for as long as Retry-After says. Into a file, because what an earlier try
# has written to a pipe would stand in front of the answer.
status=$(curl --silent --show-error --config <(configuration) --header 'Content-Type: application/json' --data-binary "@$work/body" \
    --connect-timeout 10 --max-time 60 --retry 3 --retry-max-time 120 --output "$work/answer" --write-out '%{http_code}' "${url%/}/rerank/batch") || {
    echo "rerank: no answer from $url" >&2
    exit 1
}

if [[ $status != 200 ]]; then
    message=$(jq -r '(.error.message? // .detail? // .message? // empty) | strings' "$work/answer" 2>/dev/null) || message=
    [[ $status == 401 ]] && message+=" (set RERANKER_API_KEY)"
    echo "rerank: $status: ${message:-"not a reranker's answer"}" >&2
    exit 1
fi
jq -r --slurpfile sent "$work/body" '
    .results | sort_by(-.logit, .index)[]
    | "\(.score * 10000 | round / 10000)\t\($sent[0].pairs[.index].passage | gsub("\\s+"; " "))"
' "$work/answer" 2>/dev/null || {
    echo "rerank: $url answered, but not as a reranker does" >&2
    exit 1
}
