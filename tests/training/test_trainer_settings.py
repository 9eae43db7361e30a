"""Every setting of `transformers.Trainer` is acted on, or refused when the trainer is made."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import torch
import transformers
from training_runs import At, differing, distilling, matching, rows, teaching, tiny, weights
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments
from transformers.trainer_utils import HPSearchBackend

from hf_ddistill.models import as_denoiser
from hf_ddistill.training import DiscreteDiffusionTrainer

TABLES = Path(__file__).parents[2] / "docs" / "trainer_settings.md"
HELD_OUT = {"eval_dataset": rows(12, held_out=True), "per_device_eval_batch_size": 5}


@pytest.mark.skipif(not transformers.__version__.startswith("5.24."), reason="tables are of 5.24")
def test_every_setting_of_the_library_stands_in_the_tables():
    lines = TABLES.read_text().splitlines()
    named = {
        n for line in lines if line[:2] == "| " for n in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    arguments = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    settings = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert arguments | settings == named


REFUSED = {
    "compute_loss_func": (lambda *given: 0, "the objective is the loss: give objective= an id"),
    "preprocess_logits_for_metrics": (lambda *given: 0, "no logits are gathered: compute_metrics"),
    "label_smoothing_factor": (0.1, r"=0.1 is not used here, only 0.0: the objectives compare"),
    "label_names": (["labels"], r"=\['labels'\] is not used here, only None: a row's own tokens"),
    "remove_unused_columns": (True, "it would drop the columns that the objective reads"),
    "average_tokens_across_devices": (False, "only True: a loss is a mean over the tokens of all"),
    "bf16_full_eval": (True, "it would leave the weights in bfloat16"),
    "metric_for_best_model": ("fd", "='fd' is measured by nobody: without sample_metrics="),
    "sample_metrics": (lambda x: {}, "num_eval_samples is 0: set it above 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_setting_that_would_be_ignored_is_refused(tmp_path, name):
    value, words = REFUSED[name]
    for trained in (teaching, distilling):
        with pytest.raises(ValueError, match=words) as caught:
            trained(tmp_path, **{name: value})
        assert str(caught.value).startswith(name)


def test_optimizer_that_steps_in_the_backward_pass_is_refused_beside_an_auxiliary(tmp_path):
    words = "does not go with optim='adalomo', which steps within the backward pass"
    with pytest.raises(ValueError, match=words):
        distilling(tmp_path, objective=matching(), optim="adalomo")


def test_predict_gives_a_sample_for_each_row_with_its_class(tmp_path):
    data, means = rows(12, held_out=True, labels=True), []
    trainer = teaching(tmp_path, tiny(num_classes=10), rows(16, labels=True), sample_steps=2)
    seen = []
    hook = trainer.model.model.register_forward_pre_hook(
        lambda module, given, named: seen.append(named["class_labels"]), with_kwargs=True
    )
    for size in (5, 12):
        trainer.args.per_device_eval_batch_size = size
        found = trainer.predict(data)
        assert found.predictions.shape == (12, 64) and 0 <= found.predictions.min()
        assert found.predictions.max() == 1 and found.metrics["test_loss"] > 0
        assert (found.label_ids == [row["input_ids"] for row in data]).all()
        means.append(found.predictions.tolist())
    hook.remove()
    assert means[0] == means[1]
    classes = [row["class_labels"] for row in data]
    assert seen[-1].tolist() == classes


def test_predict_holds_what_is_given_of_a_row_and_leaves_out_padding(tmp_path):
    short = [{"input_ids": row["input_ids"][: 10 + i]} for i, row in enumerate(rows(4))]
    model = tiny(pad_token_id=0, token_shape=None, position_embedding="rotary")
    model.config.max_position_embeddings = 64
    found = teaching(tmp_path, model, short, prompt_length=6, sample_steps=2).predict(short)
    for i, row in enumerate(short):
        assert found.predictions[i][:6].tolist() == row["input_ids"][:6]
        assert (found.predictions[i][10 + i :] == -100).all()
        assert (found.label_ids[i][:6] == -100).all()
        assert found.label_ids[i][6 : 10 + i].tolist() == row["input_ids"][6:]


def test_compute_metrics_is_given_samples_at_each_evaluation(tmp_path):
    def measured(given):
        assert given.predictions.shape == given.label_ids.shape == (12, 64)
        return {"ink": float(given.predictions.mean()), "real": float(given.label_ids.mean())}

    trainer = teaching(tmp_path, compute_metrics=measured, sample_steps=1, **HELD_OUT)
    metrics = trainer.evaluate()
    assert 0 < metrics["eval_ink"] < 1 and metrics["eval_loss"] > 0
    expected = torch.tensor([row["input_ids"] for row in HELD_OUT["eval_dataset"]]).double().mean()
    assert metrics["eval_real"] == pytest.approx(float(expected))
    before = torch.get_rng_state()
    assert trainer.evaluate()["eval_ink"] == metrics["eval_ink"]
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("several", [False, True])
def test_figure_of_samples_chooses_the_best_model_and_stops_early(tmp_path, several):
    figures = iter([0.3, 0.1, 0.2, 0.25, 0.5])
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps"}
    settings |= {"save_steps": 1, "load_best_model_at_end": True, "max_steps": 5}
    settings |= {"metric_for_best_model": "fd", "greater_is_better": False, "sample_steps": 1}
    settings |= HELD_OUT
    if several:
        settings["eval_dataset"] = {name: rows(4, held_out=True) for name in "ab"}
    trainer = teaching(
        tmp_path,
        num_eval_samples=2,
        sample_metrics=lambda samples: {"fd": next(figures)},
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
        **settings,
    )
    trainer.train()
    assert trainer.state.global_step == 4 and trainer.state.best_global_step == 2
    assert trainer.state.best_metric == 0.1
    assert [row["fd"] for row in trainer.measured] == [0.3, 0.1, 0.2, 0.25]


def test_model_init_gives_each_run_a_model_a_mean_and_an_auxiliary_of_its_own(tmp_path):
    made = []

    def fresh():
        made.append(tiny(int(torch.randint(100, ()))))
        return made[-1]

    settings = {"objective": matching(), "model_init": fresh, "collapse_share": 0}
    trainer = distilling(tmp_path, tiny(), **settings, learning_rate=0.05)
    ended = []
    for _ in range(2):
        trainer.train()
        parts = {
            "mean": trainer.average.mean,
            "auxiliary": weights(trainer.auxiliaries.models["auxiliary"]),
        }
        parts["student"] = weights(trainer.model)
        ended.append({f"{part}.{n}": w for part, m in parts.items() for n, w in m.items()})
        assert trainer.model is made[-1] is trainer.denoiser().network.model
        assert trainer.auxiliaries.models["auxiliary"] is not trainer.model
    assert len(made) == 3 and not differing(*ended)
    callbacks = [type(c).__name__ for c in trainer.callback_handler.callbacks]
    assert len(callbacks) == len(set(callbacks))


def test_model_init_with_a_model_an_optimizer_or_rounds_is_refused(tmp_path):
    sgd = torch.optim.SGD(tiny().parameters())
    for given, words in (
        ({"model": tiny()}, "Give model= or model_init=, not both"),
        ({"optimizers": (sgd, None)}, "leave out optimizers=, or give model="),
        ({"rounds": 3}, "nor one that model_init= makes anew"),
    ):
        with pytest.raises(ValueError, match=words):
            distilling(tmp_path, model_init=lambda: tiny(), **given)
    with pytest.raises(ValueError, match="give model= or model_init="):
        DiscreteDiffusionTrainer(None)


class Trial:
    """As much of a trial as transformers looks at."""

    def __init__(self, number):
        self.number, self.params = number, {}


class Search:
    """What the backends of transformers do with a trainer, over two learning rates."""

    def default_hp_space(self, trial):
        return {}

    def ensure_available(self):
        pass

    def run(self, trainer, n_trials, direction, **kwargs):
        found = []
        for number in range(n_trials):
            trial = Trial(number)
            trainer.objective = None
            trainer.train(trial=trial)
            if getattr(trainer, "objective", None) is None:
                trainer.objective = trainer.compute_objective(trainer.evaluate())
            found.append((trainer.objective, trainer.args.ema_decay, trainer.average))
        return found


@pytest.mark.parametrize("adapted", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_hyperparameter_search_tries_each_setting_on_a_new_model(tmp_path, monkeypatch, adapted):
    known = "transformers.trainer.ALL_HYPERPARAMETER_SEARCH_BACKENDS"
    monkeypatch.setattr(known, {HPSearchBackend.OPTUNA: Search})
    monkeypatch.setattr("transformers.integrations.hp_params", lambda trial: trial.params)
    own = {}
    if adapted:
        own["peft_config"] = pytest.importorskip("peft").LoraConfig(r=1, target_modules=["qkv"])
    teacher = None if adapted else tiny()
    trainer = distilling(tmp_path, teacher, model_init=lambda trial: tiny(1), **own, **HELD_OUT)
    objective = trainer.objective
    space = [{"learning_rate": 0.1, "ema_decay": 0.5}, {"learning_rate": 1e-9, "ema_decay": 0.0}]
    found = trainer.hyperparameter_search(
        lambda trial: space[trial.number], n_trials=2, backend="optuna"
    )
    assert trainer.objective is objective
    (best, decay, average), (untrained, none, absent) = found
    assert decay == 0.5 and average.decay == 0.5 and none == 0.0 and absent is None
    again = distilling(tmp_path, tiny() if teacher else None, model=tiny(1), **own, **HELD_OUT)
    assert untrained == pytest.approx(again.evaluate()["eval_loss"], rel=1e-4)
    assert best != untrained


def test_a_stock_trainer_measures_the_loss_of_a_network_of_ours(tmp_path):
    masked = [
        {"input_ids": [2, *row["input_ids"][1:]], "labels": row["input_ids"]} for row in rows(8)
    ]
    masked = [{**row, "timesteps": 0.5} for row in masked]
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[], disable_tqdm=True)
    metrics = Trainer(tiny(), args, train_dataset=masked, eval_dataset=masked).evaluate()
    assert metrics["eval_loss"] > 0
    with pytest.raises(ValueError, match="num_classes=4 needs class_labels .4 is the null class"):
        Trainer(tiny(num_classes=4), args, eval_dataset=masked).evaluate()


def test_half_precision_weights_are_warned_of_and_never_made(tmp_path):
    tiny().bfloat16().save_pretrained(tmp_path / "half")
    half = tiny().bfloat16()
    with pytest.warns(UserWarning, match="weights of bfloat16, which lose every step"):
        teaching(tmp_path, half)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    for trainer in (
        teaching(tmp_path, str(tmp_path / "half")),
        distilling(tmp_path, str(tmp_path / "half"), model=str(tmp_path / "half")),
        distilling(tmp_path, str(tmp_path / "half"), objective=matching(), collapse_share=0),
    ):
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
        before = weights(trainer.model)
        trainer.args.learning_rate = 1e-6
        trainer.train()
        assert len(differing(weights(trainer.model), before)) == len(before)


def test_a_student_of_one_call_without_noise_is_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="draws its tokens independently of each other"):
        distilling(tmp_path, student_steps=1)
    distilling(tmp_path, student_steps=1, noise_dim=2)
    distilling(tmp_path, student_steps=2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of torch's own compiler
def test_compiled_student_is_trained_as_the_plain_one(tmp_path):
    ended = []
    for compiled in ({}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        trainer = teaching(tmp_path, tiny(), max_steps=2, ema_decay=0, **compiled)
        trainer.add_callback(At("on_step_end", lambda state, control: None))
        trainer.train()
        ended.append(weights(as_denoiser(trainer.model).network.model))
    assert ended[0].keys() == ended[1].keys()
    assert all(torch.allclose(ended[0][n], ended[1][n], atol=1e-6) for n in ended[0])
