#!/usr/bin/env python3
"""What is in an image. As a program it compares every file of two: contents.py IMAGE OTHER, and exits 1 where they differ."""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass

# What an engine puts into every container of its own.
ENGINES = ("dev/", "proc/", "run/", "sys/", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf", ".dockerenv")


@dataclass(frozen=True)
class File:
    size: int
    mode: str
    owner: int
    modified: int
    sha256: str


def contents(image):
    """The image's files by their paths; folders and links are passed over."""
    # A command, because an image need not have one; it is never run.
    name = subprocess.run(["docker", "create", image, "nothing"], check=True, capture_output=True, text=True).stdout.strip()
    try:
        with tempfile.TemporaryFile() as archive:
            subprocess.run(["docker", "export", name], stdout=archive, check=True)
            archive.seek(0)
            with tarfile.open(fileobj=archive) as tar:
                members = [member for member in tar if member.isfile() and not member.name.startswith(ENGINES)]
                return {member.name: describe(tar, member) for member in members}
    finally:
        subprocess.run(["docker", "rm", name], check=True, capture_output=True)


def describe(tar, member):
    digest = hashlib.sha256(tar.extractfile(member).read()).hexdigest()
    return File(member.size, oct(member.mode & 0o7777), member.uid, int(member.mtime), digest)


def main(image, other):
    one, two = contents(image), contents(other)
    for name in sorted(one.keys() | two.keys()):
        same = one.get(name) == two.get(name)
        print(f"same  {name} {one[name].sha256}" if same else f"DIFFERS  {name} {one.get(name)} {two.get(name)}")
    return int(one != two)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
