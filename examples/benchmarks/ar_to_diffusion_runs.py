"""The trainings of `ar_to_diffusion.py`: objectives, data, starts, settings."""

LAW_MATCHING = {"type": "causal_law_matching"}
#: What else a run needs: law matching and rewards are unbiased on rollouts of the student as it is
#: now, by a rule that does not look at the drawn tokens. Here they learn to write two tokens a
#: call, in order.
OF_NOW = {
    "updates": 1,
    "unmasking": {"type": "static", "score": "left_to_right"},
    "steps_per_block": 2,
}
IN_A_LEARNED_ORDER = {**OF_NOW, "unmasking": "plackett_luce"}
#: Of the rollouts.
OWN_ROLLOUTS = {
    # By confidence at a threshold of .9 nearly every call decides one character: states of parallel
    # decoding come only of rollouts that are decoded so.
    "opdlm_two_a_call": {"unmasking": "static", "steps_per_block": 2},
    "causal_law_matching": OF_NOW,
    "outcome_reward": {**OF_NOW, "group": 8},
    "outcome_reward_order": {**IN_A_LEARNED_ORDER, "group": 8},
}
#: Of the trainer.
OWN_SETTINGS = {
    "causal_law_matching": {"learning_rate": 3e-4},
    "block_law_matching": {"learning_rate": 3e-4},
    "outcome_reward": {"learning_rate": 3e-4, "per_device_train_batch_size": 1},
    "outcome_reward_order": {"learning_rate": 3e-4, "per_device_train_batch_size": 1},
}
#: What each run is: its objective; its data, prompts to decode behind, the language model's outputs
#: or the corpus; the model that it starts from: the converted one, read "shifted" (the output at
#: i - 1 speaks of token i, as in the language model) or "in_place", or another run's. Where a
#: diffusion model is the teacher, it is a copy of the one that the run starts from.
#: "full_attention" sees all of a row, whatever the block of the others; d2f starts from it.
RUNS = {
    "opdlm": ({"type": "opdlm"}, "prompts", "shifted"),
    "fine_tuning": ({"type": "bd3lm"}, "outputs", "shifted"),
    "opdlm_two_a_call": ({"type": "opdlm"}, "prompts", "shifted"),
    "opdlm_random_masks": ({"type": "opdlm", "states": "random"}, "prompts", "shifted"),
    "opdlm_reverse_kl": ({"type": "opdlm", "divergence": "reverse_kl"}, "prompts", "shifted"),
    "opdlm_jensen_shannon": (
        {"type": "opdlm", "divergence": "jensen_shannon"},
        "prompts",
        "shifted",
    ),
    "opdlm_posterior": ({"type": "opdlm", "target": "posterior"}, "prompts", "shifted"),
    "opdlm_in_place": ({"type": "opdlm"}, "prompts", "in_place"),
    "corpus": ({"type": "bd3lm"}, "corpus", "shifted"),
    "opdlm_longer": ({"type": "opdlm"}, "prompts", "opdlm"),
    "fine_tuning_longer": ({"type": "bd3lm"}, "outputs", "fine_tuning"),
    "causal_law_matching": (LAW_MATCHING, "prompts", "fine_tuning"),
    "dparallel": ({"type": "dparallel", "every_block": True}, "prompts", "fine_tuning"),
    "cdlm": ({"type": "cdlm"}, "prompts", "fine_tuning"),
    "pseudo_trajectory": ({"type": "pseudo_trajectory"}, "prompts", "fine_tuning"),
    "t3d": ({"type": "t3d"}, "prompts", "fine_tuning"),
    "outcome_reward": ({"type": "outcome_reward", "calls": 1}, "prompts", "fine_tuning"),
    "outcome_reward_order": ({"type": "outcome_reward", "calls": 1}, "prompts", "fine_tuning"),
    "block_law_matching": ({"type": "block_law_matching"}, "corpus", "fine_tuning"),
    "full_attention": ({"type": "bd3lm"}, "outputs", "shifted"),
    "d2f": ({"type": "d2f"}, "outputs", "full_attention"),
}
#: The objectives that the language model itself teaches (or nobody).
OF_THE_LANGUAGE_MODEL = {"opdlm", "causal_law_matching", "block_law_matching", "bd3lm"}
#: Numbers of noise input at each position, for which one call can put out dependent tokens.
NOISE = {"block_law_matching": 4}
