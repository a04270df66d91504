"""Records of measured values: logged keys, rows, the table."""

import csv
import io
import json

from lightning_tl.measured_value import MEASUREMENT_COLUMNS, Measured, logged, measurements_table

RECORDS = [
    Measured(step=3, quantity="hessian", group="trace", value=2.5, stderr=0.0),
    Measured(step=3, quantity="hessian", group="trace/layer1", value=1.5),
    Measured(step=3, quantity="pre/sensitivity", gamma=0.02, value=0.5, stderr=0.125),
    Measured(step=3, quantity="perturbed_loss", gamma=0, value=1e-9),
]


def test_logged_keys():
    assert logged(RECORDS) == {
        "hessian/trace": 2.5,
        "hessian/trace_stderr": 0.0,
        "hessian/trace/layer1": 1.5,
        "pre/sensitivity/gamma_0.02": 0.5,
        "pre/sensitivity/gamma_0.02_stderr": 0.125,
        "perturbed_loss/gamma_0": 1e-9,
    }


def test_rows_are_plain_and_make_the_same_record():
    for record in RECORDS:
        assert Measured(**json.loads(json.dumps(record.row()))) == record


def test_the_table():
    rows = [{"run_id": "a,b", **record.row()} for record in RECORDS]
    rows.append({"run_id": "c", "step": 1, "quantity": "q", "value": 1})
    table = list(csv.DictReader(io.StringIO(measurements_table(rows))))
    assert tuple(table[0]) == MEASUREMENT_COLUMNS
    assert MEASUREMENT_COLUMNS == ("run_id", "step", "quantity", "group", "gamma", "value", "stderr")
    assert [tuple(row.values()) for row in table] == [
        ("a,b", "3", "hessian", "trace", "", "2.5", "0.0"),
        ("a,b", "3", "hessian", "trace/layer1", "", "1.5", ""),
        ("a,b", "3", "pre/sensitivity", "", "0.02", "0.5", "0.125"),
        ("a,b", "3", "perturbed_loss", "", "0", "1e-09", ""),
        ("c", "1", "q", "", "", "1", ""),
    ]
    assert measurements_table([]).splitlines() == [",".join(MEASUREMENT_COLUMNS)]
