#!/usr/bin/env bash
# Makes the archive and the wheel, twice, and installs both in clean folders.
#
#   suites/dist/run.sh [PROGRAM]         PROGRAM: the image's, which is static; any other is linked anew
#   suites/dist/run.sh --made FOLDER     installs what `make dist` has made
#
# Needs python3 with venv, and binutils.
set -euo pipefail
cd "$(dirname "$0")/../.."
source suites/lib.sh
work=target/dist
made=$work/made
mkdir -p $work

if [[ ${1-} == --made ]]; then
    made=$2
else
    program=$(program "${1-}")
    with=()
    if readelf --wide --program-headers "$program" | grep -q INTERP; then
        echo "$program needs libraries of this machine: it is linked anew"
    else
        with=(--program "$program")
    fi
    python3 packaging/dist.py "${with[@]}" --out $made
    python3 packaging/dist.py "${with[@]}" --out $work/again >/dev/null
    cmp $made/SHA256SUMS $work/again/SHA256SUMS || { echo "FAIL  the same program does not give the same bytes" >&2; exit 1; }
    rm -rf $work/again
fi
exec python3 suites/dist/drive.py "$made" $work/run
