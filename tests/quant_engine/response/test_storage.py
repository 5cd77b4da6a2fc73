import io

import numpy as np
import pytest
from torch import nn

from quant_engine import FrontierReport, LogitResponse, SchemeError, StorageError, pareto_frontier
from quant_engine.report import ResponseReport
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.response_cases import case, measure


def changed(data: bytes, **arrays: object) -> bytes:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        stored = {name: file[name] for name in file.files}
    stored.update(arrays)
    buffer = io.BytesIO()
    np.savez(buffer, **{name: value for name, value in stored.items() if value is not None})
    return buffer.getvalue()


@pytest.mark.parametrize("classes", [4, 40])
def test_a_stored_response_answers_as_before(classes, tmp_path):
    model = fill(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, classes)))
    response = measure(model, seeded((10, 6)))
    response.save(tmp_path / "response.npz")
    again = LogitResponse.load(tmp_path / "response.npz")
    assert again.report == response.report
    configuration = {"0": "four", "2": "eight"}
    assert again.score(configuration) == response.score(configuration)
    np.testing.assert_array_equal(again.predict(configuration), response.predict(configuration))


def test_files_that_cannot_be_read_or_written_are_storage_errors(tmp_path):
    with pytest.raises(StorageError, match=r"Cannot read .*nowhere"):
        LogitResponse.load(tmp_path / "nowhere.npz")
    with pytest.raises(StorageError, match="Cannot write"):
        measure(*case("twice")).save(tmp_path)


def test_a_uniform_configuration_needs_an_option_that_exists():
    with pytest.raises(SchemeError, match="'fuor'"):
        measure(*case("twice")).uniform("fuor")


def test_reports_round_trip_through_json():
    response = measure(*case("twice"))
    assert ResponseReport.from_json(response.report.to_json()) == response.report
    frontier = pareto_frontier(response, points=3)
    assert FrontierReport.from_json(frontier.to_json()) == frontier


@pytest.mark.parametrize(
    "arrays",
    [
        {"base": None},
        {"shifts": np.zeros((1, 1, 1, 1), dtype=np.float32)},
        {"signal": np.zeros(3, dtype=np.float32)},
        {"report": np.frombuffer(b"{}", dtype=np.uint8)},
        {"report": np.array([255], dtype=np.uint8)},
        {"rounding_of": np.array([0, 5, -1])},
        {"base": np.array([object()])},
    ],
    ids=["missing", "shape", "type", "version", "text", "place", "pickle"],
)
def test_files_that_do_not_fit_are_refused(arrays):
    data = measure(*case("in_place")).to_bytes()
    with pytest.raises(StorageError):
        LogitResponse.from_bytes(changed(data, **arrays))


@pytest.mark.parametrize("data", [b"", b"nonsense"])
def test_what_is_no_response_is_refused(data):
    with pytest.raises(StorageError, match="The archive cannot be read"):
        LogitResponse.from_bytes(data)


def test_a_cut_file_is_refused():
    data = measure(*case("in_place")).to_bytes()
    with pytest.raises(StorageError):
        LogitResponse.from_bytes(data[: len(data) // 2])
