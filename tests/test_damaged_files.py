"""Every damaged file is refused with a StorageError, and takes little memory."""

from __future__ import annotations

import gzip
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dashboard.data.prediction_files import pack_prediction, unpack_prediction
from dashboard.data.runs import read_example, run_from_text
from quant_engine import (
    LogitResponse,
    ModelReport,
    Recipe,
    StorageError,
    TensorScheme,
    load_quantized_model,
    quantize_model,
    save_quantized_model,
)
from quant_engine.analysis.quick_looks import load_quantization_config
from quant_engine.reading import parse_json, read_file
from tests import damaged_files

EXAMPLES = Path(__file__).parents[1] / "dashboard" / "examples"
RUN = (EXAMPLES / "mlp.json.gz").read_bytes()
PREDICTION = (EXAMPLES / "mlp.prediction.npz").read_bytes()


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """Nothing in here may take a gigabyte; one of the files claims to hold terabytes."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 10**9, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def refuses(read, what, content):
    """Whether reading raises StorageError, in few words; any other exception fails the test."""
    try:
        read(content)
    except StorageError as error:
        return 0 < len(str(error)) < 1000
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    return False


def test_damaged_runs_are_refused():
    good = gzip.decompress(RUN)
    run_from_text(good.decode())

    read = [
        name
        for name, content in damaged_files.runs(good)
        if not refuses(lambda data: run_from_text(data.decode(errors="replace")), name, content)
    ]

    # Fields with a default may be missing: reports from before they existed are read.
    assert all("missing" in name for name in read), read


def test_damaged_examples_are_refused_by_name(tmp_path):
    path = tmp_path / "example.json.gz"
    for name, content in damaged_files.gzipped(RUN):
        path.write_bytes(content)
        assert refuses(read_example, name, path), name
        with pytest.raises(StorageError, match=r"example\.json\.gz"):
            read_example(path)


def test_damaged_predictions_are_refused():
    prediction = unpack_prediction(PREDICTION)
    for good in (PREDICTION, pack_prediction(prediction)):
        for name, content in damaged_files.archives(good):
            is_optional = name in {"labels.npy missing", "labels.npy cut"}
            assert refuses(unpack_prediction, name, content) or is_optional, name


def test_damaged_responses_are_refused_by_name(tmp_path):
    path = tmp_path / "response.npz"
    good = unpack_prediction(PREDICTION).response.to_bytes()
    LogitResponse.from_bytes(good)
    for name, content in damaged_files.archives(good):
        path.write_bytes(content)
        if name == "labels.npy missing":
            continue  # there need not be labels
        with pytest.raises(StorageError, match=r"response\.npz"):
            LogitResponse.load(path)


def test_damaged_models_are_refused_by_name(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
        # Eight bits of int8 cannot hold a zero point that is out of range.
        four = TensorScheme(bits=4, symmetric=False)
        quantized = quantize_model(model, torch.rand(8, 6), Recipe(four, four))
    save_quantized_model(quantized, tmp_path)
    structure, weights = tmp_path / "model.json", tmp_path / "model.safetensors"
    load_quantized_model(model, tmp_path)
    for name, text, content in damaged_files.models(structure.read_bytes(), weights.read_bytes()):
        structure.write_bytes(text)
        weights.write_bytes(content)
        assert refuses(lambda folder: load_quantized_model(model, folder), name, tmp_path), name


@pytest.mark.parametrize("data", [damaged_files.DEEP, damaged_files.MANY, b"NaN", b"\xff"])
def test_json_is_bounded(data, tmp_path):
    with pytest.raises(StorageError, match="The text"):
        parse_json(data)
    path = tmp_path / "config.json"
    path.write_bytes(data)
    with pytest.raises(StorageError, match=r"config\.json"):
        load_quantization_config(path)
    with pytest.raises(StorageError):
        ModelReport.from_json(data.decode(errors="replace"))


def test_only_regular_files_of_bounded_length_are_read(tmp_path):
    names = damaged_files.write_runs(tmp_path, gzip.decompress(RUN))
    for name in names[-4:]:
        with pytest.raises(StorageError, match=name):
            read_file(tmp_path / name)
    long = tmp_path / "long"
    long.write_bytes(b"12345")
    with pytest.raises(StorageError, match="5 bytes; at most 4"):
        read_file(long, 4)
    assert read_file(long, 5) == b"12345"


def test_a_small_file_takes_little_memory():
    code = (
        "import gzip, resource, numpy as np\n"
        "from tests import damaged_files\n"
        "from tests.test_damaged_files import PREDICTION, unpack_prediction, StorageError\n"
        "bombs = [c for _, c in damaged_files.archive_bombs(damaged_files.unzip(PREDICTION))]\n"
        "assert len(bombs) == 2\n"
        "before = int(open('/proc/self/status').read().split('VmRSS:')[1].split()[0])\n"
        "open('/proc/self/clear_refs', 'w').write('5')\n"
        "for bomb in bombs:\n"
        "    try:\n"
        "        unpack_prediction(bomb)\n"
        "    except StorageError:\n"
        "        continue\n"
        "    raise SystemExit('it was read')\n"
        "peak = int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "assert peak - before < 300_000, (peak, before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
