#!/bin/sh
# Calls the compiler; for the engine, which maps files, with the permission to use what is not stable. Set for everything, build scripts
# would see it, and all that depends on them would be compiled again.
case "$*" in
*"--crate-name reranker_engine "*) RUSTC_BOOTSTRAP=1 exec "$@" ;;
*) exec "$@" ;;
esac
