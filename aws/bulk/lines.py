"""Makes a file of pairs one that Step Functions can read. Runs as a Lambda function with AWS's own Python, before the bulk state machine's map.

Step Functions reads no gzip, and a line that is no JSON ends its whole run. A file that it can read stays where it is. Of any other a copy is written.
Its lines are {"_line": number, "_item": what stood there, "_wrong": why it can't be read, or nothing}.
"""

import gzip
import io
import json
import os
import zlib

import boto3

PART = 16 << 20


class Copy:
    """An object that is written in parts, as its size is not known before its end."""

    def __init__(self, client, bucket, key):
        self.client, self.named, self.upload, self.parts, self.held = client, {"Bucket": bucket, "Key": key}, None, [], bytearray()

    def write(self, line):
        self.held += line
        if len(self.held) >= PART:
            self.send()

    def send(self):
        if self.upload is None:
            self.upload = self.client.create_multipart_upload(**self.named)["UploadId"]
        number = len(self.parts) + 1
        sent = self.client.upload_part(**self.named, UploadId=self.upload, PartNumber=number, Body=bytes(self.held))
        self.parts.append({"PartNumber": number, "ETag": sent["ETag"]})
        self.held.clear()

    def end(self):
        if self.upload is None:
            self.client.put_object(**self.named, Body=bytes(self.held))
            return
        if self.held:
            self.send()
        self.client.complete_multipart_upload(**self.named, UploadId=self.upload, MultipartUpload={"Parts": self.parts})

    def give_up(self):
        if self.upload:
            self.client.abort_multipart_upload(**self.named, UploadId=self.upload)


def lines(stream, most):
    """Each line without its end, and how long it is: of one that is longer than `most` only the beginning is held."""
    while True:
        line = stream.readline(most + 1)
        if not line:
            return
        size, rest = len(line), line
        while size > most and not rest.endswith(b"\n"):
            rest = stream.readline(PART)
            if not rest:
                break
            size += len(rest)
        yield line, size


def refused(constant):
    raise ValueError(f"{constant} is no JSON")


def wrong(line, size, most):
    """Why a line can't be read; empty where it can."""
    if size > most + 1:
        return f"the line has {size} bytes, at most {most} are read"
    try:
        text = line.decode()
        value = json.loads(text, parse_constant=refused)
        if "\\u" in text:
            # Half a character, which is no text.
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        return "the line is nested too deeply"
    except UnicodeDecodeError as error:
        return f"the line is no UTF-8: byte {error.start + 1}"
    except UnicodeEncodeError:
        return "the line has half of a surrogate pair"
    except ValueError as error:
        return f"the line is no JSON: {error}"
    return ""


def as_it_is(raw, line):
    """Whether Step Functions sees in a line what stands there."""
    return bool(line) and raw.rstrip(b"\n") == line and b'"_line"' not in line


def opened(client, bucket, key):
    """The object's text, and whether it was packed: by its content, whatever its name is."""
    stream = io.BufferedReader(Raw(client.get_object(Bucket=bucket, Key=key)["Body"]), 1 << 20)
    if stream.peek(2)[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=stream), True
    return stream, False


class Raw(io.RawIOBase):
    """S3's answer as a file."""

    def __init__(self, body):
        self.body = body

    def readable(self):
        return True

    def readinto(self, buffer):
        piece = self.body.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


def numbered(stream, most):
    """(number, line, its whole form, what is wrong with it) of each line."""
    for number, (raw, size) in enumerate(lines(stream, most), 1):
        line = raw.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").strip(b" \t\r\n")
        yield number, line, raw, wrong(line, size, most) if line else ""


def prepare(client, bucket, key, copy, most):
    """The key to read, and how many lines are pairs and how many are no JSON."""
    stream, packed = opened(client, bucket, key)
    readable, count, bad = not packed, 0, 0
    if readable:
        for _, line, raw, reason in numbered(stream, most):
            count += 1
            if reason or not as_it_is(raw, line):
                readable = False
                break
    if readable:
        return {"key": key, "lines": count, "unreadable": 0}
    stream, _ = opened(client, bucket, key)
    out, count = Copy(client, bucket, copy), 0
    try:
        for number, line, _, reason in numbered(stream, most):
            if not line:
                continue
            count += 1
            bad += bool(reason)
            out.write(b'{"_line": %d, "_item": %s, "_wrong": %s}\n' % (number, b"{}" if reason else line, json.dumps(reason).encode()))
    except (EOFError, OSError, zlib.error) as error:
        out.give_up()
        raise ValueError(f"{key} is damaged: {error}") from error
    except BaseException:
        out.give_up()
        raise
    out.end()
    return {"key": copy, "lines": count, "unreadable": bad}


def handler(event, context):
    found = prepare(boto3.client("s3"), os.environ["BUCKET"], event["key"], event["copy"], int(os.environ["LINE_BYTES"]))
    print(json.dumps({"message": "read", **{name: value for name, value in found.items() if name != "key"}}))
    return found
