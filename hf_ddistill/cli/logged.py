"""The figures in the log of a training, by name; `docs/logs.md` says more of them."""

from __future__ import annotations

import textwrap
from typing import NamedTuple


class Figure(NamedTuple):
    """What a figure is, in a few words, and where good lies."""

    meaning: str
    good: str


def _own(name: str, about: str, good: str) -> dict[str, Figure]:
    """What is logged of a network that is trained beside the student."""
    return {
        f"{name}_loss": Figure(about, good),
        f"{name}_grad_norm": Figure("norm of that network's gradient before it is clipped", STEADY),
    }


STEADY, SETTING, MEASURE = "steady", "as set", "a measure for the one above"
#: What every trainer logs.
OF_ALL = {
    "loss": Figure(
        "sum of the losses of all networks in training",
        "lower, beside other steps of the run alone; of a student that is moved by a reward, "
        "neither",
    ),
    "grad_norm": Figure("norm of the gradient before it is clipped", STEADY),
    "learning_rate": Figure("of the last step", SETTING),
    "epoch": Figure("passes through the data", SETTING),
    "eval_loss": Figure(
        "the loss on the data that are held out, with the mean of the weights", "lower, as of loss"
    ),
    "eval_bits_per_token": Figure(
        "the same in bits, where the loss is a bound on -log p (nelbo, bd3lm)", "lower"
    ),
    "cross_entropy": Figure(
        "-log p of the clean tokens where they are masked, nats per token",
        "lower, on data that are held out",
    ),
}
#: What distillation logs beside it, as far as the objective has it.
OF_DISTILLATION = {
    "student_loss": Figure("of the student alone", "as of loss"),
    **_own(
        "auxiliary",
        "of the network that is trained beside it to know what the student draws",
        "lower, but not below teacher_entropy or to 0: the student collapses",
    ),
    "auxiliary_lag": Figure(
        "its cross entropy less its own entropy, nats per token",
        "around 0; above --auxiliary-lag the student is slowed down",
    ),
    **_own(
        "discriminator",
        "of the network that tells samples from data (reinforce_dmd, didi)",
        "1.39, where it can not; near 0 its reward says nothing",
    ),
    **_own("coefficients", "of the learned numbers of the sampler (lsd)", "lower"),
    "reward": Figure(
        "of a sample: log p_teacher - log p_student, nats (law matching and its kin); how much a "
        "discriminator takes it for data; what the outcome earned",
        "higher; log p_teacher - log p_student is negative and rises to 0",
    ),
    "skipped": Figure(
        "share of the samples whose reward is not finite and that are left out",
        "0; above .01 the run stops",
    ),
    "entropy": Figure(
        "of the student's samples by the auxiliary, nats per token",
        "near teacher_entropy; towards 0 the student collapses",
    ),
    "teacher_entropy": Figure("the same of the teacher on the data", MEASURE),
    "rollout_entropy": Figure(
        "of the tokens that the student draws, as one histogram of the batch",
        "near data_entropy; towards 0 the student collapses",
    ),
    "data_entropy": Figure("the same of the batch's own tokens in their place", MEASURE),
    "distance": Figure(
        "of the student's samples from the data, where they were drawn",
        "lower: teacher_distance or less",
    ),
    "teacher_distance": Figure("the same of the teacher at the same calls", MEASURE),
    "divergence": Figure("between teacher and student, per token", "lower; 0 is the teacher"),
    "mean_t": Figure("mean time of the states that are looked at", SETTING),
    "revealed": Figure("share of the positions that differ between x_s and x_t", SETTING),
    "masked": Figure("share (opdlm: number) of the tokens that are masked in the states", SETTING),
    "calls_per_block": Figure("network calls for a block of the rollouts", "lower"),
    "right": Figure("share of the tokens where the likeliest is the right one", "higher"),
    "entropy_where_right": Figure("dparallel: of the predictions there, nats", "lower"),
    "distil": Figure("cdlm: distance to what the teacher said when it decided the token", "lower"),
    "consistency": Figure(
        "cdlm: distance to the student's own prediction later in the block", "lower"
    ),
    "masked_lm": Figure("cdlm: cross entropy of masked tokens of the data", "lower"),
    "gap_real": Figure("t3d: log-ratio of student to teacher on the teacher's tokens", "higher"),
    "gap_fake": Figure("t3d: the same on the likeliest tokens of one call", "lower"),
    "same": Figure("t3d: share of the tokens that are equal in both", "higher: less to learn"),
    "weight": Figure(
        "alpha: exp(k s), by which the gradient of a sequence counts",
        "around 1; near 0 the student learns nothing",
    ),
    "told_apart": Figure("share of the samples and data that the discriminator tells apart", ".5"),
    "dependence": Figure(
        "di4c: what the tokens that one call draws say of each other, nats per token",
        "higher; 0 is a product",
    ),
    "kl": Figure("outcome_reward: divergence from the teacher, per token", "lower"),
    "informative": Figure("outcome_reward: share of the groups whose rewards differ", "higher"),
    "clipped": Figure("outcome_reward: share of the ratios that are clipped", "lower"),
    "accepted": Figure(
        "acceptance, block_acceptance: drafts that the teacher would keep in a round, in "
        "expectation",
        "higher",
    ),
}


def logged(*, distillation: bool = False) -> str:
    """The end of a command's help."""
    figures = {**OF_ALL, **(OF_DISTILLATION if distillation else {})}
    lines = []
    for name, (meaning, good) in figures.items():
        judged = f" ({good})" if good in (SETTING, MEASURE) else f". Good: {good}"
        wrapped = textwrap.wrap(meaning + judged, 72)
        lines.append(f"  {name:20}  {wrapped[0]}")
        lines += [" " * 24 + rest for rest in wrapped[1:]]
    return "in the log:\n" + "\n".join(lines)
