#!/usr/bin/env bash
# Runs examples/spark_rerank.py and examples/ray_rerank.py on the real engines, with a worker killed, beside one machine's `score`.
#
#   suites/engines/run.sh [PROGRAM]      PROGRAM: target/release/reranker where it is not given
#
# PySpark and Ray come from PyPI at the versions in requirements.txt and are kept under target/engines. Spark needs Java: Debian's where there is
# none.
set -euo pipefail
cd "$(dirname "$0")/../.."
source suites/lib.sh

program=$(program "${1-}")
command -v java >/dev/null || debian default-jre-headless

folder=target/engines
# PySpark has no wheel.
venv $folder/venv suites/engines/requirements.txt --no-deps --only-binary :all: --no-binary pyspark
[[ -f models/demo/packed.safetensors ]] || "$program" pack --model models/demo

rm -rf $folder/run && mkdir $folder/run
exec $folder/venv/bin/python suites/engines/drive.py "$(realpath "$program")" $folder/run
