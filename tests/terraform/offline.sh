#!/usr/bin/env bash
# Makes providers that have the true schemas and nothing behind them, for machines that can't reach Terraform's registry.
#
#   tests/terraform/offline.sh WORK FOLDER NAMESPACE/NAME=PACKAGE==VERSION…
#
# NAME's schema, as far as the Terraform files in FOLDER use it, is read from PACKAGE of PyPI. TF_CLI_CONFIG_FILE=WORK/cli.tfrc then
# lets Terraform find them. Don't keep the lock file that an init with them writes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
work=$(cd "$1" && pwd)
folder=$2
shift 2

if ! cmp -s "$here/requirements.txt" "$work/venv/installed.txt"; then
    rm -rf "$work/venv"
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$work/venv/installed.txt"
fi
rm -rf "$work/mirror"
for provider in "$@"; do
    address=${provider%%=*}
    package=${provider#*=}
    name=${address#*/}
    wheels=$work/wheels/${package//==/-}
    if [[ ! -d $wheels ]]; then
        "$work/venv/bin/pip" download --quiet --no-deps --disable-pip-version-check --dest "$wheels.part" "$package"
        mv "$wheels.part" "$wheels"
    fi
    "$work/venv/bin/python" "$here/schema.py" "$wheels"/*.whl "$work/$name.json" "$folder"
    version=$("$work/venv/bin/python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["version"])' "$work/$name.json")
    case $(uname -m) in
        x86_64) platform=linux_amd64 ;;
        *) platform=linux_arm64 ;;
    esac
    program=$work/mirror/registry.terraform.io/$address/$version/$platform/terraform-provider-${name}_v$version
    mkdir -p "$(dirname "$program")"
    printf '#!/bin/sh\nexec "%s" "%s" "%s"\n' "$work/venv/bin/python" "$here/provider.py" "$work/$name.json" >"$program"
    chmod +x "$program"
done
printf 'provider_installation {\n  filesystem_mirror {\n    path = "%s"\n  }\n}\ndisable_checkpoint = true\n' "$work/mirror" >"$work/cli.tfrc"
