"""Drives aws/bulk/lines.py on an S3 of moto's: what it leaves where it is, and what it copies.

    lines.py
"""

import gzip
import importlib.util
import json
import os
import pathlib

os.environ |= {"AWS_DEFAULT_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "BUCKET": "pairs", "LINE_BYTES": "140000"}

import boto3
import moto

ROOT = pathlib.Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("lines", ROOT / "aws/bulk/lines.py")
lines = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lines)
GOOD = b'{"id": 1, "query": "what?", "passage": "that"}\n'


def wrapped(number, item, wrong=""):
    return {"_line": number, "_item": item, "_wrong": wrong}


def read(client, content):
    """What is found, and the lines of the copy where there is one."""
    client.put_object(Bucket="pairs", Key="in/file.jsonl", Body=content)
    found = lines.handler({"key": "in/file.jsonl", "copy": "out/copy"}, None)
    if found["key"] == "in/file.jsonl":
        return found, None
    return found, [json.loads(line) for line in client.get_object(Bucket="pairs", Key="out/copy")["Body"].read().splitlines()]


def kinds(client):
    pair = json.loads(GOOD)
    for content in (b"", GOOD, 3 * GOOD, GOOD.rstrip(), b'"no object"\n17\nnull\n'):
        found, copy = read(client, content)
        assert copy is None and found["unreadable"] == 0 and found["lines"] == len(content.splitlines()), (content, found)
    for content, wanted in (
        (gzip.compress(GOOD + GOOD), [wrapped(1, pair), wrapped(2, pair)]),
        (gzip.compress(GOOD) + gzip.compress(GOOD), [wrapped(1, pair), wrapped(2, pair)]),
        (gzip.compress(b""), []),
        (b"\n\n" + GOOD, [wrapped(3, pair)]),
        (b"\xef\xbb\xbf" + GOOD, [wrapped(1, pair)]),
        # What has the copy's own names is told apart from it.
        (b'{"_line": 9, "query": "what?"}\n', [wrapped(1, {"_line": 9, "query": "what?"})]),
    ):
        found, copy = read(client, content)
        assert copy == wanted and found["lines"] == len(wanted), (content, copy)
    for bad in (b"{", b"Infinity", b"\xff", b'"\\udc00"', b"[" * 100_000, b'"' + 140_000 * b"x" + b'"', b"x" * 40_000_000):
        found, copy = read(client, GOOD + bad + b"\n" + GOOD)
        assert [line["_line"] for line in copy] == [1, 2, 3] and found["unreadable"] == 1, found
        assert copy[1]["_item"] == {} and copy[1]["_wrong"] and not copy[0]["_wrong"] + copy[2]["_wrong"], copy[1]["_wrong"]
    for damaged in (gzip.compress(1000 * GOOD)[:-20], gzip.compress(GOOD)[:-8] + b"12345678"):
        try:
            read(client, damaged)
            raise AssertionError("a damaged file must fail the run")
        except ValueError as error:
            assert "damaged" in str(error), error


def size(client):
    """A copy of more than one part."""
    line = b'{"id": 1, "query": "what?", "passage": "' + 100_000 * b"x" + b'"}\n'
    packed = gzip.compress(1000 * line)
    client.put_object(Bucket="pairs", Key="in/file.jsonl", Body=packed)
    found = lines.handler({"key": "in/file.jsonl", "copy": "out/copy"}, None)
    assert found == {"key": "out/copy", "lines": 1000, "unreadable": 0}, found
    assert client.head_object(Bucket="pairs", Key="out/copy")["ContentLength"] > 100_000_000


with moto.mock_aws():
    client = boto3.client("s3")
    client.create_bucket(Bucket="pairs", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    kinds(client)
    size(client)
    assert not client.list_multipart_uploads(Bucket="pairs").get("Uploads"), "nothing is left half written"
print("lines: what Step Functions reads stays, everything else is copied line by line")
