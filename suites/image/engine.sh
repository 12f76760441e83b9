#!/usr/bin/env bash
# Docker for a machine that may have none: prints the variables under which `docker` and `podman` work.
#
#   eval "$(suites/image/engine.sh FOLDER)"
#
# Where a daemon answers, that one is used. Otherwise podman from Debian serves Docker's API on a socket in FOLDER; stop it with
#   kill "$(cat FOLDER/podman.pid)"
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
mkdir -p "$1"
folder=$(cd "$1" && pwd)

if docker version >/dev/null 2>&1; then
    exit 0
fi
packages=()
for command in podman runc iptables docker; do
    case $command in
        docker) package=docker.io ;;
        *) package=$command ;;
    esac
    command -v "$command" >/dev/null || packages+=("$package")
done
if ((${#packages[@]})); then debian "${packages[@]}" netavark aardvark-dns; fi

conf=$folder/containers.conf
cat > "$conf" <<'CONF'
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=8192:8192"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
CONF
socket=$folder/podman.sock
export CONTAINERS_CONF=$conf
if ! DOCKER_HOST=unix://$socket docker version >/dev/null 2>&1; then
    rm -f "$socket"
    setsid podman system service --time=0 "unix://$socket" >"$folder/podman.log" 2>&1 </dev/null &
    echo $! > "$folder/podman.pid"
    for _ in $(seq 100); do [[ -S $socket ]] && break; sleep 0.1; done
    DOCKER_HOST=unix://$socket docker version >/dev/null || { cat "$folder/podman.log" >&2; exit 1; }
fi
echo "export CONTAINERS_CONF=$conf DOCKER_HOST=unix://$socket DOCKER_BUILDKIT=0"
