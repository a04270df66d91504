"""`lightning-tl law` on tables of language models: tokens, parameters and losses in sentences, figures and files."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from lightning_tl.cli.law import main
from lightning_tl.errors import UserError
from lightning_tl.laws.advice import advise
from lightning_tl.laws.columns import Columns
from lightning_tl.laws.form_names import FORMS
from lightning_tl.laws.group_fits import Method, analyse, fitted
from lightning_tl.laws.law_figures import figures
from lightning_tl.laws.law_options import LawOptions
from lightning_tl.laws.results_table import groups

BUDGETS = 2.5e5 * 4.0 ** np.arange(6)
MODELS = np.array([1e7, 4e7, 1.6e8, 6.4e8])
CHINCHILLA = {"form": "chinchilla", "size": "pretrain_tokens", "score": "loss", "model_size": "params"}


def fine_tuned(noise: float = 0.006) -> pd.DataFrame:
    """Fine-tuning losses of two corpora at six budgets of tokens, three seeds, and without pre-training."""
    rng, rows = np.random.default_rng(1), []
    for corpus, gap, scale in (("code", 1.1, 60.0), ("prose", 1.9, 45.0)):
        curve = {0.0: 3.1} | {n: gap + scale * n**-0.33 for n in BUDGETS}
        for n, mean in curve.items():
            for seed in range(3):
                row = {"run_id": f"{corpus}-{n:.0f}-{seed}", "corpus": corpus, "pretrain_tokens": int(n)}
                row |= {"pretrain_seed": seed if n else "", "finetune_loss": mean * np.exp(noise * rng.normal())}
                rows.append(row)
    return pd.DataFrame(rows)


def pretrained(noise: float = 0.003, corpora: tuple[str, ...] = ("web",)) -> pd.DataFrame:
    """Losses of four models at six budgets; the truth is that of Hoffmann et al., arXiv 2203.15556, Approach 3."""
    rng, rows = np.random.default_rng(2), []
    for corpus in corpora:
        for params in MODELS:
            for n in 1e3 * BUDGETS:
                loss = 1.69 + 406.4 * params**-0.34 + 410.7 * n**-0.28
                row = {"corpus": corpus, "backbone": f"decoder{params:.0f}", "params": int(params)}
                rows.append({**row, "pretrain_tokens": int(n), "loss": loss * np.exp(noise * rng.normal())})
    return pd.DataFrame(rows)


def said(options: LawOptions, table: pd.DataFrame) -> tuple[list, list[str]]:
    """The fits, and all sentences."""
    options.check()
    fits = analyse(groups(table, options.columns()), options.law_form(), options.method())
    advice = advise(fits, options.target_error, options.spending())
    return fits, [*advice.headline, *(line for group in advice.groups for line in group.sentences)]


def texts(fits: list) -> list[str]:
    """All that is written on the figures."""
    from matplotlib.text import Text

    return [text.get_text() for figure in figures(fits).values() for text in figure.findobj(Text)]


def test_a_table_of_tokens_and_losses_is_worded_so() -> None:
    options = LawOptions(
        size="pretrain_tokens", score="finetune_loss", by="corpus", target_error=2.0, cost_per_image=1e-6, budget=100
    )
    fits, sentences = said(options, fine_tuned())
    everything = " ".join([*sentences, *texts(fits)])
    assert "image" not in everything
    assert " error" not in everything.replace("standard error", "")
    assert "For a loss of 2: about " in everything
    assert "10 times the tokens (2.56 billion) are predicted to take the loss from " in everything
    assert "A budget of 100 buys 100 million tokens: " in everything
    assert "Without pre-training the loss is 3.1" in everything
    assert "transfer gap C (test loss)" in everything
    assert "pre-training size n (tokens)" in everything
    law = fitted(fits)[0].law
    assert law.params == pytest.approx({"D": 60, "alpha": 0.33, "C": 1.1}, rel=0.15)


def test_images_and_errors_are_worded_as_before() -> None:
    table = fine_tuned().rename(columns={"pretrain_tokens": "pretrain_images", "finetune_loss": "error"})
    table["error"] /= 10
    fits, sentences = said(LawOptions(by="corpus", target_error=0.2), table)
    everything = " ".join([*sentences, *texts(fits)])
    assert "loss" not in everything.replace("Loss over alpha and D", "")
    assert "token" not in everything
    assert "For an error of 0.2: about " in everything
    assert "test error (1 − score)" in everything
    assert "2,560,000,000" in everything


def test_the_command_fits_a_chinchilla_table(tmp_path, capsys) -> None:
    pretrained().to_csv(tmp_path / "table.csv", index=False)
    command = [str(tmp_path / "table.csv"), "--form", "chinchilla", "--size", "pretrain_tokens", "--score", "loss"]
    command += ["--model-size", "params", "--target-error", "2.5", "--plots", "none", "--by", "corpus"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "The loss E that neither size removes is 1." in printed
    assert "The exponent b of the tokens is 0." in printed
    assert "The exponent a of the parameters is 0." in printed
    assert "For a loss of 2.5 with 640 million parameters: about " in printed
    assert "For a loss of 2.5 after pre-training on 256 billion tokens: about " in printed
    assert "6 points at D" not in printed
    assert "4 points at D = 256 billion were predicted from the smaller sizes" in printed
    record = json.loads((tmp_path / "fits.json").read_text())
    group = record["groups"][0]
    assert group["terms"] == {"sizes": "tokens", "seconds": "parameters", "measured": "loss"}
    assert group["law"]["form"]["formula"] == "loss = E + A * N^-a + B * D^-b"
    low, high = group["law"]["params"]["E"]["interval"]
    assert low < 1.69 < high
    frame = pd.read_csv(tmp_path / "fits.csv")
    assert {"E", "A", "a", "B", "b", "E_low", "a_high", "b_identified"} <= set(frame)


def test_ten_times_the_parameters_are_set_against_ten_times_the_tokens() -> None:
    """Against the truth, at the largest model and budget."""
    fits, sentences = said(LawOptions(**CHINCHILLA, by="corpus"), pretrained(0.001))

    def truth(tokens: float, params: float) -> float:
        return float(np.log(1.69 + 406.4 * params**-0.34 + 410.7 * tokens**-0.28))

    now, outlook = (256e9, 640e6), fitted(fits)[0].outlook
    assert outlook.change == pytest.approx(truth(2.56e12, now[1]) - truth(*now), abs=0.005)
    assert outlook.model_change == pytest.approx(truth(now[0], 6.4e9) - truth(*now), abs=0.005)
    low, high = outlook.model_interval
    assert low < outlook.model_change < high < low + 0.02
    assert any(text.startswith("10 times the parameters (6.4 billion) instead would take it to ") for text in sentences)


def test_chinchilla_figures_are_of_tokens_and_parameters() -> None:
    table = pretrained()
    some = table["pretrain_tokens"].isin(table["pretrain_tokens"].unique()[[0, 3, 5]])
    fits, sentences = said(LawOptions(**CHINCHILLA, by="corpus"), table[some])
    written = texts(fits)
    assert not [text for text in [*written, *sentences] if "image" in text or "error" in text]
    for expected in (
        "model size N (parameters)", "pre-training size D (tokens)", "N = 10M", "D = 256B", "exponent a of parameters",
    ):  # fmt: skip
        assert expected in written
    assert not [text for text in sentences if "better than none" in text]


def test_models_are_no_curves_of_their_own_in_a_law_of_model_size() -> None:
    columns = LawOptions(**CHINCHILLA).columns()
    (group,) = groups(pretrained(), columns)
    assert len(group.runs) == 24
    assert sorted(group.runs["s"].unique()) == list(MODELS)
    assert not group.notes
    by_corpus = LawOptions(**CHINCHILLA, by="corpus").columns()
    assert len(groups(pretrained(corpora=("web", "code")), by_corpus)) == 2


def test_units_and_kinds_follow_from_names_and_can_be_said() -> None:
    words = Columns(size="pretrain_tokens", score="val_loss").terms
    assert (words.sizes, words.measured, words.worthwhile) == ("tokens", "loss", 0.02)
    words = Columns().terms
    assert (words.sizes, words.measured, words.worthwhile) == ("images", "error", 0.10)
    words = Columns(size="hours", unit="hours of speech", score="wer", target_size="finetune_tokens").terms
    assert (words.sizes, words.seconds, words.measured) == ("hours of speech", "fine-tuning tokens", "error")
    assert Columns(score="nats", score_is="loss").terms.measured == "loss"
    assert Columns(score="loss_rate", score_is="error").terms.measured == "error"


def test_losses_that_cannot_be_used_are_left_out_with_the_reason() -> None:
    table = fine_tuned().astype({"finetune_loss": object, "pretrain_tokens": object})
    column = table.columns.get_loc("finetune_loss")
    for row, value in ((4, 0), (5, -1), (6, 1e7), (7, "nan")):
        table.iloc[row, column] = value
    table.iloc[8, table.columns.get_loc("pretrain_tokens")] = 1e16
    (code, _) = groups(table, Columns(size="pretrain_tokens", score="finetune_loss", by=("corpus",)))
    assert [row["reason"] for row in code.dropped] == [
        "finetune_loss is not over 0: a loss has a logarithm here",
        "finetune_loss is not over 0: a loss has a logarithm here",
        "finetune_loss is over 1,000,000",
        "finetune_loss is not a number",
        "pretrain_tokens is not a number of tokens",
    ]


def test_a_target_above_one_groups_losses_is_answered_for_each() -> None:
    options = LawOptions(size="pretrain_tokens", score="finetune_loss", by="corpus", target_error=2.4)
    _, sentences = said(options, fine_tuned())
    assert sum(text.startswith("For a loss of 2.4: about ") for text in sentences) == 2


def test_ten_times_the_tokens_are_judged_by_two_percent_of_the_loss() -> None:
    """The same curve as a loss and, a tenth as large, as an error: 4 % are worth it only of a loss."""
    table = fine_tuned(0.002)
    options = LawOptions(size="pretrain_tokens", score="finetune_loss", by="corpus", where="corpus == 'code'")
    fits, sentences = said(options, table)
    change = 1 - np.exp(fitted(fits)[0].outlook.change)
    assert 0.03 < change < 0.06
    assert any("pre-train on more tokens. More tokens still lower the loss." in text for text in sentences)
    table["wrong"] = table["finetune_loss"] / 10
    _, sentences = said(LawOptions(size="pretrain_tokens", score="wrong", by="corpus", where="corpus == 'code'"), table)
    assert any("change the data or the model. More tokens of this kind change little." in text for text in sentences)


def test_a_loss_that_rises_says_what_it_may_be() -> None:
    table = fine_tuned(0.002)
    table.loc[(table["pretrain_tokens"] == BUDGETS[-1]) & (table["corpus"] == "code"), "finetune_loss"] *= 1.3
    fits, _ = said(LawOptions(size="pretrain_tokens", score="finetune_loss", by="corpus"), table)
    assert any("harm by longer pre-training?" in note for note in fits[0].notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {**CHINCHILLA, "target_size": "params"},
            "^form chinchilla has the model's size, --model-size, .*; drop --",
        ),
        (
            {**CHINCHILLA, "score": "wrong"},
            "^form chinchilla is a law of losses, and the column 'wrong' is read as an",
        ),
        ({**CHINCHILLA, "score_is": "accuracy"}, "^form chinchilla is a law of losses, .* as an accuracy; name a loss"),
        ({**CHINCHILLA, "target_error": -1.0}, "^target loss -1 is not a number over 0"),
        ({"score": "loss", "target_error": float("inf")}, "^target loss inf is not a number over 0"),
        ({"score": "error", "target_error": 2.5}, "^target error 2.5 is not between 0 and 1; an error of 10 % is 0.1"),
    ],
)
def test_options_that_do_not_go_together(options, message) -> None:
    with pytest.raises(UserError, match=message):
        LawOptions(**options).check()


def test_tables_that_do_not_fit_the_options() -> None:
    with pytest.raises(UserError, match=r"^no column 'backbone_params' \(--model-size\) in the table; "):
        groups(pretrained(), LawOptions(**{**CHINCHILLA, "model_size": "backbone_params"}).columns())
    with pytest.raises(UserError, match=r"looks like percents; .*, or say --score-is loss if it is a loss$"):
        groups(pretrained(), Columns(size="pretrain_tokens", score="loss", score_is="error"))
    one = pretrained()[:6]
    (unfitted,) = analyse(groups(one, LawOptions(**CHINCHILLA).columns()), FORMS["chinchilla"]())
    assert unfitted.reason == "all runs have s = 1e+07; loss = E + A * N^-a + B * D^-b needs several model sizes"
    both = groups(pretrained(corpora=("web", "code")), LawOptions(**CHINCHILLA, by="corpus").columns())
    with pytest.raises(UserError, match=r"^loss = E \+ .* shares no coefficient; use free or a number"):
        analyse(both, FORMS["chinchilla"](), Method(coefficient="shared"))
