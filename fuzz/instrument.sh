#!/bin/sh
# Calls the compiler, and has it count which branches are taken in our own code. These are libFuzzer's flags, which a stable compiler
# takes too; cargo-fuzz sets them for everything and is left alone. Dependencies stay as the program has them.
count="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
case "$*" in
*sancov-module*) exec "$@" ;;
*"--crate-name reranker "* | *"--crate-name reranker_"*) exec "$@" $count ;;
# Without the dependencies' line numbers, of which each of a dozen programs would have its copy.
*fuzz_targets/*) exec "$@" $count -Cstrip=debuginfo ;;
*) exec "$@" ;;
esac
