"""The CSV file of measured durations: every bit comes back, every bad line is named."""

import math

import numpy as np
import pytest

from gradcode.delays import DelayTable, Trace


def write(folder, text):
    path = folder / "trace.csv"
    path.write_text(text)
    return path


def test_a_trace_comes_back_to_its_last_bit(tmp_path):
    table = np.random.default_rng(0).pareto(1.0, (20, 3))
    table[4, 1] = math.inf
    Trace(table).to_csv(tmp_path / "trace.csv")
    np.testing.assert_array_equal(Trace.read_csv(tmp_path / "trace.csv").table, table)


def test_lines_in_any_order_blank_lines_and_spaces(tmp_path):
    path = write(tmp_path, "worker, seconds,iteration\n1,0.2,0\n\n0,0.1,0\n0,inf,1\n1,4e-1,1\n")
    assert Trace.read_csv(path).table.tolist() == [[0.1, 0.2], [math.inf, 0.4]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: header '' must be iteration,worker,seconds"),
        ("iteration,worker\n", "line 1: header 'iteration,worker' must be"),
        ("iteration,worker,seconds,colour\n", "line 1: header 'iteration,worker,seconds,colour'"),
        ("iteration,worker,seconds,seconds\n", "line 1: header"),
        ("iteration,worker,seconds\n", "holds no durations"),
        ("iteration,worker,seconds\n0,0,1\n1,x,2\n", "line 3: worker='x' must be a whole number"),
        ("iteration,worker,seconds\n-1,0,1\n", "line 2: iteration='-1' must be a whole number"),
        ("iteration,worker,seconds\n0.5,0,1\n", "line 2: iteration='0.5' must be a whole number"),
        ("iteration,worker,seconds\n0,0,fast\n", "line 2: seconds='fast' must be a number"),
        ("iteration,worker,seconds\n0,0,-3\n", "line 2: seconds='-3' must be a number >= 0"),
        ("iteration,worker,seconds\n0,0,nan\n", "line 2: seconds='nan' must be a number >= 0"),
        ("iteration,worker,seconds\n0,0,\n", "line 2: seconds='' must be a number"),
        ("iteration,worker,seconds\n0,0\n", "line 2: '0,0' has 2 fields, must have 3"),
        ("iteration,worker,seconds\n0,0,1\n0,0,2\n", "line 3: iteration=0, worker=0, stage=0 is given twice"),
        ("iteration,worker,seconds\n0,0,1\n0,1,1\n1,1,2\n", "no duration for iteration=1, worker=0"),
        ("iteration,worker,seconds\n99999999999,99999999999,1\n", "no duration for iteration=0, worker=0"),
        ("iteration,worker,seconds,stage\n0,0,1,0\n0,0,1,1\n", "read it with DelayTable.from_csv"),
        ("iteration,worker,seconds,communicate\n0,0,1,2\n", "read it with DelayTable.from_csv"),
        ("iteration,worker,seconds,communicate\n0,0,1,-2\n", "line 2: communicate='-2' must be"),
    ],
)
def test_bad_files_are_named_with_line_and_value(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=message) as error:
        Trace.read_csv(path)
    assert str(path) in str(error.value)


def test_communication_must_not_differ_between_stages(tmp_path):
    path = write(tmp_path, "iteration,worker,seconds,stage,communicate\n0,0,1,0,1\n0,0,1,1,2\n")
    with pytest.raises(ValueError, match="communicate must be the same in all stages"):
        DelayTable.from_csv(path)
