#!/usr/bin/env bash
# Installs the client packages of the rerank world and drives them against the program.
#
#   suites/clients/run.sh [PROGRAM]      PROGRAM: target/release/reranker where it is not given
#
# They come from PyPI and npm at the versions in requirements.txt, older.txt and package-lock.json, and are kept under target/clients
# until those change. What was found is in target/clients/result.json.
set -euo pipefail
cd "$(dirname "$0")/../.."
source suites/lib.sh

program=$(program "${1-}")

command -v npm >/dev/null || debian nodejs npm

here=suites/clients
folder=target/clients

# The lists are complete, dependencies included, so that nothing is resolved: newer than some packages ask for, or without what their
# rerank clients do not use.
wheels=(--no-deps --only-binary :all:)
venv $folder/venv $here/requirements.txt "${wheels[@]}"
if changed $here/older.txt $folder/older; then
    $folder/venv/bin/pip install --quiet --disable-pip-version-check "${wheels[@]}" --target $folder/older --requirement $here/older.txt
    installed $here/older.txt $folder/older
fi
if changed $here/package-lock.json $folder/node; then
    cp $here/package.json $here/package-lock.json $folder/node
    (cd $folder/node && npm ci --silent --no-audit --no-fund --ignore-scripts)
    installed $here/package-lock.json $folder/node
fi

python3 $here/drive.py "$program" $folder $folder/result.json
# The reference page says what was found.
python3 $here/table.py --check $folder/result.json docs/reference/clients.md
