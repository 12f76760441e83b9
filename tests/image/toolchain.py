#!/usr/bin/env python3
"""Writes a root filesystem that stands in for the Rust image, as a tar on stdout: toolchain.py | podman import - NAME.

No registry of images has to be in reach: Debian's packages come from this machine's own files, the Rust toolchain too, and the crates that
cargo has downloaded here, so that the build inside needs no network. Works on Debian and what is made of it.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile

# What rust:slim has that a build asks for; their dependencies come along.
PACKAGES = "base-files bash ca-certificates coreutils dash debianutils dpkg findutils gcc grep libc6-dev sed tar".split()
LEFT_OUT = re.compile(r"/usr/share/(doc|info|locale|man|lintian|bug)/|/var/lib/(?!dpkg/)|/var/cache/")
CARGO_HOME = "/usr/local/cargo"


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def closure(packages):
    """These packages and all they depend on, of those that are installed."""
    ignored = "recommends suggests conflicts breaks replaces enhances".split()
    found = output("apt-cache", "depends", "--recurse", "--installed", *(f"--no-{kind}" for kind in ignored), *packages)
    names = {line.strip() for line in found.splitlines() if line and not line.startswith((" ", "<"))}
    installed = output("dpkg-query", "--show", "--showformat", "${binary:Package} ${db:Status-Status}\n").splitlines()
    installed = {name.split()[0] for name in installed if name.endswith(" installed")}
    return sorted(name for name in installed if name in names or name.split(":")[0] in names)


def add(archive, path, name=None):
    """One file or folder, without what is in it, as root's."""
    info = archive.gettarinfo(path, (name or path).lstrip("/"))
    if info is None:
        return  # a socket
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    if info.isreg():
        with open(path, "rb") as file:
            archive.addfile(info, file)
    else:
        archive.addfile(info)


def debian(archive):
    paths = set()
    for package in closure(PACKAGES):
        for path in output("dpkg", "--listfiles", package).splitlines():
            # Where /bin is a link to /usr/bin, packages may name either.
            path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
            if path.startswith("/") and not LEFT_OUT.search(path) and os.path.lexists(path):
                paths.add(path)
    # What installing made, rather than a package.
    for link in ("/bin", "/lib", "/lib64", "/sbin"):
        paths.add(link)
    paths.update(("/etc/alternatives", "/etc/ssl/certs", "/etc/ssl/certs/ca-certificates.crt", "/etc/ld.so.cache", "/var/lib/dpkg/status"))
    for name in os.listdir("/etc/alternatives"):
        link, command = f"/etc/alternatives/{name}", f"/usr/bin/{name}"
        if os.path.realpath(link) in paths and os.path.islink(command):
            paths.update((link, command))
    for path in sorted(paths - {"/", "/."}):
        add(archive, path)


def rust(archive):
    root = pathlib.Path(output("rustc", "--print", "sysroot").strip())
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if name.parts[0] == "lib" or str(name) in ("bin/rustc", "bin/cargo"):
            add(archive, str(path), f"/usr/local/{name}")
    home = pathlib.Path(os.environ.get("CARGO_HOME") or pathlib.Path.home() / ".cargo")
    locked = json.loads(output("cargo", "metadata", "--locked", "--format-version", "1"))
    crates = {f"{package['name']}-{package['version']}.crate" for package in locked["packages"] if package["source"]}
    for path in sorted((home / "registry/cache").rglob("*.crate")):
        if path.name in crates:
            add(archive, str(path), f"{CARGO_HOME}/registry/{path.relative_to(home / 'registry')}")
    for path in sorted((home / "registry/index").rglob("*")):
        # cargo keeps one small file for each crate that it was asked about.
        add(archive, str(path), f"{CARGO_HOME}/registry/{path.relative_to(home / 'registry')}")


def main():
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        debian(archive)
        rust(archive)


if __name__ == "__main__":
    main()
