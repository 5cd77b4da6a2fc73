"""How layers were computed, in words and as rows."""

from __future__ import annotations

from dashboard.facts.cost.executions import (
    describe_executions,
    execution_columns,
    execution_of,
    execution_rows,
    execution_words,
)
from quant_engine.report import LayerExecution, TimingReport
from tests.dashboard.factories import (
    ENVIRONMENT,
    LOOKED_UP_LAYER,
    make_report,
    with_integer_times,
)

TIMING = with_integer_times(make_report()).timing
assert TIMING is not None


def report(*executions: LayerExecution) -> TimingReport:
    return TimingReport(ENVIRONMENT, 3, (), (), executions)


def test_kernels_and_layers_left_out_are_counted_with_their_reason() -> None:
    text = describe_executions(TIMING)
    assert text.startswith("9 of 10 quantized layers computed on integers, by kernel: oneDNN.")
    assert f"Not on integers: {LOOKED_UP_LAYER} – Rows are looked up" in text


def test_two_kernels_are_counted_apart() -> None:
    one = LayerExecution("a", "integer", "onednn")
    other = [LayerExecution(name, "integer", "portable") for name in "bc"]
    assert describe_executions(report(one, *other)) == (
        "3 of 3 quantized layers computed on integers, by kernel: portable 2, oneDNN 1."
    )


def test_many_layers_with_one_reason_are_counted_not_listed() -> None:
    entries = [LayerExecution(str(i), "simulated", reason="Too long.") for i in range(5)]
    assert describe_executions(report(*entries)).endswith("Not on integers: 5 layers – Too long.")


def test_runs_that_did_not_note_it_say_nothing() -> None:
    assert describe_executions(report()) == ""
    assert execution_rows(report()) == []
    assert execution_columns("conv1", report()) == {}
    assert execution_words(execution_of(None, "conv1")) == "–"


def test_rows_say_how_values_arrive_and_leave() -> None:
    rows = {row["Layer"]: row for row in execution_rows(TIMING)}
    assert rows["conv1"] == {
        "Layer": "conv1",
        "Computed on": "integers",
        "Kernel": "oneDNN",
        "Input arrives as": "int8",
        "Output leaves as": "int8",
        "Why not on integers": "–",
    }
    assert rows[LOOKED_UP_LAYER]["Kernel"] == "–"
    assert rows[LOOKED_UP_LAYER]["Input arrives as"] == "float32"


def test_columns_of_a_file_carry_kernel_and_reason() -> None:
    row = execution_columns("conv1", TIMING)
    assert (row["integer_execution"], row["integer_kernel"]) == ("integer", "onednn")
    assert row["integer_reason"] is None
    assert "looked up" in execution_columns(LOOKED_UP_LAYER, TIMING)["integer_reason"]
    assert set(execution_columns("fc", TIMING).values()) == {None}
