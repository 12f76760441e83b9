#!/usr/bin/env bash
# Checks template.yaml and terraform/aws as far as can be without an account: by linters, by translation to what CloudFormation sees,
# by Terraform's own tests, and by running the bulk state machine against the program.
#
#   suites/aws/run.sh [PROGRAM]      PROGRAM: target/release/reranker where it is not given
#
# The tools come from PyPI at pinned versions, and are kept under target/aws. Terraform is checked by suites/terraform/run.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
source suites/lib.sh

program=$(program "${1-}")
work=$PWD/target/aws
export SAM_CLI_TELEMETRY=0 CHECKPOINT_DISABLE=1

step() { printf -- '-- %s\n' "$1"; }

venv "$work/tools" suites/aws/requirements.txt
venv target/terraform/tools/checkov suites/terraform/requirements-checkov.txt
bin=$work/tools/bin

step "the SAM template, and what CloudFormation will see of it"
"$bin/sam" validate --lint --region us-east-1 --template template.yaml
rm -rf "$work/template"
"$bin/python" suites/aws/translate.py template.yaml "$work/template"
# Without W2001, parameters that are not used: SAM has put in the value of some. The template itself was asked that above. Without W3011, as the
# template says.
"$bin/cfn-lint" --regions us-east-1 eu-central-1 --ignore-checks W2001 W3011 -- "$work"/template/*.json

step "checkov"
scan() { "$work/../terraform/tools/checkov/bin/checkov" --quiet --compact --skip-download "$@"; }
scan --framework cloudformation --file template.yaml
scan --framework cloudformation --directory "$work/template"

step "the bulk state machine"
case $(uname -m) in
    x86_64) arch=x86_64 ;;
    *) arch=arm64 ;;
esac
emulator=$("$bin/python" -c 'import pathlib, samcli; print(pathlib.Path(samcli.__file__).parent / "local/rapid")')/aws-lambda-rie-$arch
"$bin/python" suites/aws/bulk.py "$program" "$emulator" "$work/bulk"
"$bin/cfn-lint" --regions us-east-1 -- "$work/bulk/bulk.json"

venv "$work/moto" suites/s3/requirements.txt
"$work/moto/bin/python" suites/aws/lines.py

step "what looks at a version before callers reach it, and removes old ones"
"$work/moto/bin/python" suites/aws/rollout.py "$program" "$emulator" "$work/rollout"

step "Terraform"
python3 suites/terraform/tables.py --check
python3 suites/terraform/dashboards.py
suites/terraform/run.sh terraform/aws
