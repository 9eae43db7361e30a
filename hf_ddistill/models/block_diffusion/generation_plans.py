"""From the settings of `generate` to a decoding plan."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    GenerationConfig,
    MinPLogitsWarper,
    PreTrainedTokenizerBase,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from hf_ddistill.decoding.ends import StopStrings
from hf_ddistill.decoding.forbidden_sequences import ForbiddenSequences
from hf_ddistill.decoding.logit_settings import LogitSettings
from hf_ddistill.decoding.pipelined import Pipelining
from hf_ddistill.decoding.plan import Criterion, DecodingPlan, ends
from hf_ddistill.decoding.prompts import Prompts
from hf_ddistill.shapes import LOG_ZERO
from hf_ddistill.unmasking import Unmasking

#: New tokens where nothing says how many, as in transformers.
DEFAULT_NEW_TOKENS = 20
_PIPELINING = {
    "max_active_blocks": "max_blocks",
    "block_add_threshold": "add",
    "block_activate_threshold": "activate",
    "early_threshold": "confidence",
}


def plan_of(
    config: GenerationConfig,
    block_size: int,
    full: bool,
    eos: int | Sequence[int] | None,
    vocab_size: int,
) -> DecodingPlan:
    """The plan of a config, as far as it does not depend on prompts.

    Args:
        config: the settings.
        block_size: of the attention.
        full: whether the attention is full.
        eos: the end tokens.
        vocab_size: K.

    Raises:
        ValueError: for settings that do not go together, and tokens that there are not.
    """
    temperature = config.temperature
    sample = bool(temperature) if config.do_sample is None else config.do_sample
    part = config.sub_block_size
    if full:
        part = part or config.max_new_tokens
    elif part is not None and (part < 1 or block_size % part):
        raise ValueError(f"sub_block_size={part} must divide the block of {block_size} tokens.")
    if config.dual_cache and config.use_cache is False:
        raise ValueError("dual_cache=True needs keys and values, and use_cache=False keeps none.")
    cache = "none" if config.use_cache is False else "dual" if config.dual_cache else "finished"
    given = {key: getattr(config, name) for name, key in _PIPELINING.items()}
    unmasking = Unmasking.from_config(config.unmasking or "threshold")
    if config.steps_per_block is not None and not unmasking.planned:
        raise ValueError(
            f"steps_per_block={config.steps_per_block} is for rules with a plan, such as 'static'; "
            f"the rule {unmasking.id!r} decides by itself how many tokens a call takes."
        )
    _check_law(config)
    forbidden = ForbiddenSequences.of(config.bad_words_ids, config.no_repeat_ngram_size)
    logits = _logits(config, ends(eos))
    named = (*logits.suppress, *logits.suppress_first, *logits.forced_last, *ends(eos))
    _check_tokens((*named, *(token for word in forbidden.words for token in word)), vocab_size)
    warpers = _warpers(config) if sample else ()
    if config.max_time is not None and config.max_time <= 0:
        raise ValueError(f"max_time must be above 0 seconds, got {config.max_time}.")
    return DecodingPlan(
        block_size=block_size,
        unmasking=unmasking,
        steps_per_block=config.steps_per_block,
        temperature=(1.0 if temperature is None else temperature) if sample else 0.0,
        top_k=config.top_k if sample and not warpers else None,
        top_p=1.0 if config.top_p is None or not sample or warpers else config.top_p,
        cache=cache,
        eos=ends(eos),
        sub_block_size=part,
        pipelining=Pipelining(**{k: v for k, v in given.items() if v is not None}),
        warpers=warpers,
        logits=logits,
        forbidden=forbidden,
        max_time=math.inf if config.max_time is None else config.max_time,
        verify_with_base=bool(config.verify_with_base),
    )


def new_tokens(
    config: GenerationConfig, plan: DecodingPlan, prompts: Prompts, window: int | None
) -> tuple[int, DecodingPlan]:
    """How many tokens are decoded, and the plan with what depends on that.

    Without `max_new_tokens` and `max_length` these are transformers' 20, or what the window of the
    model leaves, and transformers' warning.

    Raises:
        ValueError: if there is no room for one, or fewer than the settings ask for at least.
    """
    width = prompts.sources[0].shape[1]
    new = config.max_new_tokens
    if new is None and config.max_length is not None:
        new = config.max_length - width
        if new < 1:
            raise ValueError(
                f"max_length={config.max_length} leaves no new token behind prompts of {width}; "
                "raise it, or give max_new_tokens."
            )
    if new is None:
        new = DEFAULT_NEW_TOKENS
        if window is not None:
            longest = int(prompts.sources[1].sum(1).max())
            whole = window // prompts.block_size * prompts.block_size
            new = max(min(new, whole - longest), 1)
        warnings.warn(
            f"Neither max_new_tokens nor max_length is given: {new} new tokens, transformers' "
            "default, are decoded; give max_new_tokens.",
            UserWarning,
            stacklevel=4,
        )
    if new < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {new}.")
    least = config.min_new_tokens
    if least is None and config.min_length is not None:
        least = config.min_length - width
    least = max(least or 0, 0)
    if least > new:
        raise ValueError(f"At least {least} new tokens are asked for, and at most {new}.")
    if plan.block_size > prompts.block_size and plan.sub_block_size is None:  # full attention
        plan = replace(plan, sub_block_size=new)
    return new, replace(plan, logits=replace(plan.logits, min_new=least))


def criteria_of(
    config: GenerationConfig,
    given: Criterion | Iterable[Criterion] | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> tuple[Criterion, ...]:
    """What ends a row beside end tokens: the strings of a config, and the caller's criteria.

    Raises:
        ValueError: for strings without a tokenizer.
    """
    many = () if given is None else given if isinstance(given, Iterable) else (given,)
    criteria = list(many)
    if config.stop_strings:
        if tokenizer is None:
            raise ValueError(
                "stop_strings are found with the model's tokenizer; give generate(tokenizer=)."
            )
        strings = config.stop_strings
        strings = (strings,) if isinstance(strings, str) else tuple(strings)
        if not all(isinstance(text, str) and text for text in strings):
            raise ValueError(f"stop_strings must be a text or some, got {strings!r}.")
        criteria.append(StopStrings(tokenizer, strings))
    return tuple(criteria)


def _check_law(config: GenerationConfig) -> None:
    """Raise for a law that there is not."""
    if config.top_p is not None and not 0 < config.top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {config.top_p}.")
    if config.top_k is not None and config.top_k < 0:
        raise ValueError(f"top_k must be at least 0 (all tokens), got {config.top_k}.")


def _logits(config: GenerationConfig, eos: tuple[int, ...]) -> LogitSettings:
    penalty = config.repetition_penalty
    return LogitSettings(
        suppress=tuple(config.suppress_tokens or ()),
        suppress_first=tuple(config.begin_suppress_tokens or ()),
        forced_last=ends(config.forced_eos_token_id),
        eos=eos,
        repetition_penalty=1.0 if penalty is None else penalty,
        sequence_bias=config.sequence_bias or None,
        remove_invalid=bool(config.remove_invalid_values),
    )


def _warpers(config: GenerationConfig) -> tuple[Callable, ...]:
    """transformers' warpers in its order, where one is asked for that `DecodingPlan` has not."""
    top_k = config.top_k or None
    asked = {
        "top_h": (TopHLogitsWarper, config.top_h),
        "top_k": (TopKLogitsWarper, top_k),
        "top_p": (TopPLogitsWarper, None if config.top_p == 1 else config.top_p),
        "min_p": (MinPLogitsWarper, config.min_p or None),
        "typical_p": (TypicalLogitsWarper, None if config.typical_p == 1 else config.typical_p),
        "epsilon_cutoff": (EpsilonLogitsWarper, config.epsilon_cutoff or None),
        "eta_cutoff": (EtaLogitsWarper, config.eta_cutoff or None),
    }
    given = {name: (kind, value) for name, (kind, value) in asked.items() if value is not None}
    if given.keys() <= {"top_k", "top_p"}:
        return ()
    # What is barred stays so: a finite value, with which no entropy is NaN.
    return tuple(kind(value, filter_value=LOG_ZERO) for kind, value in given.values())


def _check_tokens(tokens: Iterable[int], vocab_size: int) -> None:
    for token in tokens:
        if not 0 <= token < vocab_size:
            raise ValueError(f"Token {token} is none of the model's, from 0 to {vocab_size - 1}.")


__all__ = ["criteria_of", "new_tokens", "plan_of"]
