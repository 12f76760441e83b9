#!/usr/bin/env bash
# Checks Terraform configurations as far as that goes without a cloud: format, `validate` and their tests against the providers' schemas,
# and checkov.
#
#   suites/terraform/run.sh terraform/aws|terraform/azure     that root, and every module and example with a provider of the same cloud
#
# The providers come from Terraform's registry, or from where TF_CLI_CONFIG_FILE says. Where neither has them, their schemas do, from
# packages on PyPI (schemas.py), served by one process (provider.py). Of the rules that a provider has for values, azurerm's are then checked
# as far as rules.py has them.
# Works on a copy below target/terraform, so that no .terraform folder gets into the tree.
set -euo pipefail
cd "$(dirname "$0")/../.."
source suites/lib.sh
here=suites/terraform
source=${1:?usage: suites/terraform/run.sh terraform/aws|terraform/azure}
tools=$PWD/target/terraform/tools
work=target/terraform/${source##*/}/terraform

# A setting that names no file is none.
[[ -f ${TF_CLI_CONFIG_FILE:-} ]] || unset TF_CLI_CONFIG_FILE
export CHECKPOINT_DISABLE=1

not_run() {
    echo "NOT RUN: $source was not checked: $1" >&2
    exit 0
}
command -v terraform >/dev/null || not_run "this machine has no terraform"

case $source in
    terraform/aws) provider='hashicorp/aws"' ;;
    terraform/azure) provider='(hashicorp/azurerm|azure/azapi)"' ;;
    *) echo "$source: terraform/aws or terraform/azure" >&2; exit 2 ;;
esac
mapfile -t folders < <(grep -lE "source += +\"$provider" terraform/*/versions.tf terraform/*/*/versions.tf | xargs -n 1 dirname)
step() { printf -- '-- %s: %s (%ss)\n' "$source" "$1" "$SECONDS"; }

step format
terraform fmt -check -diff -recursive terraform

rm -rf "${work%/terraform}"
mkdir -p "$work" "$tools"
# Each configuration in its place, as they name each other by relative paths.
cp -r terraform/. "$work"
# What a function's code is packed from.
cp -rL aws "$work/.."
find "$work" -name .terraform -prune -exec rm -rf {} + -o -name .terraform.lock.hcl -exec rm {} +

step providers
folders=("${folders[@]/#terraform/$work}")
ready() { # FOLDER
    terraform -chdir="$1" init -backend=false -input=false -no-color >"$1/init.log" 2>&1
}
export TF_PLUGIN_CACHE_DIR=$tools/cache TF_PLUGIN_CACHE_MAY_BREAK_DEPENDENCY_LOCK_FILE=true
mkdir -p "$TF_PLUGIN_CACHE_DIR"
if ! ready "${folders[0]}"; then
    grep -m1 -A2 Error "${folders[0]}/init.log" | tr '\n' ' ' >&2
    printf '\nnot from the registry; their schemas from PyPI then\n' >&2
    venv "$tools/schemas" $here/requirements-schemas.txt || not_run "there are neither providers nor the packages that have their schemas"
    "$tools/schemas/bin/python" $here/schemas.py terraform "$tools" >"$tools/served" || {
        [[ $? == 3 ]] && not_run "there are neither providers nor the packages that have their schemas"
        exit 1
    }
    mapfile -t served <"$tools/served"
    exec {answer}< <(exec "$tools/schemas/bin/python" $here/provider.py "${served[@]}")
    server=$!
    trap 'kill "$server"' EXIT
    IFS= read -r TF_REATTACH_PROVIDERS <&"$answer"
    export TF_REATTACH_PROVIDERS
    ready "${folders[0]}" || { cat "${folders[0]}/init.log" >&2; exit 1; }
fi
for folder in "${folders[@]:1}"; do
    ready "$folder" || { cat "$folder/init.log" >&2; exit 1; }
done
terraform -chdir="${folders[0]}" version -no-color

step "validate and tests of ${#folders[@]} configurations"
check() { # FOLDER
    {
        echo "-- ${1#target/}"
        terraform -chdir="$1" validate -no-color && { [[ ! -d $1/tests ]] || terraform -chdir="$1" test -no-color; }
    } >"$1/check.log" 2>&1 || { cat "$1/check.log"; return 1; }
    cat "$1/check.log"
}
export -f check
printf '%s\0' "${folders[@]}" | xargs -0 -n 1 -P "$(nproc)" bash -c 'check "$1"' check

step "changes of what is deployed: modules where there were none, every variable"
if [[ -v TF_REATTACH_PROVIDERS ]]; then
    python3 $here/moved.py "$work/${source##*/}" "$here/before/${source##*/}.txt"
    # Of terraform/aws suites/deploy changes every variable on a stack that runs.
    [[ $source == terraform/aws ]] || python3 $here/changes.py "$work/${source##*/}"
else
    echo "NOT RUN: the true providers would ask for an account" >&2
fi

step "the plans that are shown before deploying"
suites/deploy/plans.sh "${source##*/}"

step checkov
venv "$tools/checkov" $here/requirements-checkov.txt || not_run "checkov can't be installed; all before it has passed"
"$tools/checkov/bin/checkov" --version
# A module is looked at where it is called, with what is not deployed by default, too. Tests are not deployed. The rules are those of the package;
# nothing is asked of its maker's service.
scan() { "$tools/checkov/bin/checkov" "$@" --skip-path tests --framework terraform --quiet --compact --skip-download; }
scan --directory "$source" --var-file "$here/${source##*/}.tfvars"
# The examples of both clouds at once.
[[ $source != terraform/aws ]] || scan --directory terraform/examples
