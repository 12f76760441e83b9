"""Drives the program's models from S3 against a real S3 server on loopback, through a proxy that breaks what it passes on.

    drive.py PROGRAM MODEL FOLDER

MODEL is a large model's folder with its packed.safetensors; FOLDER is where everything else goes.
"""

import contextlib
import hashlib
import http.client
import http.server
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import boto3
import botocore.config
from proxy import DENIED, Fault, Proxy
from suite import DEMO, ROOT, free_port, listens, wait_for

sys.path.append(str(ROOT / "suites/image"))
import hub  # noqa: E402

MIB = 1 << 20
RANGE = 16 * MIB
# What a download may take beside the file: the program itself, eight connections and their buffers.
MEMORY_BOUND = 96 * MIB
KILLS = 8
QUERY = ["--query", "how do I reset my password?", "Choose “Forgot password” and follow the mail.", "We are open from nine to five."]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Ended:
    """A command that has ended."""

    def __init__(self, code: int, out: str, said: str, memory: int, seconds: float) -> None:
        self.code, self.out, self.said, self.memory, self.seconds = code, out, said, memory, seconds

    def fine(self) -> "Ended":
        assert self.code == 0, f"exit {self.code}: {self.said}"
        return self

    def failed(self, *words: str, code: int = 1) -> "Ended":
        assert self.code == code, f"exit {self.code} instead of {code}: {self.said}{self.out}"
        for word in words:
            assert word in self.said, f"{word!r} is not in {self.said!r}"
        return self


class Suite:
    def __init__(self, program: Path, model: Path, folder: Path) -> None:
        self.program, self.model, self.folder = program, model, folder
        self.packed = model / "packed.safetensors"
        self.demo = DEMO / "packed.safetensors"
        # Of several ranges, and small enough for a server that reads all of an object for each of them.
        self.middle = folder / "middle/packed.safetensors"
        port = free_port()
        log = (folder / "server.log").open("w")
        self.server = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
        wait_for("the S3 server", lambda: listens(port), self.server)
        self.proxy = Proxy(port)
        self.moto = port
        self.s3 = self.client("s3", "any", "any")
        self.s3.create_bucket(Bucket="models")
        self.upload(self.demo, "small/packed.safetensors")
        self.upload(self.middle, "middle/packed.safetensors")

    def client(self, service: str, key: str, secret: str):
        return boto3.client(
            service,
            endpoint_url=f"http://127.0.0.1:{self.moto}",
            region_name="us-east-1",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            config=botocore.config.Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )

    def upload(self, path: Path, key: str, **more) -> None:
        with path.open("rb") as body:
            self.s3.put_object(Bucket="models", Key=key, Body=body, **more)

    def environment(self, cache: Path, **more: str) -> dict[str, str]:
        """Nothing of this machine's own, and nothing that is empty."""
        all_of_them = {
            "PATH": os.environ["PATH"],
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.proxy.port}",
            "MODEL_CACHE": str(cache),
        } | more
        return {name: value for name, value in all_of_them.items() if value}

    def start(self, arguments: list[str], cache: Path, before: list[str] | None = None, **more: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*(before or []), str(self.program), *arguments],
            env=self.environment(cache, **more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, arguments: list[str], cache: Path, before: list[str] | None = None, **more: str) -> Ended:
        begun = time.monotonic()
        child = self.start(arguments, cache, before, **more)
        out, said = child.stdout.read().decode(), child.stderr.read().decode()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        return Ended(child.returncode, out, said, usage.ru_maxrss * 1024, time.monotonic() - begun)

    def cache(self, name: str) -> Path:
        path = self.folder / "caches" / name
        shutil.rmtree(path, ignore_errors=True)
        return path

    def left(self, cache: Path) -> list[Path]:
        """Files that a command could load: those of models that have their names."""
        found = [path for path in cache.rglob("*") if path.is_file() and path.name != "lock"]
        return [path for path in found if ".incomplete" not in str(path.relative_to(cache))]

    def unfinished(self, cache: Path) -> list[Path]:
        return [path for path in cache.rglob("*.incomplete/*") if path.is_file()]

    @contextlib.contextmanager
    def serving(self, cache: Path, model: str, **more: str):
        port = free_port()
        log = self.folder / "serve.log"
        with log.open("w") as out:
            child = subprocess.Popen(
                [str(self.program), "serve"],
                env=self.environment(cache, MODEL_DIR=model, HOST="127.0.0.1", PORT=str(port), LOG_FORMAT="json", **more),
                stdout=out,
                stderr=out,
            )
        try:
            yield lambda path, body=None: ask(port, path, body), child, log
        finally:
            child.kill()
            child.wait()

    # What is held to: one method each, called in this order.

    def scores_from_s3_equal_those_from_disk_and_memory_stays_flat(self) -> None:
        self.upload(self.packed, "large/packed.safetensors", ChecksumAlgorithm="SHA256")
        address, cache = "s3://models/large/packed.safetensors", self.cache("large")
        fetched = self.run(["fetch", address], cache).fine()
        path = Path(fetched.out.strip())
        assert sha256(path) == sha256(self.packed)
        size = self.packed.stat().st_size
        assert f"{size} of {size} bytes came" in fetched.said, fetched.said
        print(f"   {size / 1e6:.0f} MB in {fetched.seconds:.1f} s, at most {fetched.memory / MIB:.0f} MiB of memory; {fetched.said.strip()}")
        assert fetched.memory < MEMORY_BOUND, f"{fetched.memory} bytes of memory, the bound is {MEMORY_BOUND}"
        ranges = self.proxy.ranges()
        assert len(set(ranges)) == -(-size // RANGE), ranges
        here = self.run(["score", *QUERY], cache, MODEL_DIR=str(self.packed)).fine()
        self.proxy.reset()
        there = self.run(["score", *QUERY], cache, MODEL_DIR=address).fine()
        assert here.out == there.out, f"{here.out}{there.out}"
        # The same ETag is not downloaded again.
        assert not self.proxy.ranges(), self.proxy.ranges()
        self.run(["verify", "--scores", str(self.model / "scores.json")], cache, MODEL_DIR=address).fine()
        doctor = self.run(["doctor"], cache, MODEL_DIR=address).fine()
        assert "from S3: " in doctor.out, doctor.out
        shutil.rmtree(cache)
        self.s3.delete_object(Bucket="models", Key="large/packed.safetensors")

    def a_folder_in_s3_is_served_as_one_on_disk(self) -> None:
        demo = ROOT / "models/demo"
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "scores.json"):
            self.upload(demo / name, f"demo/{name}", ChecksumAlgorithm="SHA256")
        cache, address = self.cache("folder"), "s3://models/demo/"
        self.run(["verify"], cache, MODEL_DIR=address).fine()
        exact = self.run(["score", *QUERY], cache, MODEL_DIR=address).fine()
        assert exact.out == self.run(["score", *QUERY], cache, MODEL_DIR=str(demo), PRECISION="f32").fine().out
        self.upload(self.demo, "demo/packed.safetensors")
        packed = self.run(["score", *QUERY], cache, MODEL_DIR=address).fine()
        assert packed.out == self.run(["score", *QUERY], cache, MODEL_DIR=str(self.demo)).fine().out
        still = self.run(["score", *QUERY], cache, MODEL_DIR=address, PRECISION="f32").fine()
        assert still.out == exact.out
        out = self.folder / "from-s3.safetensors"
        self.run(["pack", "--model", address, "--out", str(out)], cache).fine()
        assert sha256(out) == sha256(self.demo), "packed from S3, the same folder gives other bytes"
        self.run(["fetch", address, "--sha256", f"packed.safetensors={sha256(self.demo)}"], cache).fine()
        self.run(["fetch", address, "--sha256", f"packed.safetensors={'0' * 64}"], cache).failed("this is not the file that was pinned")
        # A checksum that S3 keeps although the bytes on the way are others.
        self.proxy.reset(lambda seen: Fault(flip=1000) if seen.range and seen.path.endswith("model.safetensors") else None)
        cache = self.cache("folder-flipped")
        self.run(["score", *QUERY], cache, MODEL_DIR=address, PRECISION="f32").failed("model.safetensors: the download has the sha256", "it is deleted")
        assert not self.left(cache)
        self.proxy.reset()

    def the_modules_of_a_head_come_with_the_encoder_or_are_named(self) -> None:
        source = ROOT / "tests/golden/modernbert-modules"
        files = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file() and path.name != "README.md")
        for name in files:
            self.upload(source / name, f"modules/{name}", ChecksumAlgorithm="SHA256")
        cache, address = self.cache("modules"), "s3://models/modules/"
        here = self.run(["score", *QUERY], cache, MODEL_DIR=str(source), PRECISION="f32").fine()
        there = self.run(["score", *QUERY], cache, MODEL_DIR=address).fine()
        assert here.out == there.out, f"{here.out}{there.out}"
        with self.serving(cache, address) as (get, _, _):
            wait_for("a model", lambda: get("/ready")[0] == 200)
            status, answer = get("/rerank", {"query": QUERY[1], "documents": QUERY[2:]})
            assert status == 200, answer
        out = self.folder / "modules.safetensors"
        self.run(["pack", "--model", address, "--out", str(out), "--bits", "8", "--high-precision", "all"], cache).fine()
        for name in ("1_Pooling/config.json", "2_Dense/config.json", "3_LayerNorm/model.safetensors", "4_Dense/model.safetensors"):
            self.s3.delete_object(Bucket="models", Key=f"modules/{name}")
            self.run(["fetch", address], self.cache("modules")).failed(f"s3://models/modules/{name}: there is no such object")
            self.upload(source / name, f"modules/{name}")

    def requests_are_signed_or_anonymous_and_denials_say_what_is_missing(self) -> None:
        cache = self.cache("denied")
        address = "s3://models/small/packed.safetensors"
        iam = self.client("iam", "any", "any")
        iam.create_user(UserName="reranker")
        key = iam.create_access_key(UserName="reranker")["AccessKey"]

        def allow(resource: str) -> None:
            statement = {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [resource]}
            policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
            iam.put_user_policy(UserName="reranker", PolicyName="read", PolicyDocument=policy)

        def check_signatures(after: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self.moto)
            connection.request("POST", "/moto-api/reset-auth", str(after).encode(), {"content-type": "text/plain"})
            assert connection.getresponse().status == 200

        own = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
        allow("arn:aws:s3:::models/small/*")
        check_signatures(0)
        try:
            self.run(["fetch", address], cache, **own).fine()
            wrong = self.run(["fetch", address], cache, **own | {"AWS_SECRET_ACCESS_KEY": "wrong"})
            wrong.failed(address, "SignatureDoesNotMatch", "s3:GetObject")
            assert "wrong" not in wrong.said.replace(address, "") and key["AccessKeyId"] not in wrong.said, wrong.said
            other = self.run(["fetch", "s3://models/middle/packed.safetensors"], cache, **own)
            other.failed("s3://models/middle/packed.safetensors", "AccessDenied", "s3:GetObject on arn:aws:s3:::models/middle/packed.safetensors")
        finally:
            check_signatures(1 << 60)
        none = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "HOME": str(self.folder)}
        self.run(["fetch", address], self.cache("none"), **none).failed(address, "no credentials", "S3_ANONYMOUS")
        anonymous = none | {"S3_ANONYMOUS": "true"}
        self.run(["fetch", address], self.cache("anonymous"), **anonymous).failed(address, "S3 denies access")
        self.s3.put_object_acl(Bucket="models", Key="small/packed.safetensors", ACL="public-read")
        self.run(["fetch", address], self.cache("anonymous"), **anonymous).fine()

    def credentials_are_found_where_awss_sdks_find_them(self) -> None:
        address, none = "s3://models/small/packed.safetensors", {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "HOME": str(self.folder)}
        profiles, token = self.folder / "credentials", self.folder / "token"
        profiles.write_text("[work]\naws_access_key_id = OFPROFILE\naws_secret_access_key = secret\n")
        token.write_text("of-the-cluster")
        with Platform() as platform:
            ways = {
                "OFPROFILE": {"AWS_SHARED_CREDENTIALS_FILE": str(profiles), "AWS_PROFILE": "work"},
                "OFCONTAINER": {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{platform.url}/container", "AWS_CONTAINER_AUTHORIZATION_TOKEN": "of-the-task"},
                "OFWEBIDENTITY": {
                    "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/reranker",
                    "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
                    "AWS_ENDPOINT_URL_STS": platform.url,
                },
                "OFINSTANCE": {"AWS_EC2_METADATA_DISABLED": "", "AWS_EC2_METADATA_SERVICE_ENDPOINT": platform.url},
            }
            for key, way in ways.items():
                self.proxy.reset()
                self.run(["fetch", address], self.cache("ways"), **none | way).fine()
                used = {seen.key for seen in self.proxy.seen}
                assert used == {key}, f"{key}: {used}, {platform.asked}"
            # The region too, where nothing else says it.
            instance = ways["OFINSTANCE"] | {"AWS_REGION": ""}
            self.run(["fetch", address], self.cache("ways"), **none | instance).fine()

    def what_is_wrong_is_said(self) -> None:
        cache = self.cache("wrong")
        self.run(["fetch", "s3://models/none.safetensors"], cache).failed("s3://models/none.safetensors: there is no such object", "NoSuchKey")
        self.run(["fetch", "s3://nobody/none.safetensors"], cache).failed("NoSuchBucket")
        self.run(["fetch", "s3://models/empty/"], cache).failed("s3://models/empty/config.json: there is no such object")
        self.run(["fetch", "s3://models/demo"], cache).failed("is not s3://bucket/key")
        elsewhere = Fault(status=301, error=("PermanentRedirect", "elsewhere"), headers={"x-amz-bucket-region": "eu-west-3"})
        self.proxy.reset(lambda seen: elsewhere)
        self.run(["fetch", "s3://models/demo/"], cache).failed("set AWS_REGION=eu-west-3")
        self.proxy.reset(lambda seen: Fault(status=403, error=DENIED))
        self.run(["fetch", "s3://models/demo/x.safetensors"], cache).failed(
            "s3://models/demo/x.safetensors: S3 denies access (AccessDenied: User: arn:aws:sts::1:assumed-role/reranker is not authorized",
            "s3:GetObject on arn:aws:s3:::models/demo/x.safetensors",
        )
        self.proxy.reset()
        unset = {"AWS_ENDPOINT_URL_S3": "", "AWS_REGION": "", "HOME": str(self.folder)}
        self.run(["fetch", "s3://models/demo/"], cache, **unset).failed("set AWS_REGION")
        # Nobody listens there.
        nowhere = f"http://127.0.0.1:{free_port()}"
        self.run(["fetch", "s3://models/demo/"], cache, AWS_ENDPOINT_URL_S3=nowhere).failed("onnection refused")

    def bad_connections_are_survived(self) -> None:
        address, right = "s3://models/middle/packed.safetensors", sha256(self.middle)
        busy = Fault(status=503, error=("SlowDown", "Please reduce your request rate."))
        broken = Fault(status=500, error=("InternalError", "We encountered an internal error."))
        plans = {
            "dropped": lambda seen: Fault(drop_after=MIB + 3) if seen.range and seen.number < 6 else None,
            "dropped at once": lambda seen: Fault(drop_after=0) if seen.range and seen.number < 3 else None,
            "too short": lambda seen: Fault(shorter=7) if seen.range and seen.number < 3 else None,
            "slow down": lambda seen: busy if seen.range and seen.number in (1, 2) else None,
            "silent": lambda seen: Fault(silent=60) if seen.range and seen.number == 1 else None,
            "internal error": lambda seen: broken if seen.range and seen.number in (0, 3) else None,
        }
        for name, plan in plans.items():
            cache = self.cache("bad")
            self.proxy.reset(plan)
            fetched = self.run(["fetch", address], cache).fine()
            assert sha256(Path(fetched.out.strip())) == right, name
            print(f"   {name}: {len(self.proxy.ranges())} requests, {fetched.seconds:.1f} s")
        # For ever: an end with the reason, and nothing that could be loaded.
        for plan, word in ((lambda seen: busy if seen.range else None, "SlowDown"), (lambda seen: Fault(drop_after=0) if seen.range else None, address)):
            cache = self.cache("bad")
            self.proxy.reset(plan)
            self.run(["fetch", address], cache).failed(address, word)
            assert not self.left(cache)
        self.proxy.reset()

    def lies_never_become_a_model(self) -> None:
        address = "s3://models/middle/packed.safetensors"
        lies = {
            "deleted": lambda seen: Fault(flip=12345) if seen.range and seen.number == 2 else None,
            "was replaced": lambda seen: Fault(etag='"another"') if seen.range and seen.number == 2 else None,
            "instead of bytes": lambda seen: Fault(headers={"content-range": "bytes 0-1/2"}) if seen.range else None,
        }
        for said, plan in lies.items():
            cache = self.cache("lies")
            self.proxy.reset(plan)
            self.run(["fetch", address], cache).failed(address, said)
            assert not self.left(cache), said
            assert said != "deleted" or not self.unfinished(cache)
        # Another object of the same length takes its place while it is on its way.
        other = bytearray(self.middle.read_bytes())
        other[-1000] ^= 1
        cache = self.cache("replaced")

        def replace(seen):
            if seen.number == 2:
                self.s3.put_object(Bucket="models", Key="middle/packed.safetensors", Body=bytes(other))

        self.proxy.reset(replace)
        self.run(["fetch", address], cache).failed(address, "it was replaced while it was downloaded")
        assert not self.left(cache) and not self.unfinished(cache)
        self.proxy.reset()
        # What is in the bucket is damaged itself: its own digests tell.
        self.run(["fetch", address], cache).failed(address, "the download is damaged, and deleted")
        assert not self.left(cache) and not self.unfinished(cache)
        self.upload(self.middle, "middle/packed.safetensors")
        self.run(["fetch", address], cache).fine()

    def a_download_that_was_killed_anywhere_goes_on(self) -> None:
        address, right = "s3://models/middle/packed.safetensors", sha256(self.middle)
        size = self.middle.stat().st_size
        chance, cache, came = random.Random(7), self.cache("killed"), []
        # Slow enough that a kill falls into it.
        self.proxy.reset(lambda seen: Fault(bytes_per_second=24e6) if seen.range else None)
        for number in range(KILLS):
            child = self.start(["fetch", address], cache)
            before = self.proxy.bytes
            # A new one each second time: else most kills fall on what is nearly there.
            until = before + chance.random() * size
            wait_for("bytes", lambda: self.proxy.bytes >= until or child.poll() is not None)
            child.send_signal(signal.SIGKILL)
            child.communicate()
            came.append(round((self.proxy.bytes - before) / 1e6))
            for path in self.left(cache):
                assert sha256(path) == right, path
            if number % 2:
                fetched = self.run(["fetch", address], cache).fine()
                assert sha256(Path(fetched.out.strip())) == right
                assert not self.unfinished(cache)
                shutil.rmtree(cache)
        print(f"   killed after {came} of {size / 1e6:.0f} MB")
        # What is noted is not asked for again.
        self.proxy.reset(lambda seen: Fault(bytes_per_second=24e6) if seen.range and seen.number > 0 else None)
        child = self.start(["fetch", address], self.cache("noted"))
        notes = lambda: [path for path in self.unfinished(self.folder / "caches/noted") if path.suffix == ".ranges" and path.stat().st_size]
        wait_for("a note", lambda: notes() or child.poll() is not None)
        child.kill()
        child.communicate()
        self.proxy.reset()
        self.run(["fetch", address], self.folder / "caches/noted").fine()
        again = len(set(self.proxy.ranges()))
        assert again < -(-size // RANGE), again

    def two_processes_share_one_download(self) -> None:
        address, cache = "s3://models/middle/packed.safetensors", self.cache("two")
        self.proxy.reset(lambda seen: Fault(bytes_per_second=50e6) if seen.range else None)
        both = [self.start(["fetch", address], cache) for _ in range(2)]
        out = {child.communicate()[0] for child in both}
        assert [child.returncode for child in both] == [0, 0] and len(out) == 1, out
        ranges = self.proxy.ranges()
        assert len(ranges) == len(set(ranges)), ranges
        # Another version takes the older one's place, so that a small disk holds both no longer than it must.
        self.upload(self.demo, "middle/packed.safetensors")
        self.proxy.reset()
        self.run(["fetch", address], cache).fine()
        assert [sha256(path) for path in self.left(cache)] == [sha256(self.demo)]
        self.upload(self.middle, "middle/packed.safetensors")

    def a_full_disk_is_told_and_leaves_nothing(self) -> None:
        """On a file system of its own, of 20 MiB, in a mount namespace of its own."""
        small = self.folder / "small"
        small.mkdir()
        size = self.middle.stat().st_size
        space = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
        # Whatever is left is shown after the command.
        script = 'mount -t tmpfs -o size=20m none "$0" && "$@"; code=$?; find "$0" -type f -size +0 >&2; exit $code'
        before = [*space, "sh", "-c", script, str(small)]
        full = self.run(["fetch", "s3://models/middle/packed.safetensors"], small, before)
        full.failed(f"{size} bytes are needed, 20", "are free", "name another folder")
        assert str(small) not in full.said.split("\n", 1)[1], full.said
        # From a hub the same.
        with hub.serving() as endpoint:
            variables = {"HF_ENDPOINT": endpoint, "HF_TOKEN": hub.TOKEN, "HF_HUB_CACHE": str(small)}
            full = self.run(["fetch", f"{hub.NAME}@{hub.COMMIT}"], small, before, **variables)
        full.failed(f"{sum(map(len, hub.FILES.values()))} bytes are needed, 20", "are free", "name another folder")
        assert str(small) not in full.said.split("\n", 1)[1], full.said
        out = small / "packed.safetensors"
        full = self.run(["pack", "--model", str(ROOT / "models/demo"), "--out", str(out)], small, before)
        full.failed("the disk is too small", "are free", "name another folder")
        assert str(small) not in full.said.split("\n", 1)[1], full.said

    def a_server_listens_while_it_downloads_and_tells_what_that_took(self) -> None:
        address, cache = "s3://models/middle/packed.safetensors", self.cache("served")
        size = self.middle.stat().st_size
        self.proxy.reset(lambda seen: Fault(bytes_per_second=12e6) if seen.range else None)
        with self.serving(cache, address) as (get, child, _):
            wait_for("the port", lambda: get("/live")[0] == 200)
            assert get("/ready")[0] == 503 and get("/health")[1]["status"] == "loading"
            wait_for("a model", lambda: get("/ready")[0] == 200)
            receipt = get("/health")[1]["cold_start"]
            download = receipt["download"]
            print(f"   {json.dumps(download)}")
            assert download["bytes"] == download["downloaded_bytes"] == size, download
            assert 0 < download["mb_per_s"] and download["ms"] < receipt["total_ms"], receipt
            # The model's folder goes away under the server, which has mapped it.
            shutil.rmtree(cache)
            code, body = get("/rerank", {"query": "a", "passage": "b"})
            assert code == 200, body
            child.send_signal(signal.SIGTERM)
            assert child.wait(30) == 0
        self.proxy.reset()

    def a_server_that_may_not_read_its_model_tries_again(self) -> None:
        denied = {"now": True}
        self.proxy.reset(lambda seen: Fault(status=403, error=DENIED) if denied["now"] else None)
        with self.serving(self.cache("later"), "s3://models/small/packed.safetensors") as (get, _, log):
            wait_for("a reason", lambda: get("/live")[0] == 200 and get("/health")[1]["status"] == "failed")
            health = get("/health")[1]
            assert "s3://models/small/packed.safetensors: S3 denies access" in health["reason"], health
            denied["now"] = False
            wait_for("a model", lambda: get("/ready")[0] == 200)
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            failed = [line for line in lines if line.get("fields", line).get("message") == "model not downloaded"]
            assert failed and "again_in_s" in json.dumps(failed[0]), lines
        self.proxy.reset()


class Platform:
    """What AWS's platforms answer to those who ask for credentials: ECS, STS for EKS, and EC2's metadata service, version 2."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        platform = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                status, text = platform.answer(self.command, self.path, self.headers, self.rfile.read(length).decode())
                self.send_response(status)
                self.send_header("content-length", str(len(text)))
                # A session of the metadata service lasts so many seconds.
                self.send_header("x-aws-ec2-metadata-token-ttl-seconds", "600")
                self.end_headers()
                self.wfile.write(text.encode())

            do_PUT = do_POST = do_GET

            def log_message(self, *_) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self) -> "Platform":
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()

    def answer(self, method: str, path: str, headers, body: str) -> tuple[int, str]:
        self.asked.append(f"{method} {path}")
        later = "2099-01-01T00:00:00Z"
        credentials = {"SecretAccessKey": "secret", "Token": "session", "Expiration": later}
        if path == "/container" and headers.get("authorization") == "of-the-task":
            return 200, json.dumps(credentials | {"AccessKeyId": "OFCONTAINER"})
        if method == "POST" and "Action=AssumeRoleWithWebIdentity" in body and "WebIdentityToken=of-the-cluster" in body:
            fields = {"AccessKeyId": "OFWEBIDENTITY", "SecretAccessKey": "secret", "SessionToken": "session", "Expiration": later}
            inside = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
            result = f"<AssumeRoleWithWebIdentityResult><Credentials>{inside}</Credentials></AssumeRoleWithWebIdentityResult>"
            space = "https://sts.amazonaws.com/doc/2011-06-15/"
            return 200, f'<AssumeRoleWithWebIdentityResponse xmlns="{space}">{result}</AssumeRoleWithWebIdentityResponse>'
        if method == "PUT" and path == "/latest/api/token":
            return 200, "of-the-instance"
        if headers.get("x-aws-ec2-metadata-token") == "of-the-instance":
            role = "/latest/meta-data/iam/security-credentials/"
            answers = {
                role: "reranker",
                role + "reranker": json.dumps(credentials | {"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "OFINSTANCE"}),
                "/latest/meta-data/placement/region": "us-east-1",
            }
            if path in answers:
                return 200, answers[path]
        return 404, ""


def ask(port: int, path: str, body: dict | None = None) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        text = json.dumps(body).encode() if body else None
        connection.request("POST" if body else "GET", path, text, {"content-type": "application/json"} if body else {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except (ConnectionError, TimeoutError):
        return 0, {}
    finally:
        connection.close()


def main() -> None:
    program, model, folder = (Path(argument).resolve() for argument in sys.argv[1:4])
    suite = Suite(program, model, folder)
    try:
        own = [name for name, part in vars(Suite).items() if callable(part)]
        for name in own[own.index("serving") + 1 :]:
            if len(sys.argv) > 4 and name not in sys.argv[4:]:
                continue
            begun = time.monotonic()
            print(f"-- {name.replace('_', ' ')}", flush=True)
            getattr(suite, name)()
            print(f"   {time.monotonic() - begun:.1f} s", flush=True)
    finally:
        suite.server.kill()
        suite.server.wait()


main()
