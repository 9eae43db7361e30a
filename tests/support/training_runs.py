"""Tiny models and short runs on the digits of scikit-learn, for the tests of the trainers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar

import torch
from transformers import TrainerCallback

from hf_ddistill.evaluation.digits_data import load_digit_tokens, split_digits
from hf_ddistill.linalg import categorical
from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion
from hf_ddistill.objectives import Frozen, Networks, Objective, Trained
from hf_ddistill.training import (
    DiscreteDiffusionConfig,
    DiscreteDiffusionTrainer,
    DiscreteDistillationConfig,
    DiscreteDistillationTrainer,
)

# Networks this small gain nothing from a second thread, and lose much where cores are shared.
torch.set_num_threads(1)

VOCAB, MASK = 3, 2
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "cond_dim": 8}
IMAGE = {"token_shape": [8, 8], "position_embedding": "rotary_learned"}
QUIET = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no"}


def tiny(seed=0, **settings):
    """A network of some thousand weights; the seed decides them."""
    torch.manual_seed(seed)
    defaults = {"vocab_size": VOCAB, "mask_token_id": MASK, "embedding_initializer_range": 1.0}
    return DDiTForDiscreteDiffusion(DDiTConfig(**defaults | SIZES | IMAGE | settings))


@cache
def digits():
    """Binary images: 1,497 to train on and 300 held out."""
    return split_digits(*load_digit_tokens(2))


def rows(count, held_out=False, labels=False):
    """The first images as rows of a data set, with their classes if asked for."""
    data = digits()
    tokens = data.held_out_tokens if held_out else data.train_tokens
    of_class = data.held_out_labels if held_out else data.train_labels
    # Sorted by class: take them from everywhere.
    chosen = torch.arange(count) * (len(tokens) // count)
    return [
        {"input_ids": tokens[i].tolist()} | ({"class_labels": int(of_class[i])} if labels else {})
        for i in chosen
    ]


def teaching(folder, model=None, data=None, *, objective="nelbo", **settings):
    """A trainer of a teacher; `settings` are of its configuration, or of the trainer."""
    ours, theirs = _sorted(settings, DiscreteDiffusionConfig)
    return DiscreteDiffusionTrainer(
        tiny() if model is None else model,
        DiscreteDiffusionConfig(str(folder), **QUIET | {"max_steps": 3} | ours),
        objective,
        train_dataset=rows(64) if data is None else data,
        **theirs,
    )


def distilling(folder, teacher="tiny", data=None, *, model=None, objective="ecd", **settings):
    """A trainer of a student, a copy of the teacher if there is no other."""
    ours, theirs = _sorted(settings, DiscreteDistillationConfig)
    return DiscreteDistillationTrainer(
        model,
        tiny() if teacher == "tiny" else teacher,
        objective,
        DiscreteDistillationConfig(str(folder), **QUIET | {"max_steps": 3} | ours),
        train_dataset=rows(64) if data is None else data,
        **theirs,
    )


def _sorted(settings, config):
    ours = {key: value for key, value in settings.items() if key in config.__dataclass_fields__}
    return ours, {key: value for key, value in settings.items() if key not in ours}


def weights(model):
    """A copy of all weights."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def means_of(trainer):
    """A copy of the running mean of its weights."""
    return {name: value.clone() for name, value in trainer.average.mean.items()}


def differing(one, other):
    """The names under which two mappings of tensors differ in any bit."""
    names = one.keys() | other.keys()
    return [n for n in names if n not in one or n not in other or not torch.equal(one[n], other[n])]


class At(TrainerCallback):
    """Calls `act(trainer's state, control)` at one kind of event."""

    def __init__(self, event, act):
        setattr(self, event, lambda args, state, control, **kwargs: act(state, control))


def stop_after(step):
    """A callback that ends the run after a step, with a checkpoint."""

    def stop(state, control):
        control.should_save = control.should_training_stop = state.global_step == step

    return At("on_step_end", stop)


@dataclass(frozen=True)
class _Probe(Objective):
    """A denoising loss at t = 1/2 that keeps (x_0, x_t, step) of every call."""

    seen: list = field(default_factory=list)
    networks: ClassVar[Networks] = {}
    citation: ClassVar[str] = "None"

    def __call__(self, step):
        t = torch.full((len(step.x_0),), 0.5, dtype=torch.float64)
        x_t = step.diffusion.corrupt(step.x_0, t, step.generator)
        self.seen.append((step.x_0, x_t, step))
        log_p = step.student(x_t, t, **step.condition).log_conditional
        return {"student": -log_p.gather(-1, step.x_0[..., None]).mean()}


def probe():
    """An objective that keeps what it sees in `.seen`."""
    return _Probe()


@dataclass(frozen=True)
class _Matching(Objective):
    """One call from all masks, pushed towards where the teacher is likelier than the auxiliary.

    `seen`, which is no setting, keeps (step.train, losses, step) of every call.
    """

    networks: ClassVar[Networks] = {"teacher": Frozen(), "auxiliary": Trained(copy_of="teacher")}
    citation: ClassVar[str] = "None"

    def __post_init__(self):
        object.__setattr__(self, "seen", [])

    def __call__(self, step):
        ones = torch.ones(len(step.x_0), dtype=torch.float64)
        start = step.diffusion.prior(step.x_0.shape, step.generator)
        with torch.set_grad_enabled("student" in step.train and torch.is_grad_enabled()):
            student = step.look(step.student, start, ones).prediction.log_conditional
        x_0 = categorical(student.detach().exp(), step.generator).view_as(start)
        z = step.diffusion.corrupt(x_0, ones / 2, step.generator)
        auxiliary = step.look(step.peers["auxiliary"], z, ones / 2)
        log_p = auxiliary.prediction.log_conditional
        losses = {}
        if "auxiliary" in step.train:
            losses["auxiliary"] = -log_p.gather(-1, x_0[auxiliary.where][:, None, None]).mean()
        if "student" in step.train:
            with torch.no_grad():
                teacher = step.look(step.peers["teacher"], z, ones / 2, auxiliary.where)
                reward = teacher.prediction.log_conditional - log_p
            gain = student.exp()[auxiliary.where.flatten()] * reward.clamp(-10, 10)
            # While the auxiliary is the teacher there is no reward, but something shall move.
            losses["student"] = -gain.sum(-1).mean() - 0.1 * student[..., 0].mean()
        step.log("entropy", -(log_p.detach().exp() * log_p.detach()).sum(-1).mean())
        step.log("teacher_entropy", torch.ones(()))
        self.seen.append((step.train, {k: v.detach() for k, v in losses.items()}, step))
        return losses


def matching():
    """A small objective with an auxiliary, which keeps what it sees in `.seen`."""
    return _Matching()
