"""The figures in the log of a training, by name; `docs/logs.md` says more of them."""

from __future__ import annotations

import textwrap

#: What every trainer logs.
OF_ALL = {
    "loss": "the sum of the losses of all networks in training",
    "grad_norm": "norm of the gradient before it is clipped",
    "learning_rate": "of the last step",
    "epoch": "passes through the data",
    "eval_loss": "the loss on the data that are held out, with the mean of the weights",
    "eval_bits_per_token": "the same in bits, where the loss is a bound on -log p (nelbo, bd3lm)",
    "cross_entropy": "-log p(x_0 | x_t) where tokens are masked, in nats per token",
}
#: What distillation logs beside it, as far as the objective has it.
OF_DISTILLATION = {
    "student_loss": "of the student alone",
    "auxiliary_loss": "of the network that is trained beside it; the lower the better it knows "
    "what the student draws, but a fall to 0 is a collapse of the student",
    "auxiliary_lag": "its cross entropy less its own entropy, nats per token: 0 is best; above "
    "--auxiliary-lag the student is slowed down",
    "auxiliary_grad_norm": "norm of that network's gradient before it is clipped",
    "reward": "of a sample, higher is better: log p_teacher - log p_student, which is negative and "
    "rises to 0 (law matching), or what the outcome earned",
    "entropy": "of the student's samples, in nats per token; a fall towards 0 is a collapse",
    "teacher_entropy": "the same of the teacher on the data",
    "rollout_entropy": "of the tokens that the student draws, as one histogram of the batch",
    "data_entropy": "the same of the batch's own tokens in their place",
    "distance": "of the student's samples from the data, where they were drawn: lower is better, 0 "
    "is best",
    "teacher_distance": "the same of the teacher at the same calls",
    "skipped": "share of the samples whose reward is not finite and that are left out: 0 is best, "
    "above .01 the run stops",
    "divergence": "between teacher and student, per token",
    "mean_t": "mean time of the states that are looked at",
    "revealed": "share of the positions that differ between x_s and x_t",
    "masked": "share (opdlm: number) of the tokens that are masked in the states",
    "calls_per_block": "network calls for a block of the rollouts",
    "right": "share of the tokens where the likeliest is the right one",
    "entropy_where_right": "of the predictions there, in nats",
    "distil": "cdlm: distance to what the teacher said when it decided the token",
    "consistency": "cdlm: distance to the student's own prediction later in the block",
    "masked_lm": "cdlm: cross entropy of masked tokens of the data",
    "gap_real": "t3d: log-ratio of student to teacher on the rollouts",
    "gap_fake": "t3d: the same on the teacher's likeliest tokens",
    "weight": "alpha: exp(k s), by which the gradient of a sequence counts",
    "told_apart": "share of the samples and data that the discriminator tells apart; .5 is none",
    "dependence": "di4c: nats per token that tokens drawn together say of each other",
    "same": "t3d: share of the tokens that are equal in both",
    "kl": "outcome_reward: divergence from the teacher, per token",
    "informative": "outcome_reward: share of the groups whose rewards differ",
    "accepted": "acceptance: drafts that the teacher would keep in a round, in expectation",
    "clipped": "outcome_reward: share of the ratios that are clipped",
}


def logged(*, distillation: bool = False) -> str:
    """The end of a command's help."""
    names = {**OF_ALL, **(OF_DISTILLATION if distillation else {})}
    lines = []
    for name, meaning in names.items():
        wrapped = textwrap.wrap(meaning, 72)
        lines.append(f"  {name:20}  {wrapped[0]}")
        lines += [" " * 24 + rest for rest in wrapped[1:]]
    return "in the log:\n" + "\n".join(lines)
