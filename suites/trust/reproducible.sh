#!/usr/bin/env bash
# Builds the committed program twice, in two folders of different length, and compares the bytes. Paths are the one thing in which the two
# would differ: of the sources, and of what a dependency's build script wrote (Swagger UI's pages). They are replaced, as in the images.
# Half an hour on two cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
commit=$(git rev-parse --short HEAD)
work=$(mktemp -d "${TMPDIR:-/tmp}/reproducible.XXXXXX")
trap 'rm -rf "$work"' EXIT
# By a wrapper and not by RUSTFLAGS: those are hashed into the names of the folders that build scripts write to, and such a name is in the
# program. In the images the flags are the same each time.
cat >"$work/rustc" <<'WRAPPER'
#!/usr/bin/env bash
exec "$@" --remap-path-prefix="$PLACE=/source" --remap-path-prefix="${CARGO_HOME:-$HOME/.cargo}=/cargo"
WRAPPER
chmod +x "$work/rustc"
for place in "$work/a" "$work/another/folder/b"; do
    mkdir -p "$place"
    git archive HEAD | tar -x -C "$place"
    (cd "$place" && PLACE=$place RUSTC_WRAPPER="$work/rustc" \
        cargo build --release --locked --target-dir "$place/target" 2>&1 | tail -n 1)
    # Only the program is kept: two target folders take 3 GB.
    mv "$place/target/release/reranker" "$place.program"
    rm -rf "$place"
done
a=$(sha256sum <"$work/a.program") b=$(sha256sum <"$work/another/folder/b.program")
echo "record: sha256 ${a%% *}, rustc $(rustc --version | cut -d ' ' -f 2), commit $commit"
if [[ $a != "$b" ]]; then
    echo "record: the second build differs: ${b%% *}"
    mkdir -p target/trust
    mv "$work/a.program" "$work/another/folder/b.program" target/trust/
    echo "both are kept: target/trust/a.program, target/trust/b.program"
    exit 1
fi
