#!/bin/sh
# Installs the client packages of the rerank world and drives them against the program.
#
#   suites/clients/run.sh [PROGRAM]      PROGRAM: target/release/reranker where it is not given
#
# They come from PyPI and npm at the versions in requirements.txt, older.txt and package-lock.json, and are kept under target/clients
# until those change. What was found is in target/clients/result.json.
set -eu
cd "$(dirname "$0")/../.."

program=${1:-target/release/reranker}
if [ ! -x "$program" ]; then
    echo "there is no $program: build it with cargo build --release" >&2
    exit 2
fi

root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
if ! command -v npm >/dev/null; then
    root apt-get update -qq && root apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null
fi

here=suites/clients
folder=target/clients
mkdir -p "$folder"

# changed LIST FOLDER: whether FOLDER does not hold what LIST says; then it is emptied.
changed() {
    if cmp -s "$1" "$2/installed"; then return 1; fi
    rm -rf "$2"
}

# The lists are complete, dependencies included, so that nothing is resolved: newer than some packages ask for, or without what their
# rerank clients do not use.
install="-m pip install --quiet --no-deps --only-binary :all: --disable-pip-version-check --root-user-action=ignore"
if changed $here/requirements.txt $folder/venv; then
    python3 -m venv $folder/venv
    $folder/venv/bin/python $install --requirement $here/requirements.txt
    cp $here/requirements.txt $folder/venv/installed
fi
if changed $here/older.txt $folder/older; then
    $folder/venv/bin/python $install --target $folder/older --requirement $here/older.txt
    cp $here/older.txt $folder/older/installed
fi
if changed $here/package-lock.json $folder/node; then
    mkdir -p $folder/node
    cp $here/package.json $here/package-lock.json $folder/node
    (cd $folder/node && npm ci --silent --no-audit --no-fund --ignore-scripts)
    cp $here/package-lock.json $folder/node/installed
fi

exec python3 $here/drive.py "$program" $folder $folder/result.json
