"""Damaged and hostile files of every kind the product reads, made from good ones.

Each function takes the bytes of a good file and yields (what was done to it, the bytes then). None
of them may be read: StorageError that names the file, or a line in the list of unreadable files.
`python -m tests.damaged_files FOLDER` writes a folder of runs, for trying them by hand.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Damaged = Iterator[tuple[str, bytes]]

DEEP = b"[" * 200_000
MANY = b"[" + b"[]," * 10_000_000 + b"[]]"
"""30 MB that would take 700 MB as Python lists."""


def any_file(good: bytes) -> Damaged:
    """Damage that any file may have."""
    yield "empty", b""
    yield "cut in half", good[: len(good) // 2]
    yield "one byte", b"\x00"
    yield "nonsense", bytes(range(256)) * 8
    yield "no text", b"\xff\xfe\xfd" * 100
    yield "deep nesting", DEEP
    yield "many empty lists", MANY


def any_json(good: bytes) -> Damaged:
    """Damage that any JSON object may have."""
    data = json.loads(good)
    yield "a list", b"[]"
    yield "null", b"null"
    yield "a number", b"1"
    for key in data:
        rest = {name: value for name, value in data.items() if name != key}
        yield f"{key} missing", json.dumps(rest).encode()
    yield "an unknown key", json.dumps({**data, "surprise": 1}).encode()
    key = next(iter(data))
    for name, value in {
        "infinite": "Infinity",
        "not a number": "NaN",
        "huge": str(10**400),
        "longer than Python reads": "9" * 5000,
        "nested": "[" * 200_000,
        "object": '{"a": {}}',
    }.items():
        rest = {other: data[other] for other in data if other != key}
        text = json.dumps(rest)[:-1] + f", {json.dumps(key)}: {value}}}"
        yield f"{key} {name}", text.encode()


def runs(good: bytes) -> Damaged:
    """Damaged runs, three lines of JSON each."""
    yield from any_file(good)
    first, report, sensitivities = good.splitlines()
    head = json.loads(first)
    wrong = {
        "seconds": ["fast", -1.0, "inf", "nan", 10**400, [], True],
        "created": [3, "yesterday", None, ["2026"]],
        "is_partial": [3, "no"],
        "accuracy_float": ["good", 12.0, -1.0, "nan", {}],
        "float_bytes": [1.5, -7, 10**400, "many"],
        "layers": [None, -1, "12"],
        "environment": [None, {}, {"cpu": 1}, []],
        "recipe": [None, [], {"weight": 8}, {"weight": {"bits": 99}}],
        "model_name": [None, 3],
        "calibration_samples": [0, "64", 10**400, 1.5],
        "seed": [-1, None, "0"],
    }
    for field, values in wrong.items():
        for value in values:
            summary = {**head["summary"], field: value}
            line = json.dumps({**head, "summary": summary}).encode()
            yield f"summary with {field} {str(value)[:12]}", _lines(line, report, sensitivities)
    for name, line in any_json(first):
        yield f"first line: {name}", _lines(line, report, sensitivities)
    yield (
        "another version",
        _lines(json.dumps({**head, "file_version": 99}).encode(), report, sensitivities),
    )
    # From here on the summary is good: such a run is listed, and cannot be opened.
    for name, line in (*any_json(report), *reports(report)):
        yield f"report: {name}", _lines(first, line, sensitivities)
    for text in (b"{}", b"[1]", b"[null]", DEEP, MANY, b"[{}]", b"NaN"):
        yield f"sensitivities {text[:8]!r}", _lines(first, report, text)
    yield "four lines", good + b"{}\n"


def reports(good: bytes) -> Damaged:
    """Reports whose JSON is fine and whose numbers are not."""

    def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
        data = json.loads(good)
        tensor = next(layer["weight"] for layer in data["layers"] if layer["weight"])
        change(tensor)
        return json.dumps(data).encode()

    yield (
        "empty histogram",
        changed(lambda t: t["values"].update(float_counts=[], quantized_counts=[])),
    )
    yield "uneven histogram", changed(lambda t: t["values"]["float_counts"].pop())
    yield "negative counts", changed(lambda t: t["values"]["float_counts"].__setitem__(0, -1))
    yield "NaN histogram", changed(lambda t: t["values"].update(lo="nan"))
    yield "infinite histogram", changed(lambda t: t["values"].update(hi="inf"))
    yield "histogram from right to left", changed(lambda t: t["values"].update(lo=1.0, hi=-1.0))
    yield "empty errors", changed(lambda t: t["lsb_error"].update(counts=[]))
    yield "NaN errors", changed(lambda t: t["lsb_error"].update(lo="nan"))
    yield "no codes", changed(lambda t: t["codes"].update(counts=[]))
    yield "scale of zero", changed(lambda t: t.update(scale=[0.0] * len(t["scale"])))
    yield "negative scale", changed(lambda t: t.update(scale=[-1.0] * len(t["scale"])))
    yield "NaN scale", changed(lambda t: t.update(scale=["nan"] * len(t["scale"])))
    yield "no scale", changed(lambda t: t.update(scale=[], zero_point=[]))
    yield (
        "zero point out of range",
        changed(lambda t: t.update(zero_point=[1000] * len(t["zero_point"]))),
    )


def gzipped(good: bytes) -> Damaged:
    """Damaged gzip files."""
    yield from any_file(good)
    middle = len(good) // 2
    yield "bits flipped", good[:middle] + bytes(b ^ 0xFF for b in good[middle : middle + 40])
    yield "wrong checksum", good[:-8] + b"\x00" * 8
    yield "a bomb", gzip.compress(b" " * 400_000_000, 1)


def unzip(archive: bytes) -> dict[str, bytes]:
    """Return an archive's entries by name."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def archives(good: bytes) -> Damaged:
    """Damaged .npz files: responses and predictions."""
    yield from any_file(good)
    entries = unzip(good)
    yield "no entries", _zip({})
    yield "text in place of arrays", _zip(dict.fromkeys(entries, b"text"))
    for name, content in entries.items():
        rest = {other: entries[other] for other in entries if other != name}
        yield f"{name} missing", _zip(rest)
        yield f"{name} cut", _zip({**rest, name: content[: len(content) // 2]})
        if not name.endswith(".npy"):
            for what, text in (("deep", DEEP), ("list", b"[]"), ("pair", b"[1, 2]")):
                yield f"{name} {what}", _zip({**rest, name: text})
            continue
        broken = content[:10] + b"{'descr': (((" + content[23:]
        yield f"{name} with a broken header", _zip({**rest, name: broken})
        yield (
            f"{name} of another version",
            _zip({**rest, name: content[:6] + b"\x09" + content[7:]}),
        )
        yield f"{name} with objects", _zip({**rest, name: _array("|O", (3,), b"\x00" * 24)})
        yield f"{name} of huge shape", _zip({**rest, name: _array("<f4", (10**6, 10**6), b"1234")})
        yield f"{name} of negative shape", _zip({**rest, name: _array("<f4", (-1, -1), b"1234")})
        values = np.load(io.BytesIO(content))
        if values.dtype.kind == "f" and values.size:
            for bad in (np.nan, np.inf):
                spoiled = np.full_like(values, bad)
                yield f"{name} all {bad}", _zip({**rest, name: _saved(spoiled)})
        if values.dtype.kind == "i" and values.size:
            spoiled = np.full_like(values, np.iinfo(values.dtype).max)
            if not name.endswith("_codes.npy"):
                yield f"{name} out of range", _zip({**rest, name: _saved(spoiled)})
    flipped = bytearray(good)
    for place in range(len(good) // 3, 2 * len(good) // 3):
        flipped[place] ^= 0xFF
    yield "bits flipped", bytes(flipped)
    yield from archive_bombs(entries)


def archive_bombs(entries: dict[str, bytes]) -> Damaged:
    """Archives with entries that unpack to hundreds of megabytes, the first one of `entries`."""
    zeros = _saved(np.zeros((400, 10**6), dtype=np.uint8))
    yield "a bomb", _zip({**entries, next(iter(entries)): zeros})
    yield "many small bombs", _zip({f"{i}.npy": zeros[: 40 * 2**20] for i in range(8)})


def models(structure: bytes, weights: bytes) -> Iterator[tuple[str, bytes, bytes]]:
    """Damaged models: (what was done, model.json, model.safetensors), digests put right."""
    for name, content in any_file(weights):
        yield f"weights {name}", _signed(structure, content), content
    yield "weights of another save", structure, weights + b" "
    for name, text in (*any_file(structure), *any_json(structure)):
        yield f"structure {name}", text, weights
    length = struct.unpack("<Q", weights[:8])[0]
    header = json.loads(weights[8 : 8 + length])
    for entry, place in header.items():
        for what, change in {
            "huge": {"shape": [10**9, 10**9]},
            "beyond the end": {"data_offsets": [0, 10**12]},
            "of unknown type": {"dtype": "F3"},
            "negative": {"shape": [-1]},
        }.items():
            text = json.dumps({**header, entry: {**place, **change}}).encode()
            content = struct.pack("<Q", len(text)) + text + weights[8 + length :]
            yield f"{entry} {what}", _signed(structure, content), content
        start, end = (8 + length + offset for offset in place["data_offsets"])
        values = np.frombuffer(weights[start:end], dtype=_NUMPY[place["dtype"]])
        for bad in _bad_values(entry):
            spoiled = np.full_like(values, bad).tobytes()
            content = weights[:start] + spoiled + weights[end:]
            yield f"{entry} all {bad}", _signed(structure, content), content
    yield "header longer than the file", _signed(structure, b"\xff" * 8), b"\xff" * 8
    data = json.loads(structure)
    for shape in ([-5, -6], [10**9, 10**9], [], [10**400]):
        changed = json.loads(structure)
        changed["layers"][0]["weight_shape"] = shape
        yield f"a weight of shape {str(shape)[:20]}", json.dumps(changed).encode(), weights
    for field, value in (("kind", "Nothing"), ("name", "no.such.layer"), ("scheme", {})):
        changed = json.loads(structure)
        changed["layers"][0][field] = value
        yield f"a layer with {field} {value}", json.dumps(changed).encode(), weights
    again = {**data, "aliases": [{"name": "0.bias", "stored": "nowhere"}]}
    yield "an alias of nothing", json.dumps(again).encode(), weights


_NUMPY = {"F32": "<f4", "F64": "<f8", "I8": "i1", "U8": "u1", "I32": "<i4", "I64": "<i8"}


def _bad_values(entry: str) -> tuple[float, ...]:
    if entry.endswith("_scale"):
        return (float("nan"), float("inf"), 0.0, -1.0)
    return (127, -128) if entry.endswith("zero_point") else ()


def write_runs(folder: Path, good: bytes) -> list[str]:
    """Write damaged runs into a folder, and what is no file at all; return the names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number, (_, content) in enumerate(runs(good)):
        path = folder / f"damaged{number:03}.jsonl"
        path.write_bytes(content)
        names.append(path.name)
    (folder / "folder.jsonl").mkdir(exist_ok=True)
    os.mkfifo(folder / "fifo.jsonl")
    (folder / "device.jsonl").symlink_to("/dev/zero")
    (folder / "nowhere.jsonl").symlink_to(folder / "missing")
    return [*names, "folder.jsonl", "fifo.jsonl", "device.jsonl", "nowhere.jsonl"]


def _lines(*lines: bytes) -> bytes:
    return b"\n".join(lines) + b"\n"


def _zip(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, 1)
    return buffer.getvalue()


def _array(descr: str, shape: tuple[int, ...], content: bytes) -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def _saved(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def _signed(structure: bytes, weights: bytes) -> bytes:
    data = json.loads(structure)
    data["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    return json.dumps(data).encode()


if __name__ == "__main__":
    example = Path(__file__).parents[1] / "dashboard" / "examples" / "mlp.json.gz"
    names = write_runs(Path(sys.argv[1]), gzip.decompress(example.read_bytes()))
    sys.stdout.write("\n".join(names) + "\n")
