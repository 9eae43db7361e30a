"""A pipeline computes what is drawn: the tokens are those of the scheduler's steps."""

from __future__ import annotations

import pytest
import torch
from pipeline_cases import made, piped, seeded

from hf_ddistill.schedulers import (
    AncestralScheduler,
    CTMCEulerScheduler,
    JumpScheduler,
    SamplerScheduler,
)

EXTRAS = ["sequences", "pred_original_sample", "sampled_probs"]
GIVEN = {"input_ids": torch.tensor([[1, 2], [3, 5]]), "batch_size": 2, "num_inference_steps": 6}


class Stepping(AncestralScheduler):
    """A scheduler with a step of its own."""

    def step(self, *arguments, **given):
        return super().step(*arguments, **given)


def watching(names, seen):
    """A callback that keeps what it is given."""

    def call(pipe, number, timestep, tensors):
        seen.append((number, timestep, tensors))

    return {"callback_on_step_end": call, "callback_on_step_end_tensor_inputs": names}


@pytest.mark.parametrize("kind", [AncestralScheduler, CTMCEulerScheduler, JumpScheduler])
@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.7, "top_p": 0.8}, {"top_k": 2}], ids=str
)
@pytest.mark.parametrize("noise_dim", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_tokens_are_those_of_the_scheduler_s_steps(kind, settings, noise_dim):
    pipe = piped(made(noise_dim=noise_dim, num_classes=3), kind, **settings)
    given = {**GIVEN, "class_labels": [0, 2], "guidance_scale": 2.0}
    plain = pipe(**given, generator=[seeded(1), seeded(2)]).sequences
    for names in (["sequences"], EXTRAS):
        seen = []
        out = pipe(**given, generator=[seeded(1), seeded(2)], **watching(names, seen))
        assert torch.equal(out.sequences, plain) and len(seen) == 6
        assert all(list(tensors) == names for _, _, tensors in seen)


def test_a_scheduler_with_a_step_of_its_own_makes_the_steps():
    model = made()
    plain = piped(model)(**GIVEN, generator=seeded())
    own = piped(model, Stepping)(**GIVEN, generator=seeded())
    assert torch.equal(own.sequences, plain.sequences)
    assert own.num_network_calls == 6 >= plain.num_network_calls


def test_what_is_given_of_a_step_is_what_it_was_drawn_by():
    pipe, seen = piped(made()), []
    pipe(**GIVEN, generator=seeded(), **watching(EXTRAS, seen))
    for (_, _, before), (_, _, after) in zip(seen[:-1], seen[1:], strict=True):
        came = before["sequences"] != after["sequences"]
        assert (after["sampled_probs"][came] < 1).all()
        still = after["sequences"] == 5
        assert (after["pred_original_sample"][still] < 5).all()
        assert ((after["sampled_probs"] < 1) == (before["sequences"] == 5)).all() or after is seen[
            -1
        ]


def test_a_head_is_asked_at_the_positions_that_are_drawn_and_nowhere_else():
    model, rows = made(), []
    model.lm_head.register_forward_hook(lambda _, inputs, out: rows.append(inputs[0].shape))
    pipe = piped(model)
    pipe(batch_size=3, num_inference_steps=5, generator=seeded())
    assert sum(shape[0] for shape in rows) == 3 * 8 and all(len(shape) == 2 for shape in rows)
    rows.clear()
    pipe(batch_size=3, num_inference_steps=5, generator=seeded(), **watching(["sequences"], []))
    assert sum(shape[0] for shape in rows) == 3 * 8


def test_logits_that_are_nan_are_refused_in_one_sentence():
    pipe = piped(made())
    with torch.no_grad():
        pipe.model.lm_head.bias[:] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        pipe(batch_size=2, num_inference_steps=3)


def test_any_sampler_s_progress_comes_to_its_end(capsys):
    for settings in ({}, {"sampler": "unmasking"}, {"sampler": "theta_trapezoidal"}):
        pipe = piped(made(), SamplerScheduler, **settings)
        pipe.set_progress_bar_config(disable=False)
        pipe(batch_size=2, num_inference_steps=16, generator=seeded())
        assert "16/16" in capsys.readouterr().err
