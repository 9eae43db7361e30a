"""The law of block decoders, against draws, by hand and against known answers."""

import pytest
import torch
from llama_lab import causal_law

from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import kl_divergence, total_variation
from hf_ddistill.laboratory.blocks.block_law import BlockDecoder, block_law, draw_blocks
from hf_ddistill.laboratory.blocks.tables import BlockTable, CausalTable, block_table
from hf_ddistill.laboratory.space import sequence_numbers
from hf_ddistill.parameterizations import Conditional, Subs
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.schedules import LogLinear
from hf_ddistill.unmasking import KLASS, PlackettLuce, Static, Threshold

L = 4
#: The mask is not the last token, so that places and tokens differ.
MASKS = Diffusion(Absorbing(4, 1), LogLinear())
CLEAN = torch.tensor([0, 2, 3])


def law(seed=1):
    logits = 1.5 * torch.randn(3**L, generator=torch.Generator().manual_seed(seed))
    return logits.double().softmax(0)


def blunt(block_size, seed=5):
    found = block_table(law(seed), block_size, MASKS)
    logits = [table.detach().clamp_min(-3.0) for table in found.logits]
    return BlockTable(logits, block_size, MASKS).denoiser()


@pytest.mark.parametrize("block_size", [1, 2, 4])
@pytest.mark.parametrize("rule", ["random", "left_to_right"])
def test_posterior_decoded_one_token_a_call_is_the_law_itself(block_size, rule):
    decoder = BlockDecoder(
        block_table(law(), block_size, MASKS).denoiser(), L, block_size, Static(rule)
    )
    with torch.no_grad():
        found = block_law(decoder)
    assert float(total_variation(found.law, law())) < 1e-12
    assert found.calls == pytest.approx(L)


@pytest.mark.parametrize("block_size", [2, 4])
def test_posterior_decoded_in_one_call_is_a_product_of_marginals(block_size):
    decoder = BlockDecoder(block_table(law(), block_size, MASKS).denoiser(), L, block_size, calls=1)
    with torch.no_grad():
        found = block_law(decoder)
    p = law().view([3] * L)
    if block_size == 4:
        by_hand = [p.sum([j for j in range(L) if j != i]) for i in range(L)]
        expected = torch.einsum("a,b,c,d->abcd", *by_hand)
    else:
        first = p.sum((2, 3))
        given = p / first[:, :, None, None]
        expected = torch.einsum(
            "a,b,abc,abd->abcd", first.sum(1), first.sum(0), given.sum(3), given.sum(2)
        )
    assert torch.allclose(found.law, expected.flatten(), atol=1e-12)
    assert found.calls == pytest.approx(L / block_size)


@pytest.mark.parametrize(
    ("rule", "calls"),
    [
        (Static("random"), 2),
        (Static("random"), 3),
        (Static("left_to_right"), 2),
        (Static("confidence"), 2),
        (Static("confidence"), 4),
        (Static("entropy"), 3),
        (Static("margin"), 2),
        (Threshold(0.5), 4),
        (Threshold(0.8), 4),
    ],
    ids=str,
)
@pytest.mark.parametrize("block_size", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_law_is_that_of_draws(rule, calls, block_size):
    rows = 60_000
    decoder = BlockDecoder(blunt(block_size), L, block_size, rule, min(calls, block_size))
    with torch.no_grad():
        true = block_law(decoder)
    x_0, rounds = draw_blocks(decoder, rows, torch.Generator().manual_seed(0))
    numbers = sequence_numbers(torch.searchsorted(CLEAN, x_0), 3)
    found = numbers.bincount(minlength=3**L).double() / rows
    # Its mean is .4 sqrt(81 / 60,000) = .015 where they agree.
    assert float(total_variation(found, true.law)) < 0.02
    calls_of = rounds.unflatten(1, (-1, block_size)).amax(-1) + 1
    assert float(calls_of.sum(1).double().mean()) == pytest.approx(true.calls, rel=0.01)


def test_confidence_of_drawn_tokens_sharpens_even_the_exact_posterior():
    """One token a call: what is likely is kept, what is not is drawn again."""
    exact = block_table(law(), 4, MASKS).denoiser()
    with torch.no_grad():
        sure = block_law(BlockDecoder(exact, L, 4, Static("confidence"))).law
    entropy = [-float((p * p.log()).sum()) for p in (law(), sure)]
    assert entropy[1] < entropy[0] - 0.1


def test_law_is_differentiable():
    decoder = BlockDecoder(blunt(2), L, 2, Static("random"), 1)
    table = decoder.denoiser.network.logits[1]

    def divergence():
        return kl_divergence(block_law(decoder).law, law())

    (gradient,) = torch.autograd.grad(divergence(), table)
    place = tuple(int(i) for i in (gradient == gradient.abs().max()).nonzero()[0])
    with torch.no_grad():
        values = []
        for step in (1e-5, -2e-5):
            table[place] += step
            values.append(float(divergence()))
        table[place] += 1e-5
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(gradient[place]), rel=1e-5)


def test_causal_table_is_its_law():
    network = CausalTable(law(), MASKS)
    denoiser = NetworkDenoiser(network, MASKS, Conditional(), reads_time=None)
    assert float(total_variation(causal_law(denoiser, L), law())) < 1e-12
    x = CLEAN[torch.tensor([[0, 1, 2, 0]])]
    clean = CLEAN[torch.tensor([[2, 2, 1, 1]])]
    mixed = network(x, torch.zeros(1), clean_ids=clean, block_size=2)
    own = torch.cat([clean[:, :2], x[:, 2:]], 1)
    assert torch.equal(mixed[:, :2], network(x, torch.zeros(1))[:, :2])
    assert torch.equal(mixed[:, 2:], network(own, torch.zeros(1))[:, 2:])


def test_block_table_reads_the_clean_blocks_before():
    table = blunt(2).network
    clean = CLEAN[torch.tensor([[0, 1, 2, 0], [2, 2, 1, 1]])]
    x_t = torch.tensor([[1, 1, 1, 2], [0, 1, 1, 1]])
    both = table(x_t, torch.zeros(2), clean_ids=clean, block_size=2)
    alone = table(torch.cat([clean[:, :2], x_t[:, 2:]], 1), torch.zeros(2))
    assert torch.equal(both[:, 2:], alone[:, 2:])
    assert torch.equal(both[:, :2], table(x_t[:, :2], torch.zeros(2)))
    with pytest.raises(ValueError, match="blocks of 2, not of 4"):
        table(x_t, torch.zeros(2), block_size=4)


# ---------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"length": 6, "block_size": 4}, "do not divide"),
        ({"length": 4, "block_size": 4, "calls": 5}, "1 to 4 calls"),
        ({"length": 12, "block_size": 2}, "531,441"),
        ({"length": 9, "block_size": 9}, "262,144"),
    ],
)
def test_decoder_that_has_no_law_is_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        BlockDecoder(blunt(2), **settings)


def test_process_without_masks_is_refused():
    denoiser = NetworkDenoiser(
        lambda x, t, **_: x, Diffusion(Uniform(3), LogLinear()), Conditional()
    )
    with pytest.raises(ValueError, match="has none"):
        BlockDecoder(denoiser, 4, 2)


@pytest.mark.parametrize(
    ("rule", "named"), [(PlackettLuce(), "generators"), (KLASS(), "call before")], ids=str
)
def test_rule_that_draws_or_remembers_is_refused(rule, named):
    with pytest.raises(ValueError, match=f"cannot be followed exactly: .*{named}"):
        block_law(BlockDecoder(blunt(2), L, 2, rule))


def test_network_that_breaks_is_named():
    def network(x, t, at=None, **_):
        return torch.full((len(at), 4), float("nan"))

    with pytest.raises(ValueError, match="NaN"):
        block_law(BlockDecoder(NetworkDenoiser(network, MASKS, Subs(), reads_time=None), L, 2))
