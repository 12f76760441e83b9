#!/usr/bin/env bash
# Installs from Debian what compiles for AArch64 and runs it under emulation, where it is missing: a compiler with the target's libraries
# among it. Ends with status 77 where nothing can be installed.
set -euo pipefail
cd "$(dirname "$0")/../.."
source suites/lib.sh
packages=(rustc-web cargo-web libstd-rust-web-dev:arm64 gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static)
if ! dpkg-query --show --showformat '${db:Status-Status}\n' "${packages[@]}" 2>/dev/null | grep -cx installed | grep -qx ${#packages[@]}; then
    if ! { root dpkg --add-architecture arm64 && root apt-get update -qq; }; then
        echo "AArch64 needs Debian's packages, and this machine can't install any: ${packages[*]}" >&2
        exit 77
    fi
    root apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi
