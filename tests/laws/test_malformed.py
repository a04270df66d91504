"""Two hundred malformed tables: a result or one clear message, never a raw traceback."""

from __future__ import annotations

import json
import warnings

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_tl.cli.law import main
from lightning_tl.errors import UserError

HEADERS = ["pretrain_images", "error", "render", "run_id", "draw_seed", "pretrain_seed", "finetune_images", "metric"]
CELLS = st.one_of(
    st.sampled_from(
        ["", "nan", "NaN", "inf", "-inf", "-1", "0", "1", "0.5", "1e309", "1e-320", "1e300", "50%", "0,5", "digits", '"',
         "1000", "2000", "4000", "8000", "16000", "0.3", "0.25", "0.2", "0.18", "99.5", "é", "\x00", "None", "TRUE"]
    ),
    st.floats(0.01, 0.9).map(lambda x: f"{x:.4f}"),
    st.integers(1, 100_000).map(str),
    st.text(max_size=6),
)  # fmt: skip


@st.composite
def broken_tables(draw: st.DrawFn) -> bytes:
    """A table that was right once: wrong cells, missing or repeated columns, ragged rows, bytes that are no text."""
    columns = draw(st.lists(st.sampled_from(HEADERS), min_size=0, max_size=8))
    if draw(st.booleans()):
        columns = list(dict.fromkeys([*HEADERS[:3], *columns]))
    rows = []
    for i in range(draw(st.integers(0, 14))):
        good = {"pretrain_images": str(1000 * 2 ** (i % 7)), "error": f"{0.3 - 0.01 * i:.3f}", "render": "ab"[i % 2]}
        row = [good.get(name, str(i)) for name in columns]
        for _ in range(draw(st.integers(0, 2))):
            if row:
                row[draw(st.integers(0, len(row) - 1))] = draw(CELLS)
        if draw(st.integers(0, 9)) == 0:
            row = row[:-1] if draw(st.booleans()) else [*row, "more"]
        rows.append(draw(st.sampled_from([",", ",", ",", ",", ";"])).join(row))
    text = "\n".join([",".join(columns), *rows])
    data = text.encode("utf-8", errors="surrogatepass")
    return data + draw(st.sampled_from([b"", b"", b"", b"\n", b"\xff\xfe", b'\n"unclosed']))


@given(content=broken_tables(), form=st.sampled_from(["transfer", "transfer", "power", "full"]))
@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_malformed_tables(tmp_path_factory, capsys, content: bytes, form: str) -> None:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "table.csv").write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # numbers that overflow unseen would be wrong results
            code = main([str(folder / "table.csv"), "--form", form, "--plots", "none", "--target-error", "0.1"])
    except UserError as error:
        assert len(str(error)) < 2000
        assert "Traceback" not in str(error)
        assert not (folder / "fits.json").exists()
    else:
        record = json.loads((folder / "fits.json").read_text())
        fitted = [group for group in record["groups"] if group["law"]]
        assert code == (0 if fitted else 1)
        assert all(group["law"] or group["reason"] for group in record["groups"])
        for group in fitted:
            values = [fit["value"] for fit in group["law"]["params"].values()]
            assert np.all(np.isfinite([np.nan if value is None else value for value in values]))
    capsys.readouterr()
