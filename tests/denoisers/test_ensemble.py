"""Several teachers as one: what their mean is, what it is worth, how a student is trained on it."""

import pytest
import torch
from small_laws import BOTH, FLIPS, MASKS, L, problem
from training_runs import differing, distilling, matching, tiny, weights

from hf_ddistill.denoisers import Ensemble, NetworkDenoiser
from hf_ddistill.laboratory import ExactProblem, terminal_law, total_variation
from hf_ddistill.models import as_denoiser
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.samplers import step_grid

M = 6


def wrong(truth, seed):
    """The conditionals of a law that is wrong by itself in every sequence."""
    noise = torch.randn(len(truth.law), generator=torch.Generator().manual_seed(seed)).double()
    law = (truth.law.log() + 0.5 * noise).softmax(0)
    return ExactProblem(law, truth.sequences, truth.diffusion).denoiser()


@pytest.mark.parametrize("diffusion", [MASKS, FLIPS], ids=["masks", "flips"])
def test_mean_is_the_normalised_product(diffusion):
    members = tuple(problem(diffusion, seed).denoiser() for seed in (1, 2, 3))
    x_t = torch.tensor([[0, 1, diffusion.vocab_size - 1], [diffusion.vocab_size - 1] * 3])
    t = torch.full((2,), 0.6)
    each = [member(x_t, t).log_conditional.exp() for member in members]
    product = (each[0] * each[1] * each[2]) ** (1 / 3)
    expected = product / product.sum(-1, keepdim=True)
    found = Ensemble(members)(x_t, t).log_conditional.exp()
    torch.testing.assert_close(found, expected)
    where = torch.tensor([[False, True, True], [True, False, False]])
    at = Ensemble(members).at(x_t, t, where).log_conditional.exp()
    torch.testing.assert_close(at[:, 0], expected[where])
    alone = Ensemble(members[:1])(x_t, t).log_conditional
    torch.testing.assert_close(alone, members[0](x_t, t).log_conditional)


@pytest.mark.slow
@pytest.mark.parametrize("diffusion", [MASKS, FLIPS], ids=["masks", "flips"])
def test_law_of_the_mean_is_nearer_to_the_truth_than_any_member(diffusion):
    truth = problem(diffusion, 0)

    def away(denoiser):
        asked = NetworkDenoiser(
            lambda x, t: denoiser(x, t).log_conditional, diffusion, Conditional()
        )
        law = terminal_law(asked, diffusion, L, step_grid(64))
        return float(total_variation(law, truth.law))

    members = tuple(wrong(truth, seed) for seed in range(M))
    alone = [away(member) for member in members]
    together = away(Ensemble(members))
    assert together < min(alone)
    assert together < 0.6 * sum(alone) / M


def test_student_starts_as_the_first_and_every_member_is_asked(tmp_path):
    models = [tiny(seed).eval() for seed in range(3)]
    teacher = Ensemble(tuple(as_denoiser(model) for model in models))
    settings = {"objective": matching(), "noise_dim": 4, "collapse_share": 0}
    trainer = distilling(tmp_path, teacher, **settings)
    start = weights(trainer.model)
    start.pop("model.noise_proj.weight")
    assert not differing(start, weights(models[0]))
    assert not differing(weights(trainer.auxiliaries.models["auxiliary"]), weights(models[0]))
    calls, before = [], [weights(model) for model in models]
    for number, model in enumerate(models):
        model.register_forward_hook(lambda *_, number=number: calls.append(number))
    trainer.train()
    assert [calls.count(number) for number in range(3)] == [calls.count(0)] * 3 != [0] * 3
    assert not any(differing(weights(m), old) for m, old in zip(models, before, strict=True))
    assert differing(weights(trainer.model), start)


def test_list_of_models_and_names_is_their_mean_and_the_card_names_all(tmp_path):
    models = [tiny(seed) for seed in range(3)]
    models[1].save_pretrained(tmp_path / "second")
    given = [models[0].train(), str(tmp_path / "second"), as_denoiser(models[2].eval())]
    trainer = distilling(tmp_path, given)
    assert not models[0].training and not next(models[0].parameters()).requires_grad
    mean = Ensemble(tuple(as_denoiser(model.eval()) for model in models))
    x_t = torch.randint(0, 3, (2, 64), generator=torch.Generator().manual_seed(0))
    t = torch.full((2,), 0.5)
    expected = mean(x_t, t).log_conditional
    torch.testing.assert_close(trainer.teacher(x_t, t).log_conditional, expected)
    trainer.train()
    trainer.save_model()
    card = (tmp_path / "README.md").read_text()
    assert "distilled from `a teacher in memory + second + a teacher in memory`" in card


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (lambda: (), "at least one denoiser, got none"),
        (lambda: tuple(problem(each, 0).denoiser() for each in (MASKS, BOTH)), "one diffusion"),
        (lambda: (as_denoiser(tiny(noise_dim=2)),), "2 numbers per position; none is"),
    ],
    ids=["none", "two processes", "noise"],
)
def test_members_that_cannot_be_averaged_are_refused(members, message):
    with pytest.raises(ValueError, match=message):
        Ensemble(members())
