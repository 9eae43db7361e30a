"""What a batch means, for every objective: a row adds the same whatever it is batched with."""

from __future__ import annotations

import pytest
import torch
from batch_runs import ROWS, K, P, added, moved, network, total, trainer_of
from slow_cases import mostly_slow

from hf_ddistill import objectives
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import RowStreams, normal_noise, uniform_noise
from hf_ddistill.objectives import Objective
from hf_ddistill.processes import Uniform

#: These networks are so sure that their entropies tie, and what breaks a tie is rounding.
BY_THRESHOLD = {"unmasking": "threshold"}
FLIPS = Diffusion(Uniform(K))
CODE = {"teacher_steps": 4, "learned": "powers"}
EVERY = {
    "acceptance": [{}, {"lookahead": 2, "divergence": "forward_kl"}],
    "alpha": [{"sharpness": 2.0}, {"sharpness": 0.0}],
    "nelbo": [{}, {"diffusion": FLIPS}],
    "di4c": [{"components": 2}, {"components": 3, "control": False, "diffusion": FLIPS}],
    "imdm": [{"teacher_steps": 2}, {"times": "uniform_times"}],
    "ecd": [
        {},
        {"diffusion": FLIPS, "coupling": "forward", "times": "grid_times"},
        {"coupling": {"type": "teacher", "substeps": 2}},
        {"coupling": "forward", "times": "adaptive_times", "divergence": "reverse_kl"},
        {"weighting": "relative_confidence"},
        {"weighting": {"type": "entropy", "strength": 0.3}},
    ],
    "law_matching": [
        {"gradient": "pathwise", "horizon": "call"},
        {},
        {"gradient": "pathwise", "horizon": "rollout", "maskings": 2},
        {"sampler": "jump", "diffusion": FLIPS, "gradient": "policy", "horizon": "rollout"},
    ],
    "sdtt": [{}, {"divergence": "forward_kl", "substeps": 3, "weighting": "entropy"}],
    "dcd": [{"diffusion": FLIPS}, {"diffusion": FLIPS, "weighting": "noise_level"}],
    "mcd": [{}, {"divergence": "forward_kl", "weighting": "certainty"}],
    "redi": [{"diffusion": FLIPS, "teacher_steps": 2, "looks": 2}],
    "fs_dfm": [{}, {"diffusion": FLIPS, "chained": True, "weighting": "learned"}],
    "lsd": [{"teacher_steps": 8}, {"teacher_steps": 8, "learned": "times"}, CODE],
    "distribution_matching": [
        {},
        {"setting": "idlm"},
        {"setting": "idlm", "diffusion": FLIPS},
        {"setting": "di_mo"},
        {"setting": "di_mo", "weight": "mean", "targets": "drawn", "diffusion": FLIPS},
    ],
    "simplex_dmd": [
        {"times": "grid"},
        {"score": "stein", "targets": "squared"},
        {"diffusion": FLIPS},
    ],
    "reinforce_dmd": [{}, {"times": "grid", "diffusion": FLIPS, "anchor": 0.0}],
    "didi": [{}, {"standardise": False, "decomposed": False, "entropy": 0.1}],
    "representation_mmd": [{}, {"alpha": 0.1, "same_position": False, "diffusion": FLIPS}],
    "reranked": [{}, {"importance": False, "horizon": "sequence", "anchor": 0.5, "group": 3}],
    "bd3lm": [{}, {"weighting": "uniform"}],
    "block_acceptance": [{}, {"divergence": "reverse_kl"}],
    "block_law_matching": [{}],
    "causal_law_matching": [
        {"rollouts": BY_THRESHOLD},
        {"rollouts": {"group": 2, **BY_THRESHOLD}, "calls": "one"},
    ],
    "opdlm": [{}, {"target": {"candidates": 2, "completions": 2}}],
    "outcome_reward": [
        {"rollouts": {"group": 2, **BY_THRESHOLD}},
        {"rollouts": {"group": 2, **BY_THRESHOLD}, "calls": 1, "clip": 0.2},
    ],
    "d2f": [{"block_size": 4}, {"block_size": 2, "weighted": False, "hints": {"sees": 0.3}}],
    "cdlm": [{"consistency": 1.0, "masked_lm": 1.0}],
    "dparallel": [{}, {"every_block": True}],
    "pseudo_trajectory": [{"window": (3, 5), "certainty": 1.0}],
    "t3d": [{"tokens_a_step": 2}, {"masks": {"order": "random", "ratios": (0.5,)}}],
}
#: Of block_law_matching, whose student has no noise input here.
pytestmark = pytest.mark.filterwarnings("ignore:A student of one call")
CASES = [(name, settings) for name, every in EVERY.items() for settings in every]


def test_every_objective_has_a_case():
    ours = {getattr(objectives, name) for name in objectives.__all__}
    assert {kind.id for kind in ours & set(Objective.registry.values())} == set(EVERY)


@pytest.mark.parametrize(
    ("name", "settings"),
    mostly_slow(CASES, lambda name, settings: settings is EVERY[name][0]),
    ids=lambda case: str(case),
)
def test_a_row_adds_the_same_whatever_is_beside_and_behind_it(name, settings, tmp_path):
    """Alone, in a batch in any order, in micro batches, and with more padding: every loss."""
    ours = {key: value for key, value in settings.items() if key != "diffusion"}
    trainer = trainer_of(tmp_path, {"type": name, **ours}, diffusion=settings.get("diffusion"))
    whole = added(trainer, ROWS)
    assert all(abs(value) > 1e-3 for value in whole.values())
    for other in (
        total([added(trainer, [row]) for row in ROWS]),
        added(trainer, ROWS[::-1]),
        total([added(trainer, ROWS[:2]), added(trainer, ROWS[2:])]),
        added(trainer, ROWS, columns=8),
    ):
        assert other == pytest.approx(whole, rel=2e-4)


#: Baselines of other rows move the value of a policy gradient's loss, and not its gradient.
IN_TRAINING = [
    (name, settings)
    for name, settings in CASES
    if name != "causal_law_matching"
    and (name != "law_matching" or settings.get("gradient") == "pathwise")
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), IN_TRAINING, ids=lambda case: str(case))
def test_in_training_the_mean_of_what_rows_add_is_the_same_in_micro_batches(
    name, settings, tmp_path
):
    """Times are drawn in strata of the batch, and masks for all of it: in the mean no matter."""
    ours = {key: value for key, value in settings.items() if key != "diffusion"}
    trainer = trainer_of(tmp_path, {"type": name, **ours}, diffusion=settings.get("diffusion"))
    found = {}
    for seed in range(100):
        whole = added(trainer, ROWS, key=(seed, 0))
        parts = [added(trainer, ROWS[i : i + 2], 4 * i, key=(seed, 1 + i)) for i in (0, 2, 4)]
        for key, value in total(parts).items():
            found.setdefault(key, []).append((whole[key], value))
    for key, pairs in found.items():
        one, other = torch.tensor(pairs).double().T
        error = ((one.var() + other.var()) / len(pairs)).sqrt() + 1e-6
        assert abs(one.mean() - other.mean()) < 4 * error, (key, one.mean(), other.mean(), error)


@pytest.mark.parametrize("name", ["nelbo", "law_matching", "bd3lm", "outcome_reward"])
def test_eval_loss_hangs_on_no_batch_and_no_order(name, tmp_path):
    objective = {"type": name} | (
        {"rollouts": {"group": 2, **BY_THRESHOLD}} if name == "outcome_reward" else {}
    )
    found = []
    for size, data in ((1, ROWS), (2, ROWS), (4, ROWS[::-1]), (6, ROWS)):
        trainer = trainer_of(
            tmp_path / str(size), objective, per_device_eval_batch_size=size, data=data
        )
        found.append(trainer.evaluate()["eval_loss"])
    assert found == pytest.approx([found[0]] * 4, rel=2e-4) and abs(found[0]) > 1e-3
    # That is the mean over all tokens.
    whole = added(trainer, ROWS)
    losses = [value for key, value in whole.items() if key != "units"]
    assert found[0] == pytest.approx(sum(losses) / whole["units"], rel=2e-4)


@pytest.mark.parametrize("name", EVERY)
def test_context_is_never_noised_and_in_no_loss(name, tmp_path):
    """Every call of every network has the context's own tokens; no answer there is asked for."""
    settings = dict(EVERY[name][0])
    process = {"diffusion": settings.pop("diffusion")} if "diffusion" in settings else {}
    trainer = trainer_of(tmp_path, {"type": name, **settings}, **process)
    if trainer.objective.rollouts is not None:
        pytest.skip("Its prompts are the context; see the tests of rollouts.")
    calls = []
    for denoiser in (trainer.denoiser(), *trainer.peers().values()):
        model = denoiser.network.model if isinstance(denoiser, Denoiser) else denoiser

        def seen(_, inputs, given):
            calls.append({"input_ids": inputs[0]} if inputs else dict(given))

        model.register_forward_pre_hook(seen, with_kwargs=True)
    batch = trainer.data_collator(ROWS)
    step = trainer.training_record(trainer.model, batch, 0, 0)
    trainer.objective(step)
    context = (batch["labels"] == -100) & batch["attention_mask"].bool()
    assert context.any() and calls
    for call in calls:
        rows = len(call["input_ids"])
        if rows == len(ROWS):
            assert (call["input_ids"][context] == batch["input_ids"][context]).all()
            # Of a shifted head the answer for a token stands one before it.
            assert "at" not in call or call.get("causal") or not context.flatten()[call["at"]].any()
    noisy = [call["input_ids"] for call in calls if len(call["input_ids"]) == len(ROWS)]
    assert any((ids != batch["input_ids"]).any() for ids in noisy)


def test_prompt_length_is_context_for_full_attention_too(tmp_path):
    plain = [{"input_ids": row["input_ids"]} for row in ROWS]
    marked = [row | {"labels": [-100] * P + row["input_ids"][P:]} for row in plain]
    by_length = trainer_of(tmp_path / "a", "nelbo", data=plain, prompt_length=P)
    by_labels = trainer_of(tmp_path / "b", "nelbo", data=marked)
    assert by_length.evaluate()["eval_loss"] == by_labels.evaluate()["eval_loss"]
    without = trainer_of(tmp_path / "c", "nelbo", data=plain)
    assert without.evaluate()["eval_loss"] != by_labels.evaluate()["eval_loss"]


# ---------------------------------------------------------------------------- accumulation


def test_uneven_micro_batches_give_the_gradient_and_the_loss_of_one_batch(tmp_path):
    one, loss = moved(tmp_path / "one", 6, 1)
    for size, accumulate in ((1, 6), (2, 3), (3, 2)):
        several, logged = moved(tmp_path / f"{size}", size, accumulate)
        torch.testing.assert_close(several, one, atol=1e-5, rtol=1e-4)
        assert logged == pytest.approx(loss, rel=1e-4)
    start = torch.cat([p.detach().flatten() for p in network(0).parameters()])
    assert (one - start).abs().max() > 0.01


def test_rollouts_of_a_step_are_decoded_once_and_weighed_by_their_tokens(tmp_path):
    """The share of each micro batch is that of its own decoded tokens."""
    trainer = trainer_of(
        tmp_path,
        "causal_law_matching",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=3,
    )
    drawn, shares = [], []
    draw, shared = trainer.decoder.draw, trainer.shared

    def counting(*args, **kwargs):
        drawn.append(draw(*args, **kwargs))
        return drawn[-1]

    def seen(loss, record, units):
        shares.append((record.trajectory.drawn.sum(), units))
        return shared(loss, record, units)

    object.__setattr__(trainer.decoder, "draw", counting)
    trainer.shared = seen
    trainer.train()
    assert len(drawn) == len(shares) == 3 and not trainer._ready
    assert [int(count) for count, _ in shares] == [int(d.trajectory.drawn.sum()) for d in drawn]
    assert sum(float(count / units) for count, units in shares) == pytest.approx(1)


# ---------------------------------------------------------------------------- noise of a row


def test_noise_of_a_row_hangs_on_no_neighbour_and_no_length():
    one, other = RowStreams([5, 9]), RowStreams([9])
    for law in (uniform_noise, normal_noise):
        both, alone = law((2, 40, 3), one), law((1, 7, 3), other)
        assert torch.equal(both[1, :7], alone[0]) and not torch.equal(both[0], both[1])
    part = one.of(torch.tensor([1]))
    assert torch.equal(uniform_noise((1, 4), part), uniform_noise((1, 9), other)[:, :4])
    # What is drawn in a part counts for the whole.
    assert torch.equal(uniform_noise((2, 4), one)[1:], uniform_noise((1, 4), other))
    numbers = normal_noise((2000, 16), RowStreams(range(2000)))
    assert abs(numbers.mean()) < 0.03 and abs(numbers.std() - 1) < 0.03
    assert torch.corrcoef(numbers.T).fill_diagonal_(0).abs().max() < 0.12
