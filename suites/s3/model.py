"""A real model of several hundred megabytes: the bundled one, its vocabulary lengthened by rows that no token has."""

import json
import random
import shutil
import struct
from pathlib import Path

TABLE = "bert.embeddings.word_embeddings.weight"
MEGABYTE = 1 << 20


def lengthen(source: Path, target: Path, rows: int) -> None:
    """Writes the folder `target`: `source` with `rows` more rows of seeded bytes in the embedding of words."""
    target.mkdir(parents=True)
    with (source / "model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    width = header[TABLE]["shape"][1]
    extra = {TABLE: rows * width, TABLE + ".scale": rows * 4}
    place, pieces = 0, []
    names = sorted((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"][0])
    for name in names:
        entry = header[name]
        start, end = entry["data_offsets"]
        more = extra.get(name, 0)
        pieces.append((data[start:end], name, more))
        if more:
            entry["shape"][0] += rows
        entry["data_offsets"] = [place, place + end - start + more]
        place = entry["data_offsets"][1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    numbers = random.Random(20)
    scale = struct.pack("<f", 0.001)
    with (target / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for bytes_, name, more in pieces:
            file.write(bytes_)
            if name.endswith(".scale"):
                file.write(scale * (more // 4))
                continue
            while more:
                size = min(more, MEGABYTE)
                file.write(numbers.randbytes(size))
                more -= size
    config = json.loads((source / "config.json").read_text())
    config["vocab_size"] += rows
    (target / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "scores.json"):
        shutil.copy(source / name, target / name)
