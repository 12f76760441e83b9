#!/usr/bin/env python3
"""Makes what users without Rust install: a static program for Linux with the demo model, as an archive and as a Python wheel.

    packaging/dist.py [--program FILE] [--out FOLDER] [ARCHITECTURE…]      x86_64, aarch64; by default this machine's

Without --program it is built. The C library is linked in, glibc as in the image: its allocator is faster than musl's, and the program
runs on any distribution with a kernel of 3.2 or newer. Only the program is linked anew, so that after `make build` this takes a minute;
for another architecture than the machine's everything is compiled.

The archive's folder has the model where a program that is started in it looks, in models/demo. The wheel's command names that folder and
becomes the program. The same program gives the same bytes. SHA256SUMS has the digest of every file.
"""

import argparse
import base64
import gzip
import hashlib
import io
import json
import os
import pathlib
import platform
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
# A static program needs neither glibc nor musl of the machine.
PLATFORMS = ("manylinux_2_17_{0}", "manylinux2014_{0}", "musllinux_1_1_{0}")
LICENCES = ("licen", "copying", "notice", "unlicense")
LAUNCHER = '''"""serverless-reranker: the program, with the demo model."""

import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent


def main():
    """Becomes the program. It serves the demo model if no other is named."""
    if not os.environ.get("MODEL_DIR") and not os.environ.get("MODEL_NAME"):
        os.environ["MODEL_DIR"] = str(HERE / "models/demo")
    os.execv(HERE / "reranker", ["reranker", *sys.argv[1:]])
'''
# Linked in, and no crate: its licence asks for the source of what it is part of, which is public.
GLIBC = "This program contains the GNU C Library, under the GNU Lesser General Public License 2.1 or later: https://www.gnu.org/software/libc/"


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def package():
    """What Cargo.toml says of the program."""
    packages = json.loads(output("cargo", "metadata", "--no-deps", "--format-version", "1"))["packages"]
    return next(package for package in packages if package["manifest_path"] == str(ROOT / "Cargo.toml"))


def made_at():
    """The commit's time, so that the same commit gives the same bytes."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        return int(given or output("git", "log", "-1", "--format=%ct"))
    except (OSError, subprocess.CalledProcessError):
        return 0


def tool(name, architecture):
    """A tool of binutils for an architecture."""
    cross = f"{architecture}-linux-gnu-{name}"
    return cross if shutil.which(cross) else name


def is_static(program):
    """Whether a program starts without a loader and libraries of the machine."""
    parts = output("readelf", "--wide", "--program-headers", "--dynamic", str(program))
    return "INTERP" not in parts and "(NEEDED)" not in parts


def build(architecture):
    """Compiles the program for an architecture; returns its path."""
    target = f"{architecture}-unknown-linux-gnu"
    folder = pathlib.Path(json.loads(output("cargo", "metadata", "--no-deps", "--format-version", "1"))["target_directory"])
    options, environment = [], dict(os.environ)
    if architecture == platform.machine():
        program = folder / "release/reranker"
    else:
        compiler = f"{architecture}-linux-gnu-gcc"
        libraries = pathlib.Path(output("rustc", "--print", "target-libdir", "--target", target).strip())
        if not shutil.which(compiler) or not libraries.is_dir():
            sys.exit(f"{architecture} takes a compiler and Rust's library: apt-get install gcc-{architecture.replace('_', '-')}-linux-gnu, rustup target add {target}")
        environment[f"CARGO_TARGET_{target.upper().replace('-', '_')}_LINKER"] = compiler
        options, program = ["--target", target], folder / target / "release/reranker"
    command = ["cargo", "rustc", "--release", "--locked", "--bin", "reranker", *options, "--", "-C", "target-feature=+crt-static"]
    subprocess.run(command, check=True, cwd=ROOT, env=environment)
    return program


def stripped(program, architecture, folder):
    """A copy without what only a debugger and a backtrace read, and that, where there is any."""
    small, debug = folder / "reranker", folder / "reranker.debug"
    objcopy = tool("objcopy", architecture)
    if ".debug_line" not in output("readelf", "--wide", "--sections", str(program)):
        shutil.copy(program, small)
        return small, None
    subprocess.run([objcopy, "--only-keep-debug", program, debug], check=True)
    subprocess.run([objcopy, "--strip-debug", f"--add-gnu-debuglink={debug}", program, small], check=True)
    return small, debug


def packed_model(program):
    """The demo model's packed form; `make build` has made it, else this program does."""
    path = ROOT / "models/demo/packed.safetensors"
    if not path.exists():
        subprocess.run([str(program.resolve()), "pack", "--model", "models/demo"], check=True, cwd=ROOT)
    return path


def linked(architecture):
    """The packages that are part of the program: what it depends on, but for compile time."""
    filter_ = ("--filter-platform", f"{architecture}-unknown-linux-gnu")
    known = json.loads(output("cargo", "metadata", "--locked", "--format-version", "1", *filter_))
    packages = {package["id"]: package for package in known["packages"]}
    nodes = {node["id"]: node for node in known["resolve"]["nodes"]}
    found, left = set(), [known["resolve"]["root"]]
    while left:
        for dependency in nodes[left.pop()]["deps"]:
            name = dependency["pkg"]
            macro = any("proc-macro" in target["kind"] for target in packages[name]["targets"])
            if name not in found and not macro and any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                found.add(name)
                left.append(name)
    return sorted((packages[name] for name in found if packages[name]["source"]), key=lambda package: (package["name"], package["version"]))


def notices(architecture):
    """Licences and notices of every package in the program, each text once."""
    packages = linked(architecture)
    lines, texts = [GLIBC, ""], {}
    for package in packages:
        name = f"{package['name']} {package['version']}"
        lines.append(f"{name}: {package['license'] or 'see below'}; {package['repository'] or 'https://crates.io/crates/' + package['name']}")
        folder = pathlib.Path(package["manifest_path"]).parent
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.name.lower().startswith(LICENCES):
                texts.setdefault(path.read_text(errors="replace").strip(), []).append(name)
    for text, names in texts.items():
        lines += ["", "=" * 80, ", ".join(dict.fromkeys(names)), "", text]
    return "\n".join(lines) + "\n"


def contents(program, architecture):
    """What is installed: place, bytes, whether it runs; and the licences."""
    demo = ROOT / "models/demo"
    files = {"reranker": (program.read_bytes(), True), "models/demo/packed.safetensors": (packed_model(program).read_bytes(), False)}
    for name in ("scores.json", "README.md", "NOTICE"):
        files[f"models/demo/{name}"] = ((demo / name).read_bytes(), False)
    licences = {"LICENSE": (ROOT / "LICENSE").read_bytes(), "NOTICES": notices(architecture).encode()}
    return files, licences


def archive(path, folder, files, when):
    with path.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name, (data, runs) in sorted(files.items()):
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size, info.mtime, info.mode = len(data), when, 0o755 if runs else 0o644
            tar.addfile(info, io.BytesIO(data))


def metadata(about, licences):
    fields = [
        ("Metadata-Version", "2.4"),
        ("Name", f"serverless-{about['name']}"),
        ("Version", about["version"]),
        ("Summary", about["description"]),
        ("Keywords", ",".join(about["keywords"])),
        ("Requires-Python", ">=3.8"),
        ("License-Expression", about["license"]),
        *(("License-File", name) for name in licences),
        ("Classifier", "Operating System :: POSIX :: Linux"),
        ("Classifier", "Programming Language :: Rust"),
        ("Description-Content-Type", "text/markdown"),
    ]
    text = (
        "A program, not a library: `reranker serve` answers on http://localhost:8000 with the small bundled demo model,\n"
        "`reranker serve --model BAAI/bge-reranker-v2-m3` with the real one, and `reranker --help` says what else there is.\n"
    )
    return "".join(f"{name}: {value}\n" for name, value in fields) + "\n" + text


def wheel(out, about, architecture, files, licences, when):
    """A wheel is an archive by PEP 427: files to install, what they are, and their digests."""
    name, version = f"serverless_{about['name']}", about["version"]
    tags = [f"py3-none-{system.format(architecture)}" for system in PLATFORMS]
    info = f"{name}-{version}.dist-info"
    inside = {f"{name}/{place}": file for place, file in files.items()}
    inside[f"{name}/__init__.py"] = (LAUNCHER.encode(), False)
    inside[f"{name}/__main__.py"] = (f"from {name} import main\n\nmain()\n".encode(), False)
    inside[f"{info}/entry_points.txt"] = (f"[console_scripts]\nreranker = {name}:main\n".encode(), False)
    for licence, text in licences.items():
        inside[f"{info}/licenses/{licence}"] = (text, False)
    inside[f"{info}/METADATA"] = (metadata(about, licences).encode(), False)
    kind = "Wheel-Version: 1.0\nGenerator: packaging/dist.py\nRoot-Is-Purelib: false\n" + "".join(f"Tag: {tag}\n" for tag in tags)
    inside[f"{info}/WHEEL"] = (kind.encode(), False)
    rows = []
    for place, (content, _) in inside.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{place},sha256={digest},{len(content)}\n")
    inside[f"{info}/RECORD"] = ("".join([*rows, f"{info}/RECORD,,\n"]).encode(), False)
    # Zip files know no time before 1980.
    moment = time.gmtime(max(when, 315532800))[:6]
    path = out / f"{name}-{version}-py3-none-{'.'.join(system.format(architecture) for system in PLATFORMS)}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as zipped:
        for place, (content, runs) in inside.items():
            entry = zipfile.ZipInfo(place, moment)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFREG | (0o755 if runs else 0o644)) << 16
            zipped.writestr(entry, content)
    return path


def make(architecture, program, out):
    about, when = package(), made_at()
    if program is None:
        program = build(architecture)
    if not is_static(program):
        sys.exit(f"{program}: needs libraries of the machine that it runs on; without --program one is made that needs none")
    with tempfile.TemporaryDirectory() as work:
        small, debug = stripped(program, architecture, pathlib.Path(work))
        files, licences = contents(small, architecture)
        folder = f"{about['name']}-{about['version']}-linux-{architecture}"
        whole = files | {name: (text, False) for name, text in licences.items()}
        made = [out / f"{folder}.tar.gz"]
        archive(made[0], folder, whole, when)
        made.append(wheel(out, about, architecture, files, licences, when))
        if debug:
            # Unpacked over the program's archive, it gives backtraces their lines.
            made.append(out / f"{folder}-debug.tar.gz")
            archive(made[-1], folder, {"reranker.debug": (debug.read_bytes(), False)}, when)
    return made


def main():
    parser = argparse.ArgumentParser(description="Makes archives and wheels of the program with the demo model.")
    parser.add_argument("--program", type=pathlib.Path, help="a static program, which is not built then")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "dist", help="dist/ where it is not given; what was made there before is removed")
    parser.add_argument("architectures", nargs="*", choices=["x86_64", "aarch64", []], metavar="ARCHITECTURE", help="x86_64, aarch64")
    options = parser.parse_args()
    architectures = options.architectures or [platform.machine()]
    if options.program and len(architectures) > 1:
        parser.error("--program is of one architecture")
    options.out.mkdir(parents=True, exist_ok=True)
    for old in (*options.out.glob("*reranker-*"), options.out / "SHA256SUMS"):
        old.unlink(missing_ok=True)
    made = [path for architecture in architectures for path in make(architecture, options.program, options.out)]
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(made)]
    (options.out / "SHA256SUMS").write_text("".join(sums))
    for path in sorted(made):
        print(f"{path.stat().st_size / 1e6:6.1f} MB  {path}")


if __name__ == "__main__":
    main()
