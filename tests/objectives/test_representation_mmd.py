"""Representation-space MMD: its gradient by enumeration, its fixed point, what gives features."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_laws import FLIPS, MASKS, L, problem, step_of, table
from training_runs import SIZES

from hf_ddistill import DDiTConfig, DDiTForDiscreteDiffusion, as_denoiser
from hf_ddistill.denoisers import Sharpened
from hf_ddistill.laboratory import clean_sequences, sequence_numbers
from hf_ddistill.laboratory.network import ExactNetwork, exact_teacher
from hf_ddistill.objectives import RepresentationMMD

CLEAN = clean_sequences(MASKS, L)


class Features(torch.nn.Module):
    """Random ones of each clean sequence: of each position, or of all together."""

    def __init__(self, positions=L):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = torch.randn(2**L, positions, 4, generator=generator)

    def features(self, x, t, layer=None):
        return self.table[(x * 2 ** torch.arange(L - 1, -1, -1)).sum(1)]


def first_law(student):
    """Of the tokens in one call from masks, (2^L,), and its sequences in the order of CLEAN."""
    blank = sequence_numbers(torch.full((1, L), 2), 3)[0]
    log_p = student.network.logits[blank, :, :2].log_softmax(-1)
    return torch.stack([log_p[i, CLEAN[:, i]] for i in range(L)]).sum(0).exp()


def discrepancy(law, data, features, alpha, same=True):
    """E k(fake, fake') - 2 E k(data, fake), by sums over all sequences and positions."""
    phi = features.table.flatten(0, 1).double()
    kernel = (-alpha * torch.cdist(phi, phi).square()).exp()
    kernel = kernel.view(2**L, features.table.shape[1], 2**L, -1)
    size = kernel.shape[1]
    cross = kernel.mean((1, 3))
    if not same:
        off = 1 - torch.eye(size, dtype=torch.float64)
        within = (kernel * off[None, :, None]).sum((1, 3)) / off.sum()
    else:
        within = cross
    return law @ within @ law - 2 * data @ cross @ law


def found_and_true(student, data, objective, features, rows=40_000):
    generator = torch.Generator().manual_seed(1)
    x_0 = data.sequences[torch.multinomial(data.law, rows, True, generator=generator)]
    step = replace(step_of(MASKS, student, rows=rows), x_0=x_0, peers={"teacher": features})
    (found,) = torch.autograd.grad(objective(step)["student"], student.network.logits)
    value = discrepancy(
        first_law(student), data.law, features, objective.alpha, objective.same_position
    )
    (true,) = torch.autograd.grad(value, student.network.logits)
    return found * L * objective.draws, true


@pytest.mark.parametrize(
    ("positions", "same"), [(L, True), (L, False), (1, True)], ids=["tokens", "code", "sequences"]
)
def test_gradient_is_not_that_of_the_squared_discrepancy(positions, same):
    objective = RepresentationMMD(times="grid", alpha=0.2, same_position=same)
    pair = found_and_true(table(MASKS), problem(MASKS, 1), objective, Features(positions))
    found, true = (each.flatten() for each in pair)
    assert torch.cosine_similarity(found, true, 0) > 0.98
    assert float(found.norm() / true.norm()) == pytest.approx(1, abs=0.08)


def test_student_with_the_law_of_the_data_is_pulled_somewhere_unless_by_the_papers_code():
    """Of a product, which a student of one call can be."""
    student = table(MASKS)
    data = problem(MASKS, 1)
    data = replace(data, law=first_law(student).detach())
    away = first_law(table(MASKS, 5)).detach()
    sizes = {}
    for same in (True, False):
        for name, law in (("own", data.law), ("other", away)):
            value = discrepancy(first_law(student), law, Features(), 0.2, same)
            (slope,) = torch.autograd.grad(value, student.network.logits)
            sizes[same, name] = float(slope.norm())
    assert sizes[True, "own"] < 1e-12 < 1e-3 < sizes[True, "other"]
    assert sizes[False, "own"] > 0.1 * sizes[False, "other"]


def test_more_draws_or_candidates_have_another_gradient():
    student, data = table(MASKS), problem(MASKS, 1)
    objective = RepresentationMMD(times="grid", alpha=0.2, group=2, draws=3)
    found, true = found_and_true(student, data, objective, Features())
    assert torch.cosine_similarity(found.flatten(), true.flatten(), 0) > 0.97
    assert float(found.norm() / true.norm()) == pytest.approx(1, abs=0.1)


# ---------------------------------------------------------------------------- features


def small_model(**settings):
    torch.manual_seed(0)
    sizes = SIZES | {"num_hidden_layers": 3, "vocab_size": 3, "mask_token_id": 2}
    return DDiTForDiscreteDiffusion(DDiTConfig(**sizes | settings)).eval()


def test_features_of_a_model_are_those_of_another_layer():
    model, seen = small_model(), {}
    for number, layer in enumerate(model.model.layers):
        layer.register_forward_hook(lambda *given, number=number: seen.update({number: given[2]}))
    denoiser, x = as_denoiser(model), torch.randint(0, 3, (2, 4))
    for layer, number in ((None, 0), (0, 0), (1, 1)):
        found = denoiser.features(x, 0.0, layer)
        torch.testing.assert_close(found, seen[number])
        torch.testing.assert_close(Sharpened(denoiser, 2.0).features(x, 0.0, layer), found)
    with pytest.raises(ValueError, match="hidden states of 3 layers, counted from 0; layer=3"):
        denoiser.features(x, 0.0, 3)


def test_exact_teacher_has_no_features_but_those_of_a_network():
    exact, network = problem(MASKS, 1), ExactNetwork(3, L, 8)
    teacher = exact_teacher(exact, network)
    found = teacher.features(CLEAN, torch.zeros(len(CLEAN)))
    assert found.shape == (2**L, 1, 8) and teacher.network.sequences == 2**L
    with pytest.raises(ValueError, match="has no hidden states to look at"):
        exact.denoiser().features(CLEAN, 0.5)
    with pytest.raises(ValueError, match="has one layer to look at"):
        teacher.features(CLEAN, torch.zeros(len(CLEAN)), 3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"group": 1}, "group must be from 2 to 4,096, got 1"),
        ({"draws": 1}, "draws must be at least 2, got 1"),
        ({"alpha": 0.0}, "alpha must be above 0"),
        ({"times": "late"}, "Unknown times"),
    ],
)
def test_wrong_setting_is_told_what_there_is(settings, said):
    with pytest.raises(ValueError, match=said):
        RepresentationMMD(**settings)


def test_teacher_without_hidden_states_is_not_named():
    step = step_of(FLIPS, table(FLIPS), table(FLIPS), table(FLIPS))
    with pytest.raises(ValueError, match="has no hidden states"):
        RepresentationMMD()(step)
