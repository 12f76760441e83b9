#!/usr/bin/env bash
# Moves the alias to TARGET: by CodeDeploy, whose result is this script's; or AT_ONCE, which is the way back. Terraform runs it.
set -euo pipefail
export AWS_DEFAULT_REGION=$REGION AWS_PAGER=

alias_of() { aws lambda get-alias --function-name "$FUNCTION" --name "$ALIAS" --query "$1" --output text; }
current=$(alias_of FunctionVersion)
weights=$(alias_of RoutingConfig.AdditionalVersionWeights)

running=$(aws deploy list-deployments --application-name "$APPLICATION" --deployment-group-name "$GROUP" \
    --include-only-statuses Created Queued InProgress --query 'deployments[0]' --output text)
if [[ $running != None ]]; then
    echo "deployment $running is stopped first"
    aws deploy stop-deployment --deployment-id "$running" --auto-rollback-enabled >/dev/null
    for _ in $(seq 60); do
        status=$(aws deploy get-deployment --deployment-id "$running" --query deploymentInfo.status --output text)
        [[ $status == Stopped || $status == Failed || $status == Succeeded ]] && break
        sleep 1
    done
    current=$(alias_of FunctionVersion)
    weights=$(alias_of RoutingConfig.AdditionalVersionWeights)
fi

if [[ -n $AT_ONCE ]]; then
    aws lambda update-alias --function-name "$FUNCTION" --name "$ALIAS" --function-version "$TARGET" \
        --routing-config 'AdditionalVersionWeights={}' >/dev/null
    echo "$FUNCTION:$ALIAS is at version $TARGET"
    exit
fi
if [[ $current == "$TARGET" && $weights == None ]]; then
    echo "$FUNCTION:$ALIAS is at version $TARGET already"
    exit
fi

spec=$(printf '{"version": 0.0, "Resources": [{"reranker": {"Type": "AWS::Lambda::Function", "Properties": {"Name": "%s", "Alias": "%s", "CurrentVersion": "%s", "TargetVersion": "%s"}}}], "Hooks": [{"BeforeAllowTraffic": "%s"}]}' \
    "$FUNCTION" "$ALIAS" "$current" "$TARGET" "$HOOK")
revision=$(SPEC=$spec python3 -c 'import json, os; print(json.dumps({"revisionType": "AppSpecContent", "appSpecContent": {"content": os.environ["SPEC"]}}))')
deployment=$(aws deploy create-deployment --application-name "$APPLICATION" --deployment-group-name "$GROUP" --revision "$revision" \
    --description "version $TARGET of $FUNCTION" --query deploymentId --output text)
echo "deployment $deployment moves $FUNCTION:$ALIAS from version $current to $TARGET"
while true; do
    status=$(aws deploy get-deployment --deployment-id "$deployment" --query deploymentInfo.status --output text)
    case $status in
        Succeeded) exit ;;
        Failed | Stopped)
            aws deploy get-deployment --deployment-id "$deployment" \
                --query 'deploymentInfo.[errorInformation.message, rollbackInfo.rollbackMessage]' --output text >&2
            echo "$FUNCTION:$ALIAS stays at version $current. The log of $HOOK and the alarms say why." >&2
            exit 1
            ;;
    esac
    sleep 5
done
