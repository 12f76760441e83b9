#!/usr/bin/env bash
# Deploys, changes, rolls back and destroys by the very commands that users type, with the true Terraform and its AWS provider and the true SAM CLI,
# on a local AWS.
#
#   suites/deploy/run.sh [PROGRAM [--one-by-one] [SCENE…]]     PROGRAM: target/release/reranker where it is not given; it answers at the public addresses
#
# --one-by-one changes each variable of Terraform by itself (a quarter of an hour); without it, those that do not touch each other go at once.
# moto and both CLIs come from PyPI and are kept under target. The provider comes from Terraform's registry, or from a mirror folder,
# TF_PLUGIN_MIRROR. Without it, or without Terraform, SAM's scenes alone are played. Works on copies of the tree, so that no state gets into it.
# Ports: CLOUD_PORT (18500) to CLOUD_PORT + 150.
set -euo pipefail
cd "$(dirname "$0")/../.."
source suites/lib.sh

program=$(program "${1-}")
program=$(realpath "$program")
shift || true
work=$PWD/target/deploy
mirror=${TF_PLUGIN_MIRROR:-/opt/tf-plugins}
accounts=(life new sam)
mirrored() { find "$mirror/registry.terraform.io/hashicorp/aws" -name 'terraform-provider-aws*' -type f 2>/dev/null | tail -n 1 || true; }
without_terraform() { echo "NOT RUN: deploying by Terraform was not tried, by SAM alone: $1" >&2; accounts=(sam) provider=none; }
# A setting that names no file is none.
[[ -f ${TF_CLI_CONFIG_FILE:-} ]] || unset TF_CLI_CONFIG_FILE

venv "$work/venv" suites/deploy/requirements.txt
venv target/aws/tools suites/aws/requirements.txt

rm -rf "$work/run"
tree=$work/run/tree
mkdir -p "$tree"
# What the commands read of the tree: deploy/ names its files itself.
cp -r deploy terraform aws azure dashboards Makefile template.yaml Dockerfile.lambda "$tree"
grep -ohP 'ROOT / "\K[^"]+\.json' deploy/*.py | xargs -I{} cp --parents {} "$tree"
mkdir -p "$tree/models" && cp -r models/demo "$tree/models/"
rm -rf "$tree/deploy/state"
find "$tree" -name .terraform -prune -exec rm -rf {} +

# Where the registry cannot be reached, an older provider of the mirror plans and applies everything but what only newer ones have.
export CHECKPOINT_DISABLE=1
if ! command -v terraform >/dev/null; then
    without_terraform "this machine has no terraform"
elif terraform -chdir="$tree/terraform/aws" init -backend=false -input=false -no-color >"$work/run/init.log" 2>&1; then
    provider=$(find "$tree/terraform/aws/.terraform/providers" -name 'terraform-provider-aws*' -type f)
    mv "$provider" "$work/run/provider"
    provider=$work/run/provider
elif provider=$(mirrored) && [[ -z $provider ]]; then
    without_terraform "the AWS provider is neither in Terraform's registry nor in $mirror"
else
    # The mirror has no provider that packs archives: the code of the functions beside the service is packed here. Managed Instances, which no scene
    # has, are newer than the mirror's provider, and so is an argument of permissions.
    python3 - "$tree/terraform" <<'PYTHON'
import pathlib, re, sys, zipfile
for path in pathlib.Path(sys.argv[1]).rglob("*.tf"):
    text = path.read_text()
    for name in re.findall(r'(?m)^data "archive_file" "(\w+)"', text):
        with zipfile.ZipFile(path.parent / f"{name}.zip", "w") as archive:
            archive.writestr(zipfile.ZipInfo(f"{name}.py"), "")
    text = re.sub(r'(?ms)^data "archive_file".*?^\}\n', "", text)
    text = re.sub(r"(?ms)^    archive = \{.*?^    \}\n", "", text)
    text = re.sub(r'(?ms)^  dynamic "capacity_provider_config" .*?^  \}\n', "", text)
    text = re.sub(r"(?m)^ *invoked_via_function_url .*\n", "", text)
    text = re.sub(r"data\.archive_file\.(\w+)(?:\[0\])?\.output_path", r'"${path.module}/\1.zip"', text)
    text = re.sub(r"data\.archive_file\.(\w+)(?:\[0\])?\.output_base64sha256", r'filebase64sha256("${path.module}/\1.zip")', text)
    path.write_text(text)
PYTHON
fi
rm -rf "$tree/terraform/aws/.terraform"

openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=front -addext "subjectAltName=DNS:*.execute-api.eu-central-1.amazonaws.com,DNS:*.execute-api.us-west-2.amazonaws.com" \
    -keyout "$work/run/key.pem" -out "$work/run/front.pem" 2>/dev/null
cat "$work/run/front.pem" "$work/run/key.pem" > "$work/run/both.pem"

# Each account is a cloud of its own, with a tree and records of its own: they are played at once.
export PATH=$PWD/suites/deploy/bin:$work/venv/bin:$PWD/target/aws/tools/bin:$PATH SAM_CLI_TELEMETRY=0
port=${CLOUD_PORT:-18500}
players=()
trap 'kill "${players[@]}" 2>/dev/null || true' EXIT
for account in "${accounts[@]}"; do
    folder=$work/run/$account
    mkdir "$folder"
    cp -r "$tree" "$folder/tree"
    cp "$work"/run/*.pem "$folder"
    "$work/venv/bin/python" -u suites/deploy/drive.py "$account" "$folder/tree" "$folder" "$program" "$provider" "$port" "$@" &
    players+=($!)
    port=$((port + 50))
done
failed=0
for player in "${players[@]}"; do
    wait "$player" || failed=1
done
exit "$failed"
