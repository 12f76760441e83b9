#!/usr/bin/env bash
# The long form of what `make test` shows in short. Runs the parts that are named, or all, one after the other; each one's output is
# kept in target/trust/PART.log. Writes what came of them to bench/records/DATE-trust.txt.
# A part that cannot run on this machine ends with status 77 and says why in its last line.
#
#     suites/trust/run.sh PROGRAM [PART...]
set -euo pipefail
cd "$(dirname "$0")/../.."
source suites/lib.sh
program=${1:?the program}
shift

# Name, and command. What a part prints in lines that begin with `record: ` goes into the record.
parts=(
    "fuzz       fuzz/run.sh all ${FUZZ_SECONDS:-3600}"
    "asan       suites/trust/sanitize.sh address"
    "tsan       suites/trust/sanitize.sh thread"
    "miri       suites/trust/miri.sh"
    "aarch64    suites/aarch64/run.sh --guard"
    "audit      suites/trust/audit.sh"
    "load       suites/load/run.sh $program 180"
    "throughput { python3 suites/load/throughput.py $program 20 | sed 's/^/record: /'; }"
    "reproducible  suites/trust/reproducible.sh"
)

mkdir -p target/trust bench/records
record=bench/records/$(date -u +%F)-trust.txt
lines=() failed=0
for part in "${parts[@]}"; do
    read -r name command <<<"$part"
    if [[ $# != 0 && " $* " != *" $name "* ]]; then continue; fi
    printf '\n== %s: %s\n' "$name" "$command"
    begun=$SECONDS status=0
    bash -o pipefail -c "$command 2>&1 | tee target/trust/$name.log" || status=$?
    case $status in
        0) result=passed ;;
        77) result="not run: $(tail -n 1 "target/trust/$name.log")" ;;
        *) result="FAILED ($status)" failed=1 ;;
    esac
    lines+=("$(printf '%-14s %5d s  %s' "$name" $((SECONDS - begun)) "$result")")
    while IFS= read -r line; do lines+=("    $line"); done < <(sed -n 's/^record: //p' "target/trust/$name.log")
done
if [[ ${#lines[@]} == 0 ]]; then
    echo "no such part: $*" >&2
    exit 2
fi
{
    printf 'date      %s\n' "$(date -u +%FT%TZ)"
    printf 'commit    %s%s\n' "$(git rev-parse --short HEAD)" "$(git diff --quiet HEAD || echo ' with changes')"
    printf 'machine   %s, %s cores\n' "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)"
    printf 'rust      %s\n\n' "$(rustc --version)"
    printf '%s\n' "${lines[@]}"
} | tee "$record"
exit $failed
