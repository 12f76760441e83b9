#!/usr/bin/env bash
# `make deploy-… PLAN=1` as somebody types it who has no account: the plan of a first deployment, and what is refused before anything is asked.
#
#   suites/deploy/plans.sh aws|azure      suites/terraform/run.sh starts it, with the providers' schemas at hand
set -euo pipefail
cd "$(dirname "$0")/../.."
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
export DEPLOY_STATE=$state
# Nobody's credentials, and no region of this machine's.
export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null AWS_EC2_METADATA_DISABLED=true
unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_PROFILE MAKEFLAGS MAKELEVEL

plan() { make --no-print-directory "$1" PLAN=1 "${@:3}" >"$state/plan" 2>&1 || { cat "$state/plan" >&2; return 1; }
    grep -qE "$2" "$state/plan" || { cat "$state/plan" >&2; echo "$*: the plan lacks $2" >&2; return 1; }; echo "$*"; }
refused() { if make --no-print-directory "$1" PLAN=1 "${@:3}" >"$state/plan" 2>&1; then echo "$*: was planned" >&2; return 1; fi
    grep -qE "$2" "$state/plan" || { cat "$state/plan" >&2; echo "$*: not refused by $2" >&2; return 1; }; echo "$*"; }

# `make prove-azure` up to its price, for a subscription that `az` has here and nowhere else. Nothing may be made before the price is allowed.
bounded() {
    mkdir -p "$state/bin"
    ln -sf "$PWD/suites/deploy/bin/docker" "$state/bin/docker"
    cat >"$state/bin/az" <<'AZ'
#!/usr/bin/env bash
echo "$*" >>"$DEPLOY_STATE/asked"
case "$*" in
    version*) ;;
    "account show"*) echo '{"id": "00000000-0000-0000-0000-000000000000"}' ;;
    "provider list"*) sed -n '/^PROVIDERS/,/]/p' deploy/azure.py | grep -oE 'Microsoft[.]\w+' | sed 's/.*/{"namespace": "&", "registrationState": "Registered"}/' | paste -sd , | sed 's/.*/[&]/' ;;
    "group show"*) echo "(ResourceGroupNotFound)" >&2; exit 3 ;;
    *) echo "not asked before the price is known: az $*" >&2; exit 2 ;;
esac
AZ
    chmod +x "$state/bin/az"
    if PATH=$state/bin:$PATH DOCKER_IMAGES=$state/images make --no-print-directory prove-azure MODEL=demo LOCATION=westeurope MAX_DOLLARS=0.01 >"$state/plan" 2>&1; then
        echo "prove-azure: went on above its bound" >&2
        return 1
    fi
    local part
    for part in 'a day of each' '1 × azurerm_container_registry' '60 minutes of 1 replicas, of the old and the new revision' 'the key vault' 'more than MAX_DOLLARS=0.01: nothing was made'; do
        grep -qF "$part" "$state/plan" || { cat "$state/plan" >&2; echo "prove-azure: its price lacks $part" >&2; return 1; }
    done
    [[ -z $(find "$state" -name settings.json) ]] || { echo "prove-azure: a record is left of what was refused" >&2; return 1; }
    echo "prove-azure: refused above its bound, after: $(cut -d ' ' -f 1,2 "$state/asked" | sort -u | paste -sd ,)"
}

case $1 in
    aws)
        export REGION=eu-central-1
        plan deploy-aws 'memory_size += 10240'
        plan deploy-aws 'memory_size += 3538' MODEL=demo
        plan deploy-aws 'apply_on += "PublishedVersions"' SET="start=snap-start"
        plan deploy-aws 'aws_sfn_state_machine' SET="bulk=true"
        refused deploy-aws '1769 \(one vCPU\)' SET="memory_mb=512"
        refused deploy-aws 'has no variable memory_gb' SET="memory_gb=10"
        # By the SAM CLI of suites/aws/run.sh, which comes first.
        if [[ -x target/aws/tools/bin/sam ]]; then
            export PATH=$PWD/target/aws/tools/bin:$PATH SAM_CLI_TELEMETRY=0
            plan deploy-aws 'is a valid SAM Template' TOOL=sam SET="start=snap-start allow_anonymous=true"
            plan deploy-aws 'AllowAnonymous=true' TOOL=sam SET="start=snap-start allow_anonymous=true"
            refused deploy-aws 'no parameter Bulk' TOOL=sam SET="bulk=true"
        fi
        ;;
    azure)
        plan deploy-azure 'resource "azurerm_container_app"'
        plan deploy-azure 'max_replicas += 300' SET='scale={"max_replicas":300}'
        plan deploy-azure-gpu 'Consumption-GPU-NC24-A100' SET='gpu={"profile":"Consumption-GPU-NC24-A100"}'
        plan deploy-functions 'resource "azurerm_linux_function_app"'
        # What the provider takes, and not only the schema.
        refused deploy-azure '<= 300' SET='scale={"max_replicas":301}'
        refused deploy-azure '1 to 3600' SET='scale={"cooldown_seconds":0}'
        refused deploy-azure-gpu '<= 300' SET='gpu={"max_replicas":301}'
        refused deploy-azure 'at most 16' DEPLOYMENT=a-name-of-more-than-16
        # The bound of a proof, by the plan of all that it would make: where the provider is its schema alone, which asks for no account.
        if [[ -v TF_REATTACH_PROVIDERS ]]; then bounded; fi
        ;;
    *) echo "aws or azure" >&2; exit 2 ;;
esac
