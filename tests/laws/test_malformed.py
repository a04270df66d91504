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
        ["", "nan", "NaN", "inf", "-inf", "-1", "0", "1", "0.5", "1e309", "1e-320", "1e300", "50%", "0,5", "digits",
         "1000", "2000", "4000", "8000", "16000", "0.3", "0.25", "0.2", "0.18", "99.5", "é", "\x00", "None", '"']
    ),
    st.floats(0.01, 0.9).map(lambda x: f"{x:.4f}"),
    st.integers(1, 100_000).map(str),
    st.text(max_size=6),
)  # fmt: skip


@st.composite
def broken_tables(draw: st.DrawFn) -> bytes:
    """A table that was right once: wrong cells, missing or repeated columns, ragged rows, bytes that are no text."""
    extra = draw(st.lists(st.sampled_from(HEADERS[2:]), max_size=5))
    columns = list(dict.fromkeys([*HEADERS[:3], *extra]))
    ruin = draw(st.sampled_from(["cells"] * 6 + ["columns", "ragged", "separator", "bytes"]))
    if ruin == "columns":
        columns = draw(st.lists(st.sampled_from(HEADERS), max_size=8))
    rows = []
    for i in range(draw(st.integers(0, 21))):
        good = {
            "pretrain_images": str(1000 * 2 ** (i // 2 % 7)),
            "error": f"{0.3 - 0.005 * i:.3f}",
            "render": "ab"[i % 2],
        }
        row = [good.get(name, str(i)) for name in columns]
        if row and draw(st.integers(0, 3)) == 0:
            row[draw(st.integers(0, len(row) - 1))] = draw(CELLS)
        if ruin == "ragged" and draw(st.booleans()):
            row = row[:-1] if draw(st.booleans()) else [*row, "more"]
        rows.append((";" if ruin == "separator" else ",").join(row))
    data = "\n".join([",".join(columns), *rows]).encode("utf-8", errors="surrogatepass")
    return data + (draw(st.sampled_from([b"\xff\xfe", b'\n"unclosed', b"\x00"])) if ruin == "bytes" else b"")


@given(content=broken_tables(), form=st.sampled_from(["transfer", "transfer", "power", "full"]))
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_malformed_tables(tmp_path_factory, capsys, content: bytes, form: str) -> None:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "table.csv").write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # numbers that overflow unseen would be wrong results
            code = main([str(folder / "table.csv"), "--form", form, "--plots", "none", "--target-error", "0.1"])
    except UserError as error:
        message = str(error)
    else:
        message = None
    capsys.readouterr()
    if message is not None:
        assert 0 < len(message) < 2000
        assert "Traceback" not in message
        assert not (folder / "fits.json").exists()
    else:
        record = json.loads((folder / "fits.json").read_text())
        fitted = [group for group in record["groups"] if group["law"]]
        assert code == (0 if fitted else 1)
        assert all(group["law"] or group["reason"] for group in record["groups"])
        for group in fitted:
            values = [fit["value"] for fit in group["law"]["params"].values()]
            assert np.all(np.isfinite([np.nan if value is None else value for value in values]))


def test_the_full_law_of_errors_that_do_not_depend_on_n(tmp_path) -> None:
    """The best delta is 0 and the best gamma infinite there."""
    rows = [f"{4000 * 2 ** (i // 2)},{0.28 - 0.005 * i:.3f},a,{4 + i}" for i in range(8)]
    rows += [f"64000,{0.24 - 0.005 * i:.3f},a,{12 + i}" for i in range(5)]
    (tmp_path / "table.csv").write_text("\n".join(["pretrain_images,error,render,finetune_images", *rows]) + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert main([str(tmp_path / "table.csv"), "--form", "full", "--plots", "none"]) == 0
