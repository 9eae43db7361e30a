"""Outcome rewards on decodings that can be enumerated: four binary tokens in two blocks of two."""

import itertools

import pytest
import torch
from block_views import Views, decode, random_views, step_of

from hf_ddistill.couplings import Trajectory
from hf_ddistill.objectives import Objective, OutcomeReward
from hf_ddistill.unmasking import Draft, PlackettLuce, Static, Unmasking, set_log_probability

b, L = 2, 4
SEQUENCES = torch.cartesian_prod(*[torch.arange(2)] * L)
REWARD = torch.randn(2**L, generator=torch.Generator().manual_seed(5)).double()
ORDER = PlackettLuce(temperature=0.2)


def reward_of(x):
    return REWARD[(x * 2 ** torch.arange(L - 1, -1, -1)).sum(1)]


def every_decoding(network, order):
    """Each order and sequence, one token a call: tokens, rounds and the log-probability of each."""
    found = []
    for swaps in itertools.product((False, True), repeat=2):
        log_pi = torch.zeros(len(SEQUENCES), dtype=torch.float64)
        for block, swapped in enumerate(swaps):
            first, second = [2 * block + i for i in ((1, 0) if swapped else (0, 1))]
            x = SEQUENCES.clone()
            x[:, 2 * block :] = 2
            log_p = network.denoiser()(x, 1.0).log_conditional
            scores = torch.zeros(len(x), 2).double()
            if order is not None:
                scores = log_p.exp().amax(-1)[:, [first, second]] / order.temperature
            log_pi = log_pi + scores.log_softmax(-1)[:, 0]
            log_pi = log_pi + log_p[:, first].gather(-1, SEQUENCES[:, [first]])[:, 0]
            x = x.index_copy(1, torch.tensor([first]), SEQUENCES[:, [first]])
            log_p = network.denoiser()(x, 1.0).log_conditional
            log_pi = log_pi + log_p[:, second].gather(-1, SEQUENCES[:, [second]])[:, 0]
        rounds = torch.tensor([[int(swap), 1 - int(swap)] for swap in swaps]).flatten()
        found.append((SEQUENCES, rounds.expand(len(SEQUENCES), -1), log_pi))
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def expected_reward(network, order):
    x, _, log_pi = every_decoding(network, order)
    return (log_pi.exp() * reward_of(x)).sum()


def rolled_out(network, rule, rows, seed):
    x, trajectory, _ = decode(network, rule, rows, L, seed=seed)
    return x, {"trajectory": trajectory, "reward": reward_of(x)}


def rewarded(group, order=None, **settings):
    """The objective on groups that were decoded by a rule whose order is trained, or at random."""
    rule = Static("random") if order is None else order
    return OutcomeReward({"group": group, "unmasking": rule}, **settings)


def gradient(objective, network, x, seed=0, **more):
    loss = objective(step_of(x, network, network, seed, **more))["student"]
    return torch.autograd.grad(loss, network.logits)[0].flatten()


# ---------------------------------------------------------------------------- the gradient


@pytest.mark.parametrize("order", [None, ORDER], ids=["any-order", "trained-order"])
@pytest.mark.slow
def test_gradient_is_that_of_the_expected_reward(order):
    """Over all decodings as one group, each with N pi (R - E R) for its reward, whose mean is 0."""
    network = random_views(L, b)
    x, rounds, log_pi = every_decoding(network, order)
    expected = (log_pi.exp() * reward_of(x)).sum()
    (exact,) = torch.autograd.grad(expected, network.logits, retain_graph=True)
    reward = (len(x) * log_pi.exp() * (reward_of(x) - expected)).detach()
    more = {"trajectory": Trajectory(rounds, b), "reward": reward}
    settings = {"group": len(x), "divide_by_std": False, "kl": 0.0}
    found = gradient(rewarded(**settings, order=order), network, x, **more)
    assert torch.allclose(found, -exact.flatten() / L, atol=1e-12)
    other = gradient(rewarded(**settings, order=None if order else ORDER), network, x, **more)
    assert torch.cosine_similarity(found, other, dim=0) < 0.99, "the order is a part of it"
    # Some of the calls, each standing for others: the same in the mean.
    objective = rewarded(**settings, order=order, calls=1)
    sampled = torch.stack([gradient(objective, network, x, seed, **more) for seed in range(200)])
    error = (sampled.std(0) / len(sampled) ** 0.5).clamp_min(1e-12)
    assert ((sampled.mean(0) - found).abs() / error).max() < 4.5 and error.max() > 1e-4


def test_groups_of_samples_have_that_gradient_in_the_mean():
    """Times (G - 1) / G, since the mean of a group holds a row's own reward."""
    network, size = random_views(L, b), 4
    x, more = rolled_out(network, ORDER, 12000, 0)
    objective = rewarded(size, ORDER, divide_by_std=False, kl=0.0)
    found = gradient(objective, network, x, **more)
    (exact,) = torch.autograd.grad(expected_reward(network, ORDER), network.logits)
    exact = -exact.flatten() * (size - 1) / size / L
    assert torch.cosine_similarity(found, exact, dim=0) > 0.98
    assert abs(float(found.norm() / exact.norm()) - 1) < 0.1


# ---------------------------------------------------------------------------- the law of an order


def by_enumeration(scores, picked, among):
    """P(the first draws are that set), over every order of it."""
    chosen, rest = picked.nonzero()[:, 0].tolist(), among.nonzero()[:, 0].tolist()
    total = torch.zeros((), dtype=torch.float64)
    for order in itertools.permutations(chosen):
        left, log_p = list(rest), torch.zeros((), dtype=torch.float64)
        for i in order:
            log_p = log_p + scores[i] - scores[left].logsumexp(0)
            left.remove(i)
        total = total + log_p.exp()
    return total.log()


@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
def test_probability_of_a_set_is_that_of_all_its_orders(spread):
    torch.manual_seed(1)
    for size in range(1, 7):
        scores = (torch.randn(6).double() * spread).requires_grad_()
        among = torch.tensor([True, True, False, True, True, True])
        picked = torch.zeros(6, dtype=torch.bool)
        picked[among.nonzero()[torch.randperm(5)[:size], 0]] = True
        values = [f(scores, picked, among) for f in (set_log_probability, by_enumeration)]
        assert torch.isclose(*values, rtol=1e-8, atol=1e-9), (size, values)
        grads = [torch.autograd.grad(v, scores, allow_unused=True)[0] for v in values]
        grads = [torch.zeros(6).double() if g is None else g for g in grads]
        assert torch.allclose(*grads, rtol=1e-6, atol=1e-7), (size, grads)


def test_rule_draws_sets_with_that_probability():
    log_p = random_views(4, 4).denoiser()(torch.full((1, 4), 2), 1.0).log_conditional.detach()
    rule, rows = PlackettLuce(0.3), 20000
    masked = torch.tensor([[True, True, False, True]]).expand(rows, -1)
    log_p = log_p.expand(rows, -1, -1)
    draft = Draft(log_p, log_p, log_p.argmax(-1), masked, 0, 2, None, 0.0, torch.Generator())
    picked = rule(draft)
    assert (picked.sum(1) == 2).all() and not picked[:, 2].any()
    for pair in ((0, 1), (0, 3), (1, 3)):
        chosen = torch.zeros(4, dtype=torch.bool)
        chosen[list(pair)] = True
        p = float(set_log_probability(rule.scores(log_p[0]), chosen, masked[0]).exp())
        share = float((picked == chosen).all(1).double().mean())
        assert abs(share - p) < 4.5 * (p * (1 - p) / rows) ** 0.5


def test_low_temperature_decides_the_surest_first():
    log_p = torch.tensor([[[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]]]).log()
    masked = torch.ones(1, 3, dtype=torch.bool)
    draft = Draft(log_p, log_p, log_p.argmax(-1), masked, 0, 3, None, 0.0, torch.Generator())
    assert PlackettLuce(1e-4)(draft).tolist() == [[False, False, True]]


# ---------------------------------------------------------------------------- what it reaches


def trained(objective, rule, steps=80):
    teacher = random_views(L, b, seed=3)
    student = Views(teacher.logits.data, b)
    optimizer = torch.optim.Adam([student.logits], lr=0.1)
    for seed in range(steps):
        x, more = rolled_out(student, rule, 64, seed)
        step = step_of(x, student, teacher, seed, **more)
        optimizer.zero_grad()
        objective(step)["student"].backward()
        optimizer.step()
    return student, step.log.figures


@pytest.mark.slow
def test_reward_rises_to_near_its_greatest_value_and_the_teacher_holds_it_back():
    order = PlackettLuce(0.2)
    free, _ = trained(rewarded(16, order, kl=0.0), order)
    held, record = trained(rewarded(16, order, kl=1.0), order)
    with torch.no_grad():
        start = float(expected_reward(random_views(L, b, seed=3), order))
        reached = [float(expected_reward(network, order)) for network in (free, held)]
    assert reached[0] > 0.75 * float(REWARD.max()) and reached[0] > start + 1
    assert start < reached[1] < reached[0] - 0.1 and 0 < record["kl"] < 0.5


def test_order_alone_can_be_learnt():
    """Tokens that are sure at once either way; the reward is for which of two comes first.

    Position 1 says 0 if it is decided first and else what position 0 is, which is 1.
    """
    logits = torch.zeros(9, 2, 3, dtype=torch.float64)
    network = Views(logits, 2)
    index = {"both": 8, "second": 5}
    network.logits.data[index["both"]] = torch.tensor([[-1.0, 1.0, 0.0], [1.0, -1.0, 0.0]])
    network.logits.data[index["second"], 1] = torch.tensor([-9.0, 9.0, 0.0])
    rule = PlackettLuce(0.05)
    objective = rewarded(32, rule, kl=0.0)
    optimizer = torch.optim.Adam([network.logits], lr=0.03)
    firsts = []
    for seed in range(60):
        x, trajectory, _ = decode(network, rule, 128, 2, seed=seed)
        earlier = (trajectory.rounds[:, 0] == 0).double()
        firsts.append(float(earlier.mean()))
        step = step_of(x, network, network, seed, trajectory=trajectory, reward=earlier)
        optimizer.zero_grad()
        objective(step)["student"].backward()
        optimizer.step()
    assert 0.3 < firsts[0] < 0.7 and firsts[-1] > 0.9, firsts[::20]


# ---------------------------------------------------------------------------- groups


def test_group_of_equal_rewards_says_nothing_however_great_they_are():
    network = random_views(L, b)
    x, more = rolled_out(network, Static("random"), 16, 0)
    more["reward"] = torch.tensor([7.0] * 8 + [-2.0] * 8)
    step = step_of(x, network, network, **more)
    loss = rewarded(8, kl=0.04)(step)["student"]
    assert torch.autograd.grad(loss, network.logits)[0].abs().max() < 1e-12
    assert step.log.figures["informative"] == 0 and step.log.figures["reward"] == 2.5


def test_division_by_the_spread_makes_groups_count_alike():
    network = random_views(L, b)
    x, more = rolled_out(network, Static("random"), 16, 0)
    base = torch.arange(8) % 2
    more["reward"] = torch.cat([base, 100 * base + 3]).double()
    advantages = [
        rewarded(8, divide_by_std=divide).advantages(step_of(x, network, network, **more))
        for divide in (True, False)
    ]
    assert torch.allclose(advantages[0][:8], advantages[0][8:], atol=1e-3)
    assert torch.allclose(100 * advantages[1][:8], advantages[1][8:])


@pytest.mark.parametrize("moved", [0.0, 0.1, 0.5, -0.5])
def test_clip_lets_go_of_what_has_moved_far_enough(moved):
    """At r = e^.5 the tokens of the better rows have no gradient, and those of the worse ones r
    times theirs; at r = e^-.5 the other way round; near 1 all have r times theirs."""
    network = random_views(L, b)
    x, more = rolled_out(network, Static("random"), 32, 0)
    path, more["reward"] = more["trajectory"], torch.tensor([1.0, 0.0]).repeat(16)
    more["trajectory"] = Trajectory(path.rounds, b, path.log_prob - moved)
    clipped = gradient(rewarded(2, kl=0.0, clip=0.2), network, x, **more)
    rounds = path.rounds.clone()
    if abs(moved) > 0.2:
        rounds[0 if moved > 0 else 1 :: 2] = -1
    more["trajectory"] = Trajectory(rounds, b)
    left = gradient(rewarded(2, kl=0.0), network, x, **more)
    assert left.abs().sum() > 0
    # A mean over the tokens that were decoded, of which there are fewer where rows are left out.
    share = (rounds >= 0).sum() / (path.rounds >= 0).sum()
    assert torch.allclose(clipped, share * left * torch.tensor(moved).double().exp(), atol=1e-7)


def test_settings_come_back_and_wrong_ones_are_refused():
    rule = {"type": "plackett_luce", "temperature": 0.3}
    objective = OutcomeReward({"unmasking": rule}, calls=2)
    assert objective.order == PlackettLuce(0.3) and objective.rollouts.group == 8
    assert Objective.from_config(objective.to_config()) == objective
    assert Unmasking.from_config("plackett_luce") == PlackettLuce()
    for more, words in (
        ({"calls": 0}, "at least 1"),
        ({"kl": -1.0}, "at least 0"),
        ({"clip": 1.0}, "clip must lie in"),
    ):
        with pytest.raises(ValueError, match=words):
            OutcomeReward(**more)
    with pytest.raises(ValueError, match="above 0"):
        PlackettLuce(0.0)


def test_rows_without_a_reward_or_a_whole_group_are_refused():
    network = random_views(L, b)
    x, more = rolled_out(network, Static("random"), 6, 0)
    with pytest.raises(ValueError, match="do not divide a batch of 6"):
        rewarded(4)(step_of(x, network, network, **more))
    with pytest.raises(ValueError, match="the step has none"):
        rewarded(2)(step_of(x, network, network, trajectory=more["trajectory"]))
    bare = {**more, "trajectory": Trajectory(more["trajectory"].rounds, b)}
    with pytest.raises(ValueError, match="trajectory has none"):
        rewarded(2, clip=0.2)(step_of(x, network, network, **bare))
    with pytest.raises(ValueError, match="no trajectory"):
        rewarded(2)(step_of(x, network, network, reward=more["reward"]))


def test_prompt_and_padding_are_no_part_of_the_policy():
    network = random_views(L, b)
    x, more = rolled_out(network, Static("random"), 16, 0)
    rounds = more["trajectory"].rounds.clone()
    rounds[:, 0], rounds[:, -1] = -1, -1
    more["trajectory"] = Trajectory(rounds, b)
    network.calls.clear()
    rewarded(8, ORDER, kl=0.1)(step_of(x, network, network, **more))
    assert len(network.calls) > 1
    for call in network.calls:
        assert not call["at"][:, [0, -1]].any() and (call["x"][:, [0, -1]] == x[:, [0, -1]]).all()
