"""Studies of transfer methods of which the truth is known."""

import numpy as np
import pandas as pd

from lightning_tl.laws.samples_needed import sample_curve

TARGET = 0.2


def study(
    errors,
    forgetting=None,
    sizes=(100, 400),
    ns=(1000,),
    seeds=1,
    draws=5,
    scratch=None,
    noise=0.03,
    luck=0.1,
    between=0.0,
    backbones=None,
    rng=0,
):
    """Return a table like results.csv.

    Args:
        errors: label → true test error: a number, or a function of (s, n).
        forgetting: label → true rise of the pre-training loss, a number.
        scratch: True error without pre-training: a number, or a function of s; None: no such runs.
        noise: Of each run, of log error.
        luck: Of a draw of fine-tuning images, of log error: it is the same for all methods.
        between: Of a pre-training and a method, of log error.
        backbones: name → parameters and a factor of the error.
    """
    rng = np.random.default_rng(rng)
    forgetting = forgetting or {}
    rows = []
    for backbone, (parameters, factor) in (backbones or {"resnet10_w16": (300_000, 1.0)}).items():
        lucks = {(s, d): luck * rng.standard_normal() for s in sizes for d in range(draws)}
        for n in ns:
            own = {(label, seed): between * rng.standard_normal() for label in errors for seed in range(seeds)}
            for label, truth in errors.items():
                for seed in range(seeds):
                    for s in sizes:
                        for d in range(draws):
                            value = truth(s, n) if callable(truth) else truth
                            moved = lucks[s, d] + own[label, seed] + noise * rng.standard_normal()
                            rise = forgetting.get(label, np.nan) * np.exp(noise * rng.standard_normal())
                            rows.append(
                                {
                                    "run_id": f"{backbone}-{n}-{seed}-{label}-{s}-{d}",
                                    "backbone": backbone,
                                    "backbone_params": parameters,
                                    "pretrain_images": n,
                                    "pretrain_seed": seed,
                                    "pretrain_run": f"{backbone}-{n}-{seed}",
                                    "finetune_images": s,
                                    "transfer": label,
                                    "draw_seed": d,
                                    "lr": 0.004,
                                    "error": factor * value * np.exp(moved),
                                    "val_error": factor * value * np.exp(moved + noise * rng.standard_normal()),
                                    "pretrain_loss_before": 0.5,
                                    "pretrain_loss_after": 0.5 + rise,
                                    "param_distance": 1.0,
                                    "seconds": 3.0,
                                    "trainable_params": parameters,
                                }
                            )
        if scratch is not None:
            for s in sizes:
                for d in range(draws):
                    value = scratch(s) if callable(scratch) else scratch
                    rows.append(
                        {
                            "run_id": f"{backbone}-scratch-{s}-{d}",
                            "backbone": backbone,
                            "backbone_params": parameters,
                            "pretrain_images": 0,
                            "finetune_images": s,
                            "transfer": "full",
                            "draw_seed": d,
                            "lr": 0.004,
                            "error": factor * value * np.exp(lucks[s, d] + noise * rng.standard_normal()),
                            "seconds": 3.0,
                        }
                    )
    return pd.DataFrame(rows)


def sample_world(
    rng,
    models=(1e5, 4e5, 1.6e6),
    power=0.3,
    beta=0.4,
    floor=0.0,
    sizes=(50, 150, 400, 1000),
    draws=3,
    noise=0.03,
    luck=0.1,
    seeds=1,
    between=0.0,
):
    """Return curves over s of models that need 300·(parameters / 4e5)^-power images for TARGET; these; and the power.

    Args:
        floor: Error that no number of images removes.
        luck: Of a draw of fine-tuning images, of log error: it is the same for all models.
        between: Of a pre-training, of log error.
    """
    lucks = {(s, d): luck * rng.standard_normal() for s in sizes for d in range(draws)}
    curves, truth = [], []
    for parameters in models:
        needed = 300 * (parameters / models[1]) ** -power
        coefficient = (TARGET - floor) * needed**beta
        own = [between * rng.standard_normal() for _ in range(seeds)]
        rows = [
            {
                "s": s,
                "error": (coefficient * s**-beta + floor) * np.exp(lucks[s, d] + moved + noise * rng.standard_normal()),
                "draw": str(d),
                "pretrain": f"{parameters}-{number}",
            }
            for s in sizes
            for d in range(draws)
            for number, moved in enumerate(own)
        ]
        curves.append(sample_curve(f"{parameters:g}", pd.DataFrame(rows), {"parameters": parameters}))
        truth.append(needed)
    return curves, truth, power
