#!/usr/bin/env bash
# Builds the committed program twice, in two folders of different length, and compares the bytes. Paths are the one thing in which the two
# would differ: of the sources, and of what a dependency's build script wrote (Swagger UI's pages). They are replaced, as in the images.
# Half an hour on two cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
commit=$(git rev-parse --short HEAD)
work=$(mktemp -d "${TMPDIR:-/tmp}/reproducible.XXXXXX")
trap 'rm -rf "$work"' EXIT
cargo_home=${CARGO_HOME:-$HOME/.cargo}
for place in "$work/a" "$work/another/folder/b"; do
    mkdir -p "$place"
    git archive HEAD | tar -x -C "$place"
    (cd "$place" && RUSTFLAGS="--remap-path-prefix=$place=/source --remap-path-prefix=$cargo_home=/cargo" \
        cargo build --release --locked --target-dir "$place/target" 2>&1 | tail -n 1)
    # Only the program is kept: two target folders take 3 GB.
    mv "$place/target/release/reranker" "$place.program"
    rm -rf "$place"
done
a=$(sha256sum <"$work/a.program") b=$(sha256sum <"$work/another/folder/b.program")
echo "record: sha256 ${a%% *}, rustc $(rustc --version | cut -d ' ' -f 2), commit $commit"
if [[ $a != "$b" ]]; then
    echo "record: the second build differs: ${b%% *}"
    cmp "$work/a.program" "$work/another/folder/b.program" | head -n 3
    exit 1
fi
