"""A student that gets worse than its teacher goes back, and a run that goes on does the same."""

from __future__ import annotations

import warnings

import pytest
import torch
from test_collapse import falling, pretrained
from test_collapse import rows as sentences
from training_runs import At, differing, distilling, means_of, stop_after, tiny, weights
from training_runs import rows as digit_rows
from transformers import BertConfig, BertForMaskedLM

from hf_ddistill.training.comparison import Comparison
from hf_ddistill.training.copies import teacher_weights
from hf_ddistill.training.good_weights import GoodWeights


def quietly(trainer, **resume):
    """Train, and give what was said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train(**resume)
    return [str(each.message) for each in caught if "student" in str(each.message)]


def masked_lm_of(**settings):
    """A masked LM of digits that nobody trained."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "max_position_embeddings": 64}
    torch.manual_seed(0)
    config = BertConfig(vocab_size=3, mask_token_id=2, **sizes, **settings)
    return BertForMaskedLM(config).eval()


def all_of(trainer):
    """All that a run ends with."""
    parts = {"student": weights(trainer.model), "good": trainer.guard.kept()}
    parts["auxiliary"] = weights(trainer.auxiliaries.models["auxiliary"])
    for number, moments in trainer.optimizer.state_dict()["state"].items():
        parts[f"moments.{number}"] = moments
    return {f"{part}.{name}": v for part, values in parts.items() for name, v in values.items()}


@pytest.mark.slow
def test_run_that_was_set_back_and_is_resumed_is_bit_equal(tmp_path):
    torch.manual_seed(0)
    whole = falling(tmp_path / "whole", max_steps=13)
    said = quietly(whole)
    back = int(said[0].split("at step ")[1].split()[0])
    torch.manual_seed(0)
    quietly(falling(tmp_path, max_steps=13, callbacks=[stop_after(back + 1)]))
    assert back < 12
    torch.manual_seed(5)
    resumed = falling(tmp_path, max_steps=13)
    quietly(resumed, resume_from_checkpoint=True)
    assert differing(all_of(resumed), all_of(whole)) == []
    assert resumed.guard.rate == whole.guard.rate < 1


def test_student_that_is_worse_in_the_end_gives_way_to_its_last_good_weights(tmp_path):
    def destroy(state, control):
        if state.global_step == 11:
            with torch.no_grad():
                for weight in trainer.model.parameters():
                    weight.mul_(0)
                trainer.model.cls.predictions.bias[3] = 9  # a letter

    settings = {"max_steps": 12, "ema_decay": 0, "learning_rate": 1e-7, "student_steps": 2}
    settings |= {"per_device_train_batch_size": 16, "callbacks": [At("on_step_begin", destroy)]}
    trainer = distilling(tmp_path, pretrained(), sentences(), **settings)
    before = weights(trainer.model)
    (said,) = quietly(trainer)
    assert "worse than the teacher's" in said and "weights are those of step" in said
    for name, weight in weights(trainer.model).items():
        torch.testing.assert_close(weight, before[name], atol=1e-4, rtol=0)


def noisy(folder, **settings):
    """A student whose new noise input drowns what its teacher knows."""
    given = {"max_steps": 12, "ema_decay": 0.5, "learning_rate": 1e-7, "student_steps": 4}
    given |= {"per_device_train_batch_size": 16, "noise_dim": 4, "noise_std": 30.0, "seed": 0}
    return distilling(folder, pretrained(), sentences(), **given | settings)


def test_student_that_noise_makes_worse_than_its_teacher_ends_as_its_teacher(tmp_path):
    trainer = noisy(tmp_path)
    (said,) = quietly(trainer)
    assert "its weights are its teacher's own" in said and "Train longer" in said
    assert "number of calls, " in said and "collapse_share=0 keeps what was trained" in said
    assert "is its teacher" in trainer.guard.report()
    assert "teacher's own" in trainer.facts().training["weights"]
    x_t = torch.tensor([row["input_ids"] for row in sentences()])
    x_t[:, ::2] = 11
    teacher = trainer.teacher(x_t, 1.0).log_conditional
    with trainer.averaged_weights():
        student = trainer.denoiser(trainer.model.eval())
    for seed in (0, 1):
        noise = student.fresh_noise(x_t, torch.Generator().manual_seed(seed))
        said = student(x_t, 1.0, **noise).log_conditional
        torch.testing.assert_close(said, teacher, atol=1e-6, rtol=0)
    assert differing(means_of(trainer), dict(trainer.model.named_parameters())) == []


def test_student_that_is_no_copy_is_kept_where_no_step_was_as_near(tmp_path):
    trainer = noisy(tmp_path, model=noisy(tmp_path).model, noise_std=0.3)
    before = weights(trainer.model)
    (said,) = quietly(trainer)
    assert "no step had samples as near" in said
    assert "teacher's own" not in said and not trainer.guard.last.is_teacher
    for name, weight in weights(trainer.model).items():
        torch.testing.assert_close(weight, before[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["ddit", "ddit that was one", "masked_lm", "tied"])
def test_copy_with_the_weights_of_its_teacher_is_the_teacher_whatever_the_noise(tmp_path, kind):
    if kind in ("masked_lm", "tied"):
        teacher = masked_lm_of(tie_word_embeddings=kind == "tied")
    else:
        teacher = tiny(noise_dim=4 if "was" in kind else 0)
    trainer = distilling(tmp_path, teacher, noise_dim=4, noise_std=5.0)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.add_(0.3)
    good = GoodWeights(trainer.model, trainer.average, {}, None)
    good.become(teacher_weights(trainer.model, trainer.teacher.networks()[0]))
    x_t = torch.tensor([row["input_ids"] for row in digit_rows(4)])
    x_t[:, ::2] = 2
    for seed in (0, 1):
        noise = trainer.denoiser().fresh_noise(x_t, torch.Generator().manual_seed(seed))
        own = noise if trainer.teacher.latent else {}
        said = trainer.denoiser(trainer.model.eval())(x_t, torch.ones(4), **noise)
        expected = trainer.teacher(x_t, torch.ones(4), **own).log_conditional
        torch.testing.assert_close(said.log_conditional, expected, atol=1e-6, rtol=0)
    assert differing(means_of(trainer), dict(trainer.model.named_parameters())) == []


def test_what_is_stepped_back_to_is_what_was_taken(tmp_path):
    trainer = falling(tmp_path, max_steps=3, ema_decay=0.5, collapse_share=0)
    quietly(trainer)
    taken_of = (trainer.model, trainer.average, trainer.auxiliaries.models, trainer.optimizer)
    good = GoodWeights(*taken_of)
    taken = good.take()
    mean = means_of(trainer)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.add_(1)
        for state in trainer.optimizer.state.values():
            state["exp_avg"].add_(1)
            state["step"].add_(1)
    good.put_back(taken)
    assert differing(good.take(), taken) == []
    assert differing(dict(trainer.model.named_parameters()), mean) == []


def test_optimizer_that_had_seen_nothing_has_seen_nothing_again(tmp_path):
    trainer = falling(tmp_path, max_steps=3, collapse_share=0)
    trainer.create_optimizer()
    taken_of = (trainer.model, None, trainer.auxiliaries.models, trainer.optimizer)
    taken = GoodWeights(*taken_of).take()
    quietly(trainer)
    assert trainer.optimizer.state
    GoodWeights(*taken_of[:3], trainer.optimizer).put_back(taken)
    assert not trainer.optimizer.state


def test_student_whose_noise_adds_nothing_draws_what_its_teacher_draws(tmp_path):
    trainer = noisy(tmp_path)
    trainer.state.max_steps = 12
    with torch.no_grad():
        trainer.model.noise_proj.weight.zero_()
        trainer.average.mean["noise_proj.weight"].zero_()
    made = Comparison.of(trainer, 4)
    found = made.student()
    assert torch.equal(found.of_rows, made.teacher.of_rows)
    assert found.beyond(made.teacher, paired=True) == (0, 0)
    assert found.beyond(made.teacher)[1] > 0


def test_student_of_a_higher_loss_than_it_began_with_is_seen_where_samples_say_nothing(tmp_path):
    trainer = distilling(tmp_path, tiny(), digit_rows(64), max_steps=12, ema_decay=0)
    trainer.state.max_steps = 12
    made = Comparison.of(trainer, 4)
    assert made.loss_beyond()[0] == pytest.approx(0, abs=1e-6)
    assert made.worse(made.student(), 0.5) is None
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    higher, error = made.loss_beyond()
    assert higher > 2 * error > 0
    assert "loss" in made.worse(made.teacher, 0.5), "samples as good as the teacher's"
    assert trainer.model.training
