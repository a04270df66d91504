"""Methods compared on tables of simulated studies of which the truth is known."""

import numpy as np
import pandas as pd
import pytest
from method_worlds import study
from scipy import stats

from lightning_tl.errors import UserError
from lightning_tl.study.transfer_methods.comparison import compare_methods
from lightning_tl.study.transfer_methods.labels import order, parse_label
from lightning_tl.study.transfer_methods.methods_table import settings

ERRORS = {"full": 0.2, "lora(rank=4)": 0.2, "linear_probe": 0.3, "partial(share=0.2)": 0.3}
FORGETTING = {"full": 0.3, "lora(rank=4)": 0.02, "linear_probe": 0.001, "partial(share=0.2)": 0.6}


def compared(table, interpolations=None, **options):
    return compare_methods(settings(table, interpolations), **options)


def test_labels():
    assert parse_label("full").name == "full"
    label = parse_label("partial(share=0.5)")
    assert (label.name, label.setting, label.value) == ("partial", "share", 0.5)
    assert parse_label("partial(layers=[conv1 layer1])").value is None
    assert parse_label("layerwise(decay=0.7) + l2sp(strength=0.01)") is None
    assert parse_label("lora(rank=4, targets=conv)").setting == ""
    labels = ["partial(share=0.5)", "lora(rank=16)", "full", "lora(rank=4)"]
    assert sorted(labels, key=order) == ["full", "lora(rank=4)", "lora(rank=16)", "partial(share=0.5)"]


def test_differences_are_paired_by_draw():
    table = study(ERRORS, FORGETTING, sizes=(100,), luck=0.5)
    (found,) = compared(table)
    own = {label: table[table["transfer"] == label].sort_values("draw_seed")["error"] for label in ERRORS}
    low, high = stats.ttest_rel(own["linear_probe"], own["full"]).confidence_interval(0.95)
    item = found.method("linear_probe")
    assert item.error_to_full.interval(0.95) == pytest.approx((low, high))
    assert item.error.mean == pytest.approx(own["linear_probe"].mean())
    # the luck of the draws is in the mean, and cancels in the difference
    assert item.error_to_full.stderr < 0.5 * item.error.stderr


def test_the_method_that_forgets_least_at_equal_error_is_taken():
    (found,) = compared(study(ERRORS, FORGETTING, sizes=(100,), noise=0.01))
    assert found.take == "lora(rank=4)"
    assert found.method("partial(share=0.2)").place.standing == "off"
    assert {item.label for item in found.methods if item.place.standing == "on"} >= {"lora(rank=4)", "linear_probe"}


def test_test_images_have_no_part_in_the_choice():
    table = study({"full": 0.2, "bitfit": 0.4}, {"full": 0.3, "bitfit": 0.1}, sizes=(100,), noise=0.001)
    swapped = table.assign(val_error=table["val_error"].where(table["transfer"] == "full", 0.1))
    assert compared(table)[0].take == "full"
    assert compared(swapped)[0].take == "bitfit"


def test_negative_transfer_is_a_one_sided_paired_test_with_holm():
    table = study(ERRORS, FORGETTING, sizes=(100,), scratch=0.22, luck=0.3)
    (found,) = compared(table)
    scratch = table[table["pretrain_images"] == 0].sort_values("draw_seed")["error"].to_numpy()
    raw = {}
    for label in ERRORS:
        rows = table[(table["transfer"] == label) & (table["pretrain_images"] > 0)].sort_values("draw_seed")
        ratio = np.log(rows["error"].to_numpy() / scratch)
        raw[label] = stats.ttest_1samp(ratio, 0, alternative="greater").pvalue
    ranked = sorted(raw.values())
    first = min(raw, key=raw.get)
    assert found.method(first).p_negative == pytest.approx(min(1, 4 * ranked[0]))
    named = {item.label for item in found.methods if item.p_negative < 0.05}
    assert named == {"linear_probe", "partial(share=0.2)"}


def test_without_runs_from_scratch_nothing_is_named():
    (found,) = compared(study(ERRORS, sizes=(100,)))
    assert all(item.p_negative == 1 for item in found.methods)
    assert np.isnan(found.scratch.mean)
    assert all(item.place.standing == "unknown" for item in found.methods)  # forgetting was not measured


def test_settings_are_told_apart_by_backbone_n_and_s_and_not_by_a_methods_own_rate():
    backbones = {"resnet10_w8": (80_000, 1.2), "resnet10_w16": (300_000, 1.0)}
    table = study(ERRORS, sizes=(50, 100), ns=(500, 1000), scratch=0.3, backbones=backbones)
    table["lr"] = table["transfer"].map(lambda label: 0.1 if label == "linear_probe" else 0.004)
    table["finetune.model.transfer"] = table["transfer"]
    table["pretrain.model.backbone"] = table["backbone"].where(table["pretrain_images"] > 0)
    found = settings(table)
    assert len(found) == 2 * 2 * 2
    assert [list(item.keys) for item in found] == [["backbone"]] * 8
    assert all(len(item.scratch) == 5 and set(item.scratch["backbone"]) == {item.keys["backbone"]} for item in found)
    # a rate that varies within a method makes settings of its own
    both = pd.concat([table.assign(lr=0.004), table.assign(lr=0.02, run_id="other" + table["run_id"])])
    assert len(settings(both)) == 16


def test_interpolations_are_points_of_the_front_and_no_trainings_to_test():
    table = study(ERRORS, FORGETTING, sizes=(100,), scratch=0.1)
    full = table[(table["transfer"] == "full") & (table["pretrain_images"] > 0)]
    rows = [
        {
            "run_id": row.run_id,
            "alpha": alpha,
            "error": row.error,
            "val_error": row.val_error,
            "pretrain_loss": 0.5 + 0.3 * alpha,
        }
        for row in full.itertuples()
        for alpha in (0.0, 0.5, 1.0)
    ]
    (found,) = compared(table, pd.DataFrame(rows))
    labels = [item.label for item in found.methods]
    assert [label for label in labels if "α" in label] == ["full, α = 0", "full, α = 0.5"]
    assert found.method("full, α = 0.5").forgetting.mean == pytest.approx(0.15)
    assert found.method("full, α = 0").p_negative == 1
    assert found.take == "full, α = 0"  # the same error as full, nothing forgotten


def test_what_cannot_be_compared_is_named():
    table = study(ERRORS)
    with pytest.raises(UserError, match=r"results\.csv has no transfer, which the comparison of methods needs"):
        settings(table.drop(columns="transfer"))
    with pytest.raises(UserError, match="no finished fine-tuning from a pre-training"):
        settings(table[table["pretrain_images"] == 0])
    with pytest.raises(UserError, match=r"interpolations\.csv has no alpha; run the study again"):
        settings(table, pd.DataFrame({"run_id": ["a"], "error": [0.1]}))


def test_a_failed_run_leaves_the_others():
    table = study(ERRORS, FORGETTING, sizes=(100,))
    (found,) = compared(table[table["run_id"] != "resnet10_w16-1000-0-linear_probe-100-2"])
    assert found.method("linear_probe").error.draws == 4
    assert found.method("full").error.draws == 5
    assert found.method("linear_probe").error_to_full.draws == 4


def test_a_rate_that_was_chosen_for_each_backbone_and_method_makes_no_settings():
    table = study(ERRORS, sizes=(50,), backbones={"resnet10_w8": (80_000, 1.2), "resnet10_w16": (300_000, 1.0)})
    table["lr"] = 0.004
    table.loc[(table["backbone"] == "resnet10_w8") & (table["transfer"] == "full"), "lr"] = 0.016
    table["finetune.model.optimizer.lr"] = table["lr"]
    assert [item.keys for item in settings(table)] == [{"backbone": "resnet10_w16"}, {"backbone": "resnet10_w8"}]


def with_images(rng, images=400, draws=5, resamples=200):
    """Two methods that are equal on all images that exist, and differ on those that were drawn."""
    by_image = {label: rng.normal(size=images) for label in ("full", "bitfit")}  # how hard each image is to each method
    samples = rng.integers(0, images, (resamples, images))
    rows, replicates = [], {}
    for label, hard in by_image.items():
        for draw in range(draws):
            wrong = hard + 0.5 * rng.normal(size=images) > 1.2
            run = f"{label}-{draw}"
            rows.append({"run_id": run, "transfer": label, "draw_seed": draw, "error": wrong.mean()})
            replicates[run] = wrong[samples].mean(axis=1)
    common = {"pretrain_images": 100, "finetune_images": 50, "pretrain_run": "p", "test_set": "digits"}
    return pd.DataFrame(rows).assign(**common), replicates


def test_intervals_hold_for_all_images_that_exist():
    hits = {True: 0, False: 0}
    for world in range(80):
        table, replicates = with_images(np.random.default_rng(world))
        for known in hits:
            (found,) = settings(table, replicates=replicates if known else None)
            low, high = found.estimate("bitfit", "error", "full").interval(0.95)
            hits[known] += low <= 0 <= high
    assert hits[True] >= 0.9 * 80
    assert hits[False] < 0.75 * 80  # the scatter over draws knows nothing of the images


def test_a_ratio_to_scratch_holds_for_all_images_too():
    table, replicates = with_images(np.random.default_rng(0))
    table.loc[table["transfer"] == "bitfit", "pretrain_images"] = 0
    plain, known = (settings(table, replicates=given)[0].above_scratch("full") for given in (None, replicates))
    assert known.stderr > 1.5 * plain.stderr
    assert known.mean == plain.mean
    assert known.dof > plain.dof
    # another test set, or a run without replicates: nothing is known
    other = table.assign(test_set=["a", *table["test_set"][1:]])
    assert settings(other, replicates=replicates)[0].above_scratch("full").stderr == plain.stderr


def test_which_interpolations_were_evaluated_is_no_part_of_a_methods_name():
    table = study({"full": 0.2, "wiseft(alphas=[0 0.5 1])": 0.2, "l2sp(strength=0.1) + wiseft(alphas=[0.5])": 0.2})
    (found, _) = settings(table)
    assert found.methods == ["full", "l2sp(strength=0.1) + wiseft", "wiseft"]
    assert (
        settings(table.replace("wiseft(alphas=[0 0.5 1])", "wiseft(alphas=[1], take=0.5)"))[0]
        .methods[-1]
        .endswith("5)")
    )
