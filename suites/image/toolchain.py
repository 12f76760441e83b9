#!/usr/bin/env python3
"""Writes a root filesystem that stands in for the Rust image, as a tar on stdout: toolchain.py [OPTION…] | podman import - NAME.

No registry of images has to be in reach: Debian's packages come from this machine's own files, the Rust toolchain too, and the crates that
cargo has downloaded here, so that the build inside needs no network. Works on Debian and what is made of it.
"""

import argparse
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile

# What rust:slim has that a build asks for; their dependencies come along.
PACKAGES = "base-files bash ca-certificates coreutils dash debianutils dpkg findutils gcc grep libc-bin libc6-dev mawk sed tar".split()
# And what installing packages and compiling across asks for.
CROSS = "apt cargo-web debian-archive-keyring debconf diffutils libstd-rust-web-dev libstd-rust-web-dev:arm64 perl-base rustc-web".split()
LEFT_OUT = re.compile(r"/usr/share/(doc|info|locale|man|lintian|bug)/|/var/lib/(?!dpkg/)|/var/cache/")
CARGO_HOME = "/usr/local/cargo"


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def closure(packages):
    """These packages and all they depend on, of those that are installed, with their architectures."""
    ignored = "recommends suggests conflicts breaks replaces enhances".split()
    found = output("apt-cache", "depends", "--recurse", "--installed", *(f"--no-{kind}" for kind in ignored), *packages)
    names = {line.strip() for line in found.splitlines() if line and not line.startswith((" ", "<"))}
    installed = output("dpkg-query", "--show", "--showformat", "${binary:Package} ${db:Status-Status}\n").splitlines()
    installed = {name.split()[0] for name in installed if name.endswith(" installed")}
    own = f":{output('dpkg', '--print-architecture').strip()}"
    return {name for name in installed if name.removesuffix(own) in names}


def records(packages):
    """What dpkg knows of these packages, as the contents of its file, and the files beside it."""
    kept = []
    for record in pathlib.Path("/var/lib/dpkg/status").read_text().split("\n\n"):
        fields = dict(re.findall(r"^(Package|Architecture): (.*)$", record, re.MULTILINE))
        if fields.get("Package") in packages or f"{fields.get('Package')}:{fields.get('Architecture')}" in packages:
            kept.append(record.strip("\n") + "\n")
    files = [path for path in pathlib.Path("/var/lib/dpkg/info").iterdir() if path.stem in packages]
    return "\n".join(kept).encode(), sorted(map(str, files))


def add_bytes(archive, name, contents):
    info = tarfile.TarInfo(name)
    info.size = len(contents)
    info.mode = 0o644
    archive.addfile(info, io.BytesIO(contents))


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


def debian(archive, packages, more=()):
    """Packages with what they depend on, and more paths."""
    paths = set(more)
    packages = closure(packages)
    for package in sorted(packages):
        for path in output("dpkg", "--listfiles", package).splitlines():
            # Where /bin is a link to /usr/bin, packages may name either.
            path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
            if path.startswith("/") and not LEFT_OUT.search(path) and os.path.lexists(path):
                paths.add(path)
    # What installing made, rather than a package.
    for link in ("/bin", "/lib", "/lib64", "/sbin"):
        paths.add(link)
    paths.update(("/etc/alternatives", "/etc/ssl/certs", "/etc/ssl/certs/ca-certificates.crt", "/etc/ld.so.cache"))
    status, files = records(packages)
    add_bytes(archive, "var/lib/dpkg/status", status)
    paths.update(files)
    for name in os.listdir("/etc/alternatives"):
        link, command = f"/etc/alternatives/{name}", f"/usr/bin/{name}"
        if os.path.realpath(link) in paths and os.path.islink(command):
            paths.update((link, command))
    for path in sorted(paths - {"/", "/."}):
        add(archive, path)


def rust(archive, rustup):
    root = pathlib.Path(output("rustc", "--print", "sysroot").strip())
    place = f"/usr/local/rustup/toolchains/{root.name}" if rustup else "/usr/local"
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if name.parts[0] == "lib" or str(name) in ("bin/rustc", "bin/cargo"):
            add(archive, str(path), f"{place}/{name}")
    if rustup:
        add_bytes(archive, "usr/local/rustup/settings.toml", f'version = "12"\ndefault_toolchain = "{root.name}"\n'.encode())
        proxy = os.path.realpath(shutil.which("rustup"))
        for name in ("rustup", "rustc", "cargo"):
            add(archive, proxy, f"{CARGO_HOME}/bin/{name}")


def sources():
    """Where this machine's packages come from."""
    lists = [path for path in pathlib.Path("/etc/apt").rglob("*") if path.parts[3] in ("sources.list", "sources.list.d", "trusted.gpg.d")]
    return ["/var/lib/dpkg/arch", *map(str, lists)]


def folder(archive, source, place):
    for path in sorted(pathlib.Path(source).rglob("*")):
        add(archive, str(path), f"{place}/{path.relative_to(source)}")


def crates(archive):
    home = pathlib.Path(os.environ.get("CARGO_HOME") or pathlib.Path.home() / ".cargo")
    locked = json.loads(output("cargo", "metadata", "--locked", "--format-version", "1"))
    names = {f"{package['name']}-{package['version']}.crate" for package in locked["packages"] if package["source"]}
    for path in sorted((home / "registry/cache").rglob("*.crate")):
        if path.name in names:
            add(archive, str(path), f"{CARGO_HOME}/registry/{path.relative_to(home / 'registry')}")
    for path in sorted((home / "registry/index").rglob("*")):
        # cargo keeps one small file for each crate that it was asked about.
        add(archive, str(path), f"{CARGO_HOME}/registry/{path.relative_to(home / 'registry')}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cross", action="store_true", help="Debian's toolchain with AArch64's libraries (suites/aarch64/install.sh), and apt")
    parser.add_argument("--rustup", action="store_true", help="the toolchain where the Rust image has it, under rustup")
    parser.add_argument("--package", action="append", default=[], metavar="NAME", help="one more of Debian's, which is installed here")
    parser.add_argument("--folder", action="append", default=[], metavar="HERE=THERE", help="what is in a folder of this machine")
    options = parser.parse_args()
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        packages = PACKAGES + options.package
        if options.cross:
            debian(archive, packages + CROSS, sources())
        else:
            debian(archive, packages)
            rust(archive, options.rustup)
        crates(archive)
        for pair in options.folder:
            folder(archive, *pair.split("=", 1))


if __name__ == "__main__":
    main()
