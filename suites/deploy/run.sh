#!/usr/bin/env bash
# Deploys, changes, rolls back and destroys by the very commands that users type, with the true Terraform and its AWS provider, on a local AWS.
#
#   suites/deploy/run.sh [PROGRAM]      PROGRAM: target/release/reranker where it is not given; it answers at the public addresses
#
# moto and the AWS CLI come from PyPI and are kept under target/deploy. The provider comes from Terraform's registry, or from a mirror folder,
# TF_PLUGIN_MIRROR. Works on a copy of the tree, so that no state gets into it. Ports: CLOUD_PORT (18500) to CLOUD_PORT + 40.
set -euo pipefail
cd "$(dirname "$0")/../.."
source suites/lib.sh

program=$(program "${1-}")
program=$(realpath "$program")
shift || true
work=$PWD/target/deploy
mirror=${TF_PLUGIN_MIRROR:-/opt/tf-plugins}
not_run() { echo "NOT RUN: deploying was not tried: $1" >&2; exit 0; }
command -v terraform >/dev/null || not_run "this machine has no terraform"
# A setting that names no file is none.
[[ -f ${TF_CLI_CONFIG_FILE:-} ]] || unset TF_CLI_CONFIG_FILE

venv "$work/venv" suites/deploy/requirements.txt

rm -rf "$work/run"
mkdir -p "$work/run/tree/crates/sources/src" "$work/run/tree/src/cli/verify" "$work/run/tree/models"
tree=$work/run/tree
cp -r deploy terraform aws azure dashboards Makefile template.yaml Dockerfile.lambda "$tree"
cp crates/sources/src/pins.json "$tree/crates/sources/src/"
cp src/cli/verify/published.json "$tree/src/cli/verify/"
cp -r models/demo "$tree/models/"
rm -rf "$tree/deploy/state"
find "$tree" -name .terraform -prune -exec rm -rf {} +

# Where the registry cannot be reached, an older provider of the mirror plans and applies everything but what only newer ones have.
if ! terraform -chdir="$tree/terraform/aws" init -backend=false -input=false -no-color >"$work/run/init.log" 2>&1; then
    grep -qs . "$mirror"/registry.terraform.io/hashicorp/aws/*/*/LICENSE* || not_run "the AWS provider is neither in Terraform's registry nor in $mirror"
    cat > "$work/run/terraform.rc" <<RC
provider_installation {
  filesystem_mirror {
    path    = "$mirror"
    include = ["hashicorp/aws"]
  }
}
disable_checkpoint = true
RC
    export TF_CLI_CONFIG_FILE=$work/run/terraform.rc
    find "$tree/terraform" -name '*.tf' -exec sed -i -E '/source += "hashicorp\/aws"/,/version/s/version( +)= .*/version\1= ">= 5.0"/; /^ *invoked_via_function_url /d' {} +
    # The mirror has no provider that packs archives: the code of the functions that watch roll-outs is packed here.
    python3 - "$tree/terraform/modules/lambda" <<'PYTHON'
import pathlib, re, sys, zipfile
folder = pathlib.Path(sys.argv[1])
packed = folder / "rollout.zip"
with zipfile.ZipFile(packed, "w") as archive:
    archive.writestr(zipfile.ZipInfo("rollout.py"), "")
for path in [*folder.parents[1].rglob("*.tf")]:
    text = re.sub(r'(?ms)^data "archive_file".*?^\}\n', "", path.read_text())
    text = re.sub(r"(?ms)^    archive = \{.*?^    \}\n", "", text)
    # Managed Instances, which no scene has, are newer than the mirror's provider.
    text = re.sub(r'(?ms)^  dynamic "capacity_provider_config" .*?^  \}\n', "", text)
    text = text.replace("data.archive_file.rollout[0].output_path", '"${path.module}/rollout.zip"')
    path.write_text(text.replace("data.archive_file.rollout[0].output_base64sha256", 'filebase64sha256("${path.module}/rollout.zip")'))
PYTHON
fi
rm -rf "$tree/terraform/aws/.terraform"

openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=front -addext "subjectAltName=DNS:*.execute-api.eu-central-1.amazonaws.com,DNS:*.execute-api.us-west-2.amazonaws.com" \
    -keyout "$work/run/key.pem" -out "$work/run/front.pem" 2>/dev/null
cat "$work/run/front.pem" "$work/run/key.pem" > "$work/run/both.pem"
PATH=$PWD/suites/deploy/bin:$work/venv/bin:$PATH "$work/venv/bin/python" -u suites/deploy/drive.py "$tree" "$work/run" "$program" "${CLOUD_PORT:-18500}" "$@"
