"""Which tokens stay: each rule against what its paper says of it, on laws one can enumerate."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch

from hf_ddistill.unmasking import (
    KLASS,
    Draft,
    EntropyBounded,
    EntropyThreshold,
    Factor,
    Prophet,
    Static,
    Threshold,
    Unmasking,
    largest,
)

RULES = [rule for rule in Unmasking.registry.values()]


def draft(probabilities, masked=None, **more):
    """A call whose likeliest tokens were drawn, from p(x_0 | x_t), (n, K) or (B, n, K)."""
    log_p = torch.as_tensor(probabilities, dtype=torch.float64).clamp_min(1e-30).log()
    log_p = log_p if log_p.ndim == 3 else log_p[None]
    masked = torch.ones(log_p.shape[:2], dtype=torch.bool) if masked is None else masked
    call, calls = more.pop("call", 0), more.pop("calls", log_p.shape[1])
    return Draft(log_p, log_p, log_p.argmax(-1), masked, call, calls, **more)


def sure(*confidences, vocabulary=3):
    """Marginals whose likeliest token has these probabilities, (n, K)."""
    rest = [[(1 - c) / (vocabulary - 1)] * (vocabulary - 1) for c in confidences]
    return [[c, *others] for c, others in zip(confidences, rest, strict=True)]


def picked(rule, given):
    return rule(given)[0].nonzero()[:, 0].tolist()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_every_rule_ends_takes_only_masks_and_comes_back_from_its_settings(rule):
    unmasking = rule()
    settings = json.loads(json.dumps(unmasking.to_config()))
    assert Unmasking.from_config(settings) == unmasking and rule.citation
    generator, number = torch.Generator().manual_seed(0), 6
    masked = torch.rand(3, number, generator=generator) < 0.8
    masked[0] = False
    before = None
    for call in range(number):
        p = torch.rand(3, number, 5, generator=generator).softmax(-1)
        given = draft(p, masked, call=call, before=before, generator=generator)
        stays = unmasking(given)
        assert not (stays & ~masked).any()
        assert (stays.any(1) == masked.any(1)).all()
        masked, before = masked & ~stays, given.raw
    assert not masked.any()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_row_does_not_depend_on_its_batch(rule):
    generator = torch.Generator().manual_seed(0)
    p = (8 * torch.rand(4, 6, 5, generator=generator)).softmax(-1)
    q = (8 * torch.rand(4, 6, 5, generator=generator)).softmax(-1)
    masked = torch.rand(4, 6, generator=generator) < 0.8
    progress = torch.tensor([0.1, 0.4, 0.7, 0.9])

    def asked(rows):
        streams = [torch.Generator().manual_seed(row) for row in rows]
        before = q[rows].log()
        return draft(p[rows], masked[rows], call=1, calls=3, before=before,
                     progress=progress[rows], generator=streams)  # fmt: skip

    together = rule()(asked([0, 1, 2, 3]))
    for row in range(4):
        assert (rule()(asked([row]))[0] == together[row]).all()


def test_static_shares_the_masks_out_over_the_planned_calls():
    given = draft(sure(0.5, 0.9, 0.7, 0.6, 0.8), calls=2)
    assert picked(Static(), given) == [1, 2, 4]
    later = draft(sure(0.5, 0.9, 0.7, 0.6, 0.8), calls=2, call=1)
    assert picked(Static(), later) == [0, 1, 2, 3, 4]


def test_static_scores_differ_where_they_should():
    # The surest by probability, by the distance to the runner-up, and by entropy.
    p = [[0.50, 0.48, 0.01, 0.01], [0.48, 0.18, 0.17, 0.17], [0.49, 0.49, 0.02, 0.0]]
    one = {
        name: picked(Static(name), draft(p))
        for name in ("confidence", "margin", "entropy", "left_to_right")
    }
    assert one == {"confidence": [0], "margin": [1], "entropy": [2], "left_to_right": [0]}


def test_a_threshold_takes_all_above_it_and_the_surest_in_any_case():
    assert picked(Threshold(0.75), draft(sure(0.5, 0.9, 0.7, 0.8))) == [1, 3]
    assert picked(Threshold(0.95), draft(sure(0.5, 0.9, 0.7, 0.8))) == [1]
    assert picked(Threshold(0), draft(sure(0.5, 0.9, 0.7, 0.8))) == [0, 1, 2, 3]


def test_a_threshold_keeps_to_the_planned_calls():
    p = sure(0.5, 0.9, 0.7, 0.8)
    assert picked(Threshold(0.99), draft(p, calls=2)) == [1, 3]
    assert picked(Threshold(0.6), draft(p, calls=2)) == [1, 2, 3]
    assert picked(Threshold(0.99), draft(p, calls=2, call=1)) == [0, 1, 2, 3]


def joint_laws(n, generator, count):
    """Random laws of n tokens out of three, (count, 3, ..., 3), some with nearly all mass at one
    tuple."""
    weight = torch.rand(count, 3**n, generator=generator, dtype=torch.float64).pow(3)
    peak = torch.randint(0, 3**n, (count, 1), generator=generator)
    height = 3**n * 4 * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    weight.scatter_add_(1, peak, height)
    return (weight / weight.sum(1, keepdim=True)).view(-1, *[3] * n)


def marginals(law):
    """(n, 3) of (3, ..., 3)."""
    axes = range(law.ndim)
    return torch.stack([law.sum([other for other in axes if other != axis]) for axis in axes])


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_factor_rule_decides_the_likeliest_tuple_of_any_law(n):
    """Theorem 1 of Fast-dLLM: in one call what greedy decoding finds one by one, in any order."""
    tried = 0
    for law in joint_laws(n, torch.Generator().manual_seed(n), 300):
        given = draft(marginals(law))
        chosen = picked(Factor(1.0), given)
        if len(chosen) < 2:
            continue
        tried += 1
        others = [axis for axis in range(n) if axis not in chosen]
        of_chosen = law.sum(others) if others else law
        best = torch.unravel_index(of_chosen.argmax(), of_chosen.shape)
        tokens = given.tokens[0, chosen].tolist()
        assert tokens == [int(token) for token in best]
        for order in itertools.permutations(range(len(chosen))):
            known = {}
            for place in order:
                index = tuple(known.get(axis, slice(None)) for axis in range(of_chosen.ndim))
                left = [axis for axis in range(of_chosen.ndim) if axis not in known]
                rest = [number for number, axis in enumerate(left) if axis != place]
                here = of_chosen[index].sum(rest) if rest else of_chosen[index]
                known[place] = int(here.argmax())
            assert [known[place] for place in range(len(chosen))] == tokens
    assert tried > 20


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_factor_rule_is_tight(n):
    """The law that has every token of a tuple with probability 1 - eps, and another tuple as
    likely as this one at eps = 1 / (n + 1): on either side of it the rule is right."""
    for eps, is_likeliest in ((0.98 / (n + 1), True), (1.02 / (n + 1), False)):
        law = torch.zeros([2] * n, dtype=torch.float64)
        law[(0,) * n] = 1 - n * eps
        for place in range(n):
            law[tuple(int(place == axis) for axis in range(n))] = eps
        assert (int(law.argmax()) == 0) == is_likeliest
        assert (len(picked(Factor(1.0), draft(marginals(law)))) == n) == is_likeliest


def test_a_greater_factor_decides_more():
    p = sure(0.95, 0.9, 0.8, 0.6)
    counts = [len(picked(Factor(factor), draft(p))) for factor in (0.05, 0.2, 0.35, 1.0, 3.0)]
    assert counts == [1, 1, 2, 3, 4]


def entropy(p):
    return float(-(p.clamp_min(1e-300) * p.clamp_min(1e-300).log()).sum())


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_entropy_bounds_the_dependence_of_what_is_decided_together(gamma):
    generator, sizes = torch.Generator().manual_seed(0), set()
    for law in joint_laws(3, generator, 200):
        each = marginals(law)
        chosen = picked(EntropyBounded(gamma), draft(each))
        entropies = [entropy(p) for p in each]
        sizes.add(len(chosen))
        own = [entropies[place] for place in chosen]
        assert sum(own) - max(own) <= gamma + 1e-9
        # The largest: with the next one it would be too much.
        after = sorted(set(range(3)) - set(chosen), key=lambda place: entropies[place])
        if after:
            assert sum(own) > gamma and entropies[after[0]] >= max(own)
        others = [axis for axis in range(3) if axis not in chosen]
        together = entropy(law.sum(others) if others else law)
        assert sum(own) - together <= gamma + 1e-9
    assert gamma == 0.0 or len(sizes) > 1


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6, math.inf])
def test_an_entropy_threshold_asks_each_position_by_itself(threshold):
    generator = torch.Generator().manual_seed(0)
    for law in joint_laws(3, generator, 100):
        each = marginals(law)
        entropies = [entropy(p) for p in each]
        below = [place for place in range(3) if entropies[place] < threshold]
        surest = max(range(3), key=lambda place: float(each[place].max()))
        assert picked(EntropyThreshold(threshold), draft(each)) == (below or [surest])


def gap(*gaps):
    """Marginals of two tokens whose logits are this far apart, (n, 2)."""
    return torch.tensor([[float(g), 0.0] for g in gaps], dtype=torch.float64).softmax(-1)


def test_prophet_stops_when_the_gap_passes_what_the_progress_asks():
    for progress, enough in ((0.0, 7.5), (0.32, 7.5), (0.33, 5.0), (0.66, 5.0), (0.67, 2.5)):
        for offset in (-0.1, 0.1):
            p = gap(enough + offset - 1, enough + offset, enough + offset + 1)
            count = len(picked(Prophet(), draft(p, progress=progress)))
            assert count == (3 if offset > 0 else 1), (progress, offset)


def test_prophet_looks_at_open_positions_alone_and_else_obeys_another_rule():
    p = gap(1.0, 9.0, 9.0)
    masked = torch.tensor([[False, True, True]])
    assert picked(Prophet(), draft(p, masked)) == [1, 2]
    assert picked(Prophet(otherwise=Threshold(0.99)), draft(gap(1.0, 6.0, 6.0))) == [1, 2]
    assert Prophet(otherwise={"type": "threshold", "threshold": 0.5}).otherwise == Threshold(0.5)


def test_prophet_asks_each_row_by_its_own_progress():
    p = gap(3.0, 3.0).expand(2, 2, 2)
    stays = Prophet()(draft(p, progress=torch.tensor([0.1, 0.9])))
    assert stays.sum(1).tolist() == [1, 2]


def test_klass_takes_what_is_sure_and_stable():
    now = torch.tensor(sure(0.95, 0.95, 0.5, 0.91), dtype=torch.float64)
    before = torch.tensor(sure(0.95, 0.40, 0.5, 0.90), dtype=torch.float64)
    given = draft(now, before=before.log()[None])
    assert picked(KLASS(), given) == [0, 3]
    assert picked(KLASS(bound=1e-5), given) == [0]
    # At the first call nothing is stable: the surest one alone.
    assert picked(KLASS(), draft(sure(0.95, 0.99, 0.96))) == [1]


def test_klass_measures_the_change_from_the_present_prediction():
    """KL(now || before), not the other way round."""
    now, before = torch.tensor([[0.999, 0.001]]), torch.tensor([[0.95, 0.05]])
    forward = float((now * (now / before).log()).sum())
    backward = float((before * (before / now).log()).sum())
    assert forward < backward
    rule = KLASS(bound=(forward + backward) / 2)
    assert rule.pick(draft(now, before=before.double().log()[None])).all()
    rule = KLASS(bound=forward * 0.9)
    assert not rule.pick(draft(now, before=before.double().log()[None])).any()


def test_ties_go_to_the_left_and_counts_are_per_row():
    among = torch.tensor([[True, True, True], [True, False, True]])
    score = torch.tensor([[1.0, 1.0, 2.0], [1.0, 9.0, 1.0]])
    found = largest(score, among, torch.tensor([2, 1]))
    assert found.tolist() == [[True, False, True], [True, False, False]]


REFUSALS = {
    "threshold": ({"type": "threshold", "threshold": 1.5}, r"threshold must lie in \[0, 1\]"),
    "static": ({"type": "static", "score": "luck"}, "Unknown score 'luck'"),
    "factor": ({"type": "factor", "factor": 0}, "factor must be above 0, got 0"),
    "entropy": ({"type": "entropy_bounded", "gamma": -1}, "gamma must not be negative"),
    "no entropy": ({"type": "entropy_threshold", "threshold": -1}, "must be 0 nats or more"),
    "klass": ({"type": "klass", "bound": 0}, "bound must be above 0"),
    "klass, sure": ({"type": "klass", "threshold": -1}, r"threshold must lie in \[0, 1\]"),
    "prophet, gaps": ({"type": "prophet", "gaps": [1.0]}, "2 bounds make 3 phases, got 1 gaps"),
    "prophet, phases": ({"type": "prophet", "phases": [0.9, 0.1]}, "phases must ascend"),
    "prophet, rule": ({"type": "prophet", "otherwise": "stat"}, "did you mean 'static'"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Unmasking.from_config(settings)
