"""A real Hugging Face Trainer: training with measurements is, bit for bit, training without."""

import json
import logging
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from ports import free_port
from torch.utils.data import Dataset, IterableDataset

from lightning_tl.errors import UserError
from lightning_tl.integrations.transformers import MeasureCallback
from lightning_tl.measure import Objective, hessian_trace, noise_scales, perturbation_sensitivity
from lightning_tl.measure.distance_measure import DistanceMeasure
from lightning_tl.measure.measures import SensitivityMeasure, TraceMeasure
from tests.measured_values import only

ROOT = Path(__file__).parents[2]


class Text(Dataset):
    def __init__(self, count=24):
        self.ids = torch.randint(0, 11, (count, 8), generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def model():
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(
        vocab_size=11, max_position_embeddings=16, attention_dropout=0.1, bos_token_id=0, eos_token_id=0, **size
    )
    return transformers.LlamaForCausalLM(config)


class Averaging(transformers.Trainer):
    """Collects numbers in its compute_loss and adds them to its log, as TRL's trainers do."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.collected = {"train": []}

    def compute_loss(self, model, inputs, *args, **kwargs):
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        self.collected["train"].append(float(loss if isinstance(loss, torch.Tensor) else loss[0]))
        return loss

    def log(self, logs, start_time=None):
        logs["mean"] = sum(self.collected["train"]) / max(len(self.collected["train"]), 1)
        self.collected["train"].clear()
        super().log(logs, start_time)


def fit(folder, measures=(), kind=transformers.Trainer, steps=6, resume=None, options=None, **arguments):
    transformers.set_seed(3)
    settings = {
        "use_cpu": True,
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "logging_steps": 2,
        "learning_rate": 1e-2,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "eval_strategy": "steps",
        "eval_steps": 3,
    }
    args = transformers.TrainingArguments(output_dir=str(folder), **settings | arguments)
    trainer = kind(model(), args, train_dataset=Text(), eval_dataset=Text(8))
    callback = None
    if measures:
        callback = MeasureCallback(trainer, measures, 2, on_error="raise", **(options or {}))
        trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, callback


def measures():
    return [DistanceMeasure(), TraceMeasure(products=4), SensitivityMeasure([0.1], draws=2)]


def own_rows(trainer):
    times = {"train_runtime", "train_samples_per_second", "train_steps_per_second"}
    times |= {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}
    rows = [row for row in trainer.state.log_history if not any("/" in key for key in row)]
    return [{key: value for key, value in row.items() if key not in times} for row in rows]


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"bf16": True}, marks=pytest.mark.slow),
        pytest.param({"gradient_checkpointing": True}, marks=pytest.mark.slow),
        pytest.param({"gradient_accumulation_steps": 2}, marks=pytest.mark.slow),
        {"bf16": True, "gradient_checkpointing": True, "gradient_accumulation_steps": 2, "label_smoothing_factor": 0.1},
        {"kind": Averaging},
    ],
    ids=str,
)
def test_training_is_bit_identical(tmp_path, options):
    plain, _ = fit(tmp_path / "a", **options)
    measured, callback = fit(tmp_path / "b", measures(), **options, options={"at_validation": True})
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, measured.model.state_dict()[name]), name
    first, second = (trainer.optimizer.state_dict()["state"] for trainer in (plain, measured))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[i][key], second[i][key]) for i in first for key in first[i])
    assert own_rows(plain) == own_rows(measured)
    assert len([row for row in own_rows(measured) if "loss" in row]) == 3
    assert callback.recorder.measured_steps == [0, 2, 3, 4, 6]
    for key in ("param_distance/total", "hessian/trace", "sensitivity/gamma_0.1", "hessian/seconds"):
        steps = [row["step"] for row in measured.state.log_history if key in row]
        assert steps == [0, 2, 3, 4, 6], key
    assert all(math.isfinite(record.value) for record in callback.history)
    assert torch.equal(torch.rand(3, generator=torch.default_generator), _next_number(tmp_path, options))


def _next_number(folder, options):
    """Return what torch draws after training without the callback."""
    fit(folder / "c", **options)
    return torch.rand(3)


def test_values_are_those_of_the_measure_package(tmp_path):
    _, callback = fit(tmp_path, measures(), bf16=True)
    transformers.set_seed(3)
    fresh = model()
    ids = Text().ids[:4]
    objective = Objective(fresh, lambda m, b: m(**b).loss, [{"input_ids": ids, "labels": ids}])
    trace = hessian_trace(objective, products=4, seed=0)
    assert only(callback.history, 0, "hessian", "trace").value == pytest.approx(trace.value, rel=1e-4)
    level = perturbation_sensitivity(objective, noise_scales(fresh, objective.params), [0.1], 2)[0]
    rise = only(callback.history, 0, "sensitivity", gamma=0.1)
    assert rise.value == pytest.approx(level.sensitivity, rel=1e-3)


def test_a_resumed_run_goes_on(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "no"}
    _, whole = fit(tmp_path / "whole", measures(), **saving)
    fit(tmp_path / "part", measures(), steps=6, **saving)
    folder = tmp_path / "part" / "checkpoint-4"
    assert (folder / "measurements.pt").is_file()
    trainer, again = fit(tmp_path / "part", measures(), resume=str(folder), **saving)
    assert trainer.state.global_step == 6
    assert again.history == whole.history
    (folder / "measurements.pt").unlink()
    _, anew = fit(tmp_path / "part", measures(), resume=str(folder), **saving)
    assert anew.recorder.measured_steps == [4, 6]


def test_the_probe(tmp_path, caplog):
    _, callback = fit(tmp_path, [TraceMeasure(products=2)], options={"probe": "val"})
    assert torch.equal(callback.recorder.probe.batches[0]["input_ids"], Text(8).ids)
    _, callback = fit(tmp_path, [TraceMeasure(products=2)], options={"probe_batches": 2})
    assert torch.equal(callback.recorder.probe.batches[1]["input_ids"], Text().ids[4:8])
    with caplog.at_level(logging.WARNING):
        _, callback = fit(tmp_path, [TraceMeasure(products=2)], options={"probe_batches": 20})
    assert len(callback.recorder.probe.batches) == 6
    assert "probe_batches=20, but there are 6" in caplog.text


def test_the_pages_example(tmp_path):
    page = (ROOT / "docs" / "trainers.md").read_text()
    (block,) = [each for each in re.findall(r"```python\n(.*?)```", page, re.S) if "MeasureCallback" in each]
    args = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, max_steps=2, report_to=[])
    trainer = transformers.Trainer(model(), args, train_dataset=Text())
    exec(block, {"trainer": trainer})
    trainer.train()
    assert [row["step"] for row in trainer.state.log_history if "sensitivity/gamma_0.02" in row] == [0, 2]


class Stream(IterableDataset):
    def __iter__(self):
        return iter([Text()[i] for i in range(24)])


def test_refusals(tmp_path):
    with pytest.raises(UserError, match=r"trainer=3 must be the transformers.Trainer"):
        MeasureCallback(3, measures())
    args = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, max_steps=2, report_to=[])
    trainer = transformers.Trainer(model(), args, train_dataset=Stream())
    with pytest.raises(UserError, match=r"measures=\[3\] must be a list"):
        MeasureCallback(trainer, [3])
    with pytest.raises(UserError, match="each kind can be given once"):
        MeasureCallback(trainer, [TraceMeasure(), TraceMeasure()])
    trainer.add_callback(MeasureCallback(trainer, measures()))
    with pytest.raises(UserError, match=r"Stream has no items by number.*pass probe="):
        trainer.train()


PROGRAM = """
import json, sys, torch
torch.set_num_threads(1)
from tests.integrations.test_transformers import fit, measures
chosen = measures() if sys.argv[2] == "with" else []
trainer, callback = fit(sys.argv[1], chosen, steps=4, eval_strategy="no", ddp_backend="gloo")
values = [(r.step, r.key, r.value) for r in callback.history] if callback else []
weights = [float(p.detach().double().sum()) for p in trainer.model.parameters()]
with open(f"{sys.argv[1]}/{sys.argv[2]}{trainer.args.process_index}.json", "w") as file:
    json.dump({"world": trainer.args.world_size, "values": values, "weights": weights}, file)
"""


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Training is as without; the values are those of all processes, equal on both."""
    (tmp_path / "program.py").write_text(PROGRAM)
    found = {}
    for kind in ("with", "without"):
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
        command = [*launch, str(tmp_path / "program.py"), str(tmp_path), kind]
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found[kind] = [json.loads((tmp_path / f"{kind}{rank}.json").read_text()) for rank in (0, 1)]
    first, second = found["with"]
    assert first["world"] == 2
    assert first["values"] == second["values"]
    assert {step for step, *_ in first["values"]} == {0, 2, 4}
    assert first["weights"] == second["weights"] == found["without"][0]["weights"]
