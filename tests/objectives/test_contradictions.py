"""Settings that contradict each other are refused when the objective is made, in one sentence."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
from batch_runs import ROWS, reward, trainer_of

from hf_ddistill.couplings import Coupling, TimeSampler
from hf_ddistill.objectives import Objective, Rollouts
from hf_ddistill.objectives.weightings import Weighting

OURS = [name for name, kind in Objective.registry.items() if "hf_ddistill" in kind.__module__]
RANDOM = {"type": "static", "score": "random"}
#: What would go wrong -> an objective, and words of the refusal.
CONTRADICTIONS = {
    "one rollout a prompt has nothing to be judged against": (
        {"type": "outcome_reward", "rollouts": {"group": 1}},
        "rollouts.group must be at least 2, got 1",
    ),
    "the likeliest tokens are no draws of a policy": (
        {"type": "outcome_reward", "rollouts": {"temperature": 0.0}},
        "rollouts.temperature must be above 0",
    ),
    "rewards of a student that has moved since have no ratio": (
        {"type": "outcome_reward", "rollouts": {"updates": 4}},
        "set clip, or rollouts.updates=1",
    ),
    "a trained order has no ratio to be clipped": (
        {"type": "outcome_reward", "clip": 0.2, "rollouts": {"unmasking": "plackett_luce"}},
        "a trained order has no such ratio",
    ),
    "laws of a student that has moved since have no ratio": (
        {"type": "causal_law_matching", "rollouts": {"updates": 4}},
        "rollouts.updates must be 1, got 4",
    ),
    "the law that is matched is not the one that is drawn from": (
        {"type": "causal_law_matching", "rollouts": {"temperature": 0.7}},
        "rollouts.temperature must be 1, got 0.7",
    ),
    "a mean over tokens where the threshold looked at the drawn one": (
        {"type": "causal_law_matching", "pathwise": True, "rollouts": {"unmasking": "threshold"}},
        "'threshold' looks at them",
    ),
    "a mean over tokens where the order looked at the drawn one": (
        {"type": "causal_law_matching", "pathwise": True, "rollouts": {"unmasking": "static"}},
        "'static' looks at them",
    ),
    "a mean over tokens where the rule behind a prophet looked at them": (
        {"type": "causal_law_matching", "pathwise": True, "rollouts": {"unmasking": "prophet"}},
        "'prophet' looks at them",
    ),
    "rollouts by another network than the method is about": (
        {"type": "opdlm", "rollouts": {"by": "teacher"}},
        "defined on rollouts of the student, got rollouts.by='teacher'",
    ),
    "a teacher's trajectory by the student": (
        {"type": "t3d", "rollouts": {"by": "student"}},
        "defined on rollouts of the teacher",
    ),
    "a setting of rollouts that there is not": (
        {"type": "opdlm", "rollouts": {"groups": 2}},
        "have no setting 'groups'; they have: by, tokens",
    ),
    "more tokens at first than in the end": (
        {"type": "opdlm", "rollouts": {"tokens": 4, "min_tokens": 8}},
        "the number of tokens grows",
    ),
    "growth that takes no steps": (
        {"type": "opdlm", "rollouts": {"tokens": 9, "min_tokens": 8}},
        "rollouts.ramp_steps is 0",
    ),
    "planned calls of a rule without a plan": (
        {"type": "opdlm", "rollouts": {"steps_per_block": 2, "unmasking": "factor"}},
        "'factor' goes by no plan",
    ),
    "a limit on hints that are not given": (
        {"type": "d2f", "hints": {"limit": 0.1}},
        "hints needs sees",
    ),
    "divergence that a policy gradient has not": (
        {"type": "law_matching", "gradient": "policy", "divergence": "jeffreys"},
        "needs gradient='pathwise'",
    ),
}


@pytest.mark.parametrize(("objective", "words"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_refused_when_it_is_made(objective, words):
    with pytest.raises(ValueError, match=re.escape(words)) as refusal:
        Objective.from_config(objective)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", OURS)
def test_defaults_contradict_nothing_and_come_back_from_their_configuration(name):
    objective = Objective.from_config(name)
    assert Objective.from_config(objective.to_config()) == objective
    assert hash(objective.rollouts) == hash(Objective.from_config(name).rollouts)


@pytest.mark.parametrize("rule", [RANDOM, "plackett_luce", "entropy_bounded"])
def test_a_mean_over_tokens_is_taken_where_the_rule_does_not_look_at_them(rule):
    config = {"type": "causal_law_matching", "pathwise": True, "rollouts": {"unmasking": rule}}
    assert Objective.from_config(config).pathwise


def test_what_is_given_of_rollouts_is_a_change_of_the_objective_s_own():
    objective = Objective.from_config({"type": "outcome_reward", "rollouts": {"tokens": 9}})
    assert (objective.rollouts.group, objective.rollouts.tokens) == (8, 9)
    assert objective.to_config()["rollouts"]["unmasking"] == {"type": "static", "score": "entropy"}
    with pytest.raises(ValueError, match="rollouts.tokens must be at least 1, got 0"):
        Rollouts(tokens=0)


def test_groups_of_the_default_outcome_reward_are_of_one_prompt(tmp_path):
    trainer = trainer_of(tmp_path, "outcome_reward", per_device_train_batch_size=2)
    step = trainer.training_record(trainer.model, trainer.data_collator(ROWS[:2]), 0, 0)
    given = [row["labels"].count(-100) for row in ROWS[:2]]
    prompts = [tuple(row[: given[i // 8]].tolist()) for i, row in enumerate(step.x_0)]
    assert len(prompts) == 16 and len(set(prompts[:8])) == len(set(prompts[8:])) == 1
    assert prompts[0] != prompts[8] and len(step.reward) == 16
    assert prompts[0] == tuple(ROWS[0]["input_ids"][: given[0]])


def test_an_objective_on_rewards_without_a_reward_is_refused_before_any_training(tmp_path):
    with pytest.raises(ValueError, match="'outcome_reward' needs what each rollout earns"):
        trainer_of(tmp_path, "outcome_reward", reward_function=None)
    trainer_of(tmp_path, "outcome_reward", reward_function=reward)


#: Counts that end somewhere by themselves: at the vocabulary, the row, the block, the training.
ENDS = {"top_k", "block_size", "tokens_a_step", "candidates", "lookahead"}


@pytest.mark.parametrize("family", [Objective, Coupling, TimeSampler, Weighting])
def test_a_count_of_calls_that_would_never_end_is_accepted(family):
    looked_at = 0
    for name, kind in family.registry.items():
        for field in fields(kind):
            if "int" not in str(field.type).split() or field.name in ENDS | {"layer"}:
                continue
            looked_at += 1
            with pytest.raises(ValueError, match=rf"{field.name}.* 4,096, got 1,000,000,000"):
                family.from_config({"type": name, field.name: 10**9})
    assert looked_at
    with pytest.raises(ValueError, match="group of Rollouts must be at most 4,096"):
        Rollouts(group=10**9)
