"""What every process of the registry promises of its rate, its kernels and its limit."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import pytest
import torch
from core_cases import PROCESSES as CASES

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion, as_denoiser
from hf_ddistill.parameterizations import Subs
from hf_ddistill.processes import (
    Absorbing,
    General,
    Hybrid,
    Kronecker,
    LowRank,
    Ordinal,
    Process,
    Uniform,
)
from hf_ddistill.processes.process import point_mass, to_limit

K = 6
each_process = pytest.mark.parametrize("cls", Process.registry.values(), ids=lambda cls: cls.id)


def noises(*values):
    return torch.tensor(values, dtype=torch.float64)


def dense(process, sigma_s, sigma_t):
    return process.kernel(sigma_s, sigma_t).dense()


@each_process
def test_rate_has_rows_that_sum_to_zero_and_no_negative_jumps(cls):
    for sigma in (None, noises(0.3)[0], noises(0.3, 1.5, 4.0)):
        q = cls.example(K).rate(sigma).dense()
        assert q.sum(-1).abs().max() < 1e-12
        assert (q - torch.diag_embed(q.diagonal(dim1=-2, dim2=-1))).min() >= -1e-14


@each_process
def test_kernel_has_distributions_as_rows(cls):
    kernel = dense(cls.example(K), noises(0.0, 0.1, 0.4), noises(0.2, 0.1, 3.0))
    assert kernel.shape == (3, K, K)
    assert kernel.min() >= -1e-14
    torch.testing.assert_close(kernel.sum(-1), torch.ones(3, K, dtype=torch.float64))


@each_process
def test_kernels_compose(cls):
    process = cls.example(K)
    r, s, t = noises(0.0, 0.1, 0.5), noises(0.3, 0.1, 1.0), noises(0.9, 0.4, 2.5)
    together = dense(process, r, s) @ dense(process, s, t)
    torch.testing.assert_close(together, dense(process, r, t), rtol=0, atol=1e-12)
    product = (process.kernel(r, s) @ process.kernel(s, t)).dense()
    torch.testing.assert_close(product, dense(process, r, t), rtol=0, atol=1e-12)


@each_process
def test_kernel_over_no_noise_is_the_identity(cls):
    sigma = noises(0.0, 0.7)
    eye = torch.eye(K, dtype=torch.float64).expand(2, K, K)
    torch.testing.assert_close(dense(cls.example(K), sigma, sigma), eye, rtol=0, atol=1e-12)


@each_process
def test_kernel_obeys_the_forward_equation(cls):
    process, s = cls.example(K), noises(0.2)[0]
    for t in noises(0.2, 0.9):
        slope = torch.autograd.functional.jacobian(lambda at: dense(process, s, at), t)
        expected = dense(process, s, t) @ process.rate(t).dense()
        torch.testing.assert_close(slope, expected, rtol=0, atol=1e-10)


@each_process
def test_kernel_tends_to_the_limit_law(cls):
    process = cls.example(K)
    limit = process.limit()
    assert limit.sum() == pytest.approx(1) and limit.min() >= 0
    far = dense(process, noises(0.0)[0], noises(80.0)[0])
    torch.testing.assert_close(far, limit.expand(K, K), rtol=0, atol=1e-10)
    assert (limit @ process.rate(noises(80.0)[0]).dense()).abs().max() < 1e-9


@each_process
def test_json_keeps_the_process(cls):
    process = cls.example(K)
    again = Process.from_config(json.loads(json.dumps(process.to_config())))
    assert again == process and hash(again) == hash(process)
    assert torch.equal(again.rate().dense(), process.rate().dense())


@each_process
def test_noise_tokens_are_tokens_that_the_limit_law_holds(cls):
    process = cls.example(K)
    assert set(process.noise_tokens) <= set(range(K))
    assert (process.limit()[list(process.noise_tokens)] > 0).all()
    assert process.mask_token_id is None or process.mask_token_id in process.noise_tokens


MASKING = to_limit(point_mass(3, 4)).dense()
REVEALING = CASES | {
    "general, masking": General(MASKING, mask_token_id=3),
    "general, masking at two knots": General(
        knots=[(0.0, MASKING), (0.5, MASKING)], mask_token_id=3
    ),
    "general, masking without a name": General(MASKING),
    "general, masking twice as fast": General(2 * MASKING, mask_token_id=3),
}


@pytest.mark.parametrize("process", REVEALING.values(), ids=REVEALING)
def test_process_reveals_if_and_only_if_its_kernel_masks_all_tokens_alike(process):
    masks = False
    if process.mask_token_id is not None:
        alpha = noises(-0.4, -2.0).exp()[:, None, None]
        end = point_mass(process.mask_token_id, process.vocab_size)
        masking = alpha * torch.eye(process.vocab_size) + (1 - alpha) * end
        masks = torch.allclose(dense(process, noises(0.0, 0.0), noises(0.4, 2.0)), masking)
    assert process.reveals is masks


def test_new_process_that_reveals_is_treated_as_one():
    """Nobody asks for its name: what is revealed is kept, and its models are read by `subs`."""

    @dataclass(frozen=True)
    class Erasing(Process):
        vocab_size: int

        mask_token_id, reveals = 0, True

        def rate(self, sigma=None):
            return to_limit(self.limit())

        def limit(self):
            return point_mass(0, self.vocab_size)

        @classmethod
        def example(cls, vocab_size):
            return cls(vocab_size)

    try:
        diffusion = Diffusion(Erasing(4))
        x_t = torch.tensor([[0, 3, 1, 0]])
        assert diffusion.undetermined(x_t).tolist() == [[True, False, False, True]]
        log_p = Subs().to_log_conditional(torch.zeros(1, 4, 4), diffusion, x_t, None)
        assert log_p[0, 1].exp().tolist() == [0, 0, 0, 1] and float(log_p[0, 0, 0].exp()) == 0
        model = DDiTForDiscreteDiffusion(
            DDiTConfig(vocab_size=4, hidden_size=8, num_attention_heads=2, num_hidden_layers=1)
        )
        assert as_denoiser(model, diffusion).parameterization == Subs()
    finally:
        Process.registry.pop("erasing")


def test_unknown_process_lists_those_that_exist():
    with pytest.raises(ValueError, match="did you mean 'absorbing'") as error:
        Process.from_config({"type": "absorb", "vocab_size": 4})
    assert all(name in str(error.value) for name in Process.registry)
    with pytest.raises(ValueError, match="no setting 'size'; it has: vocab_size"):
        Process.from_config({"type": "uniform", "size": 4})
    with pytest.raises(ValueError, match="Uniform needs vocab_size"):
        Process.from_config("uniform")
    with pytest.raises(ValueError, match="with a 'type'"):
        Process.from_config({"vocab_size": 4})
    for unheard_of in (["uniform"], {"type": "uniform"}, None):  # lists and mappings have no hash
        with pytest.raises(ValueError, match="Unknown process .*; there are: absorbing"):
            Process.from_config({"type": unheard_of})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Uniform(1), "at least 2, got 1"),
        (lambda: Absorbing(4, 4), r"mask_token_id=4 is outside the vocabulary \[0, 4\)"),
        (lambda: Hybrid(4, mask_token_id=-1), "outside the vocabulary"),
        (lambda: Hybrid(2), "at least 3, got 2"),
        (lambda: Hybrid(4, uniform=1.0), r"must lie in \[0, 1\), got 1.0"),
        (lambda: Ordinal(5000), "at most 4096 levels"),
        (lambda: Kronecker((Uniform(3),)), "two processes or more, got 1"),
        (lambda: Kronecker.example(7), "not prime"),
        (lambda: LowRank(3, [[1.0], [1.0]], [[0.5, 0.5, 0.0]]), r"assign must have shape \(3, 1\)"),
        (lambda: LowRank(2, [[1.0], [0.9]], [[0.5, 0.5]]), "rows of assign must be distributions"),
        (
            lambda: LowRank(2, [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]),
            "cannot be reached",
        ),
    ],
)
def test_settings_without_a_process_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_mask_is_the_last_token_unless_it_is_named():
    assert Absorbing(5).mask_token_id == Hybrid(5).mask_token_id == 4
    assert Absorbing(5, 2).noise_tokens == (2,)
    kernel = dense(Absorbing(5, 2), noises(0.0)[0], noises(math.log(2))[0])
    torch.testing.assert_close(kernel[0], noises(0.5, 0.0, 0.5, 0.0, 0.0))
    assert Uniform(5).mask_token_id is None and Uniform(5).noise_tokens == ()


@pytest.mark.parametrize("constant", [True, False])
def test_a_token_becomes_one_that_is_left_out(constant):
    """What is left is the process over the others, as if they were all."""
    process = Hybrid(K, 0.3, 2, constant, left_out=[0, 4])
    others = Hybrid(K - 2, 0.3, 1, constant)
    kernel, start = dense(process, noises(0.2)[0], noises(0.9)[0]), [1, 2, 3, 5]
    assert not kernel[start][:, [0, 4]].any() and not process.is_flat
    expected = dense(others, noises(0.2)[0], noises(0.9)[0])
    torch.testing.assert_close(kernel[start][:, start], expected)
    again = Process.from_config(json.loads(json.dumps(process.to_config())))
    assert again == process and hash(again) == hash(process)


@pytest.mark.parametrize("left_out", [[2], [6], [0, 1, 3, 4]])
def test_what_cannot_be_left_out_is_left_out(left_out):
    with pytest.raises(ValueError, match="other than the mask, and leave at least two"):
        Hybrid(K, 0.3, 2, left_out=left_out)


def test_ordinal_decays_along_the_discrete_cosine_transform():
    process, sigma = Ordinal(K), 0.3
    level, mode = torch.arange(K).double() + 0.5, torch.arange(K).double()
    basis = torch.cos(math.pi / K * level[:, None] * mode)
    basis = basis / basis.norm(dim=0)
    # The slowest mode decays like exp(-sigma), as Uniform does.
    decay = (1 - torch.cos(math.pi * mode / K)) / (1 - math.cos(math.pi / K))
    expected = basis * torch.exp(-sigma * decay) @ basis.mT
    kernel = dense(process, noises(0.0)[0], noises(sigma)[0])
    torch.testing.assert_close(kernel, expected, rtol=0, atol=1e-13)
    assert (process.rate().dense().triu(2) == 0).all()


def test_constant_hybrid_is_a_jump_to_its_limit_law():
    process = Hybrid(K, uniform=0.3, constant=True)
    sigma = noises(0.1, 0.8)
    expected = to_limit(process.limit()).exp(sigma).dense()
    torch.testing.assert_close(dense(process, torch.zeros_like(sigma), sigma), expected)
    torch.testing.assert_close(process.rate(sigma).dense()[0], to_limit(process.limit()).dense())


def test_hybrid_without_uniform_noise_is_absorbing():
    s, t = noises(0.0, 0.4), noises(0.4, 2.0)
    torch.testing.assert_close(dense(Hybrid(K, uniform=0.0), s, t), dense(Absorbing(K), s, t))


def test_hybrid_is_most_uniform_halfway():
    process = Hybrid(K, uniform=0.3)
    shares = process.shares(-torch.log1p(-noises(0.3, 0.5, 0.7)))[1][:, 1]
    assert shares.argmax() == 1 and float(shares[1]) == pytest.approx(0.3)


def test_kronecker_moves_its_factors_independently():
    process = Kronecker(({"type": "absorbing", "vocab_size": 3}, Ordinal(2)))
    s, t = noises(0.0)[0], noises(0.7)[0]
    kernel = dense(process, s, t).reshape(3, 2, 3, 2)
    expected = torch.einsum("ab,cd->acbd", dense(Absorbing(3), s, t), dense(Ordinal(2), s, t))
    torch.testing.assert_close(kernel, expected)
    # A token whose first factor is masked: 2 * 2 + 0 and 2 * 2 + 1.
    assert process.noise_tokens == (4, 5)


def test_low_rank_jumps_more_often_to_what_is_near():
    points = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    process = LowRank.from_embedding(points, torch.tensor([[0.0], [5.0]]))
    kernel = dense(process, noises(0.0)[0], noises(1.0)[0])
    assert kernel[0, 1] > 10 * kernel[0, 2] and kernel[3, 2] > 10 * kernel[3, 0]
