"""Studies of transfer methods of which the truth is known."""

import numpy as np
import pandas as pd


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
