# shellcheck shell=bash
# What the suites share. To be sourced at the top of the tree. Drivers in Python share lib/suite.py.
export PYTHONPATH=$PWD/suites/lib PYTHONDONTWRITEBYTECODE=1

# program [PATH]: the program that a suite drives, by default the one that `make build` makes. Ends the suite where it is not there.
program() {
    local program=${1:-target/release/reranker}
    [[ -x $program ]] || { echo "there is no $program: build it with make build" >&2; exit 2; }
    printf '%s' "$program"
}

root() { if [[ $(id -u) == 0 ]]; then "$@"; else sudo -n "$@"; fi; }

# debian PACKAGE…: installs packages. Fails where this machine can install none.
debian() { root apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive root apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }

# changed LIST FOLDER: true where FOLDER was not installed from LIST; then FOLDER is emptied. `installed` ends the installation.
changed() {
    if cmp -s "$1" "$2/installed.txt"; then return 1; fi
    rm -rf "$2" && mkdir -p "$2"
}
installed() { cp "$1" "$2/installed.txt"; }

# venv FOLDER LIST [OPTION…]: a Python environment with the packages of LIST, made anew where LIST has changed.
venv() {
    if ! changed "$2" "$1"; then return; fi
    python3 -m venv "$1" && "$1/bin/pip" install --quiet --disable-pip-version-check "${@:3}" --requirement "$2" && installed "$2" "$1"
}
