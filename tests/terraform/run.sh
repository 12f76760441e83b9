#!/usr/bin/env bash
# Checks a Terraform configuration as far as that goes without a cloud: format, `validate` and its tests against the providers' schemas,
# and checkov.
#
#   tests/terraform/run.sh DIR      for example terraform/azure
#
# The providers come from Terraform's registry, or from where TF_CLI_CONFIG_FILE says. Where neither has them, their schemas do, from
# packages on PyPI (schemas.py): then all is checked but the rules that a provider has for values. Works on a copy below
# target/terraform, so that no lock file or .terraform folder gets into the tree.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=tests/terraform
source=${1:?usage: tests/terraform/run.sh DIR}
tools=$PWD/target/terraform/tools
work=target/terraform/${source//\//-}

# A setting that names no file is none.
[[ -f ${TF_CLI_CONFIG_FILE:-} ]] || unset TF_CLI_CONFIG_FILE

not_run() {
    echo "NOT RUN: $source was not checked: $1" >&2
    exit 0
}
command -v terraform >/dev/null || not_run "this machine has no terraform"

# A list that was changed is installed anew.
installed() { # VENV LIST
    cmp -s "$2" "$1/installed.txt" && return
    rm -rf "$1"
    python3 -m venv "$1" && "$1/bin/pip" install --quiet --disable-pip-version-check --requirement "$2" && cp "$2" "$1/installed.txt"
}

printf -- '-- %s: format\n' "$source"
terraform fmt -check -diff -recursive "$source"

rm -rf "$work"
mkdir -p "$(dirname "$work")"
cp -r "$source" "$work"
rm -rf "$work/.terraform" "$work/.terraform.lock.hcl"

printf -- '-- %s: providers\n' "$source"
if ! terraform -chdir="$work" init -backend=false -input=false -no-color >"$work/init.log" 2>&1; then
    grep -m1 -A2 Error "$work/init.log" | tr '\n' ' ' >&2
    printf '\nnot from the registry; their schemas from PyPI then\n' >&2
    installed "$tools/schemas" $here/requirements-schemas.txt || not_run "there are neither providers nor the packages that have their schemas"
    "$tools/schemas/bin/python" $here/schemas.py "$work" "$tools" || {
        [[ $? == 3 ]] && not_run "there are neither providers nor the packages that have their schemas"
        exit 1
    }
    export TF_CLI_CONFIG_FILE=$tools/${work##*/}.rc
    terraform -chdir="$work" init -backend=false -input=false -no-color >"$work/init.log" 2>&1 || { cat "$work/init.log" >&2; exit 1; }
fi
terraform -chdir="$work" version -no-color

printf -- '-- %s: validate\n' "$source"
terraform -chdir="$work" validate -no-color

printf -- '-- %s: tests\n' "$source"
terraform -chdir="$work" test -no-color

printf -- '-- %s: checkov\n' "$source"
installed "$tools/checkov" $here/requirements-checkov.txt || not_run "checkov can't be installed; all before it has passed"
"$tools/checkov/bin/checkov" --version
# Tests are not deployed. The rules are those of the package; nothing is asked of its maker's service.
"$tools/checkov/bin/checkov" --directory "$source" --skip-path tests --framework terraform --quiet --compact --skip-download
