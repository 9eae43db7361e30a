"""The settings of `generate`: which it acts on, and why it refuses the others.

A setting is an entry of transformers' `GenerationConfig`, or one of our own. Each is acted on, or
refused where it asks for something; one that a later transformers adds is refused until it is
entered here. `docs/generate_settings.md` is this file as a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig

#: What a config says about itself.
METADATA = ("transformers_version", "_from_model_config", "_commit_hash", "_original_object_hash")

_DRAWS = "of the law that tokens are drawn from, as in transformers"
#: Settings of transformers that are acted on, and how.
ACTED: Mapping[str, str] = {
    "max_new_tokens": (
        "tokens behind each prompt; where neither it nor `max_length` is given anywhere, 20, or "
        "fewer where the model's window ends, with transformers' warning"
    ),
    "max_length": "columns of the output, the (padded) prompt included; the nearer of the two wins",
    "min_new_tokens": "no end token among so many new ones",
    "min_length": "the same, counted with the (padded) prompt",
    "max_time": (
        "seconds; after the call in which they pass, each row ends before its first open token"
    ),
    "stop_strings": (
        "a row ends with the token that completes one; needs `tokenizer=`. What is behind it in "
        "its block is dropped"
    ),
    "do_sample": (
        "draw tokens, or take the likeliest. If not given, tokens are drawn where a temperature "
        "above 0 is given"
    ),
    "use_cache": "keep keys and values of finished blocks; the tokens are the same",
    "temperature": _DRAWS + "; 0 takes the likeliest token",
    "top_k": _DRAWS + ", but all tokens (not 50) if not given",
    "top_p": _DRAWS,
    "min_p": _DRAWS,
    "top_h": _DRAWS,
    "typical_p": _DRAWS,
    "epsilon_cutoff": _DRAWS,
    "eta_cutoff": _DRAWS,
    "repetition_penalty": (
        "on every token that a row has so far, on both sides; tokens of one call do not see each "
        "other"
    ),
    "no_repeat_ngram_size": "no n-gram with a new token stands in a row twice, in whatever order "
    "its tokens were decided",
    "bad_words_ids": "none of them stands in a row's new tokens, nor across the prompt's end",
    "renormalize_logits": "always: tokens are drawn from, and `scores` are, log-probabilities",
    "forced_eos_token_id": "the last of the new tokens, where a row comes so far",
    "remove_invalid_values": "NaN and infinite logits are replaced; else they are an error",
    "suppress_tokens": "never decided",
    "begin_suppress_tokens": "not decided as the first new token",
    "sequence_bias": "added by transformers' processor, which sees the tokens before a position",
    "num_return_sequences": "rows for each prompt; a list of generators has one for each row",
    "output_scores": (
        "with `return_dict_in_generate`: the log-probabilities that each new token was drawn "
        "from, 0 behind an end"
    ),
    "output_logits": "with `return_dict_in_generate`: the model's logits at that call",
    "return_dict_in_generate": "a `BlockDiffusionGenerationOutput`",
    "pad_token_id": (
        "behind an end; the first end token if the model has none, the mask token if it has "
        "neither. Another one than these is refused: text could not be told from it"
    ),
    "bos_token_id": "the prompt of a row without any token",
    "eos_token_id": (
        "a row ends with the block in which it draws one of them; none (also `[]` or -1) never "
        "ends one"
    ),
    "disable_compile": "fulfilled: nothing is compiled",
}

#: Our own, see `BlockDiffusionGenerationConfig`.
OWN: Mapping[str, str] = {
    "unmasking": "the rule by which a call decides tokens",
    "steps_per_block": "calls that a rule with a plan has for a block",
    "block_size": "of the attention, instead of the model's",
    "sub_block_size": "tokens that are decoded together, a part of a block of the attention",
    "verify_with_base": "a block is a draft, verified by the base of the adapters (or the model "
    "read causally) in place of the unmasking rule: its law is that of the tokens",
    "dual_cache": "keep keys and values on both sides of the block in work",
    "max_active_blocks": "blocks that are decoded at the same time",
    "block_add_threshold": "share of a block at which the next one enters",
    "block_activate_threshold": "share of a block at which the next one takes a token in any case",
    "early_threshold": "probability that a token needs before that",
}


@dataclass(frozen=True)
class Refusal:
    """Why a setting is refused.

    Args:
        why: one sentence without its beginning and its end.
        idle: values that ask for nothing, transformers' defaults, beside None.
    """

    why: str
    idle: tuple[Any, ...] = ()


def _refused(why: str, **idle: tuple[Any, ...]) -> dict[str, Refusal]:
    return {name: Refusal(why, values) for name, values in idle.items()}


#: Settings of transformers that are refused where they ask for something.
REFUSED: Mapping[str, Refusal] = {
    **_refused(
        "blocks are decoded once, without beams",
        num_beams=(1,),
        early_stopping=(False,),
        length_penalty=(1.0,),
        num_beam_groups=(1,),
        diversity_penalty=(0.0,),
        constraints=(),
        force_words_ids=(),
    ),
    **_refused(
        "a call decides several tokens by itself, without an assistant",
        use_mtp=(False,),
        is_assistant=(False,),
        num_assistant_tokens=(20,),
        num_assistant_tokens_schedule=("constant",),
        assistant_confidence_threshold=(0.4,),
        prompt_lookup_num_tokens=(),
        max_matching_ngram_size=(),
        assistant_early_exit=(),
        assistant_lookbehind=(10,),
        target_lookbehind=(10,),
        assistant_ensemble_weight=(),
        speculation_type=(),
    ),
    **_refused(
        "the decoder keeps keys and values of its blocks in its own way (use_cache, dual_cache)",
        cache_implementation=("dynamic", "hybrid"),
        cache_config=(),
        max_cache_len=(),
        prefill_chunk_size=(),
        low_memory=(False,),
        continuous_batching_config=(),
    ),
    **_refused("nothing is compiled; compile the model's forward instead", compile_config=()),
    **_refused(
        "the model has no encoder",
        encoder_repetition_penalty=(1.0,),
        encoder_no_repeat_ngram_size=(0,),
        decoder_start_token_id=(),
        forced_bos_token_id=(),
    ),
    **_refused(
        "it goes by the order of the tokens, and a block is decided in any order",
        watermarking_config=(),
        exponential_decay_length_penalty=(),
        penalty_alpha=(0.0,),
        dola_layers=(),
    ),
    **_refused("prompts stay as they came", token_healing=(False,)),
    **_refused(
        "it needs a second prompt; ProxySteering steers by two models", guidance_scale=(1, 1.0)
    ),
    **_refused(
        "a call reads a part of the canvas; ask the model itself, model(ids, ...=True)",
        output_attentions=(False,),
        output_hidden_states=(False,),
    ),
}

#: Settings that say the same, or are of another: where a nearer layer sets one, the others of a
#: farther layer go.
_TOGETHER = (
    ("max_new_tokens", "max_length"),
    ("min_new_tokens", "min_length"),
    ("unmasking", "steps_per_block"),
)
#: Settings of several blocks at the same time.
_PIPELINED = ("block_add_threshold", "block_activate_threshold", "early_threshold")
#: Settings that shape draws, with the values that leave them as they are.
SHAPING: Mapping[str, tuple[Any, ...]] = {
    "temperature": (0, 1),
    "top_k": (0, 50),
    "top_p": (1,),
    "min_p": (0,),
    "top_h": (),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
}


def setting_names() -> frozenset[str]:
    """All settings: those of the transformers that is installed, and our own."""
    known = GenerationConfig().to_dict().keys() - set(METADATA)
    return frozenset(known | ACTED.keys() | REFUSED.keys() | OWN.keys())


def refusal(name: str, value: Any) -> str | None:
    """Why a setting is refused with this value, in one sentence; None where it is not."""
    if value is None or name in ACTED or name in OWN or name in METADATA:
        return None
    refused = REFUSED.get(name)
    if refused is None:
        if name not in setting_names():
            return f"generate takes no {name}; docs/generate_settings.md lists what it takes."
        refused = Refusal("this version of hf_ddistill does not know the setting")
    if value in refused.idle:
        return None
    return f"generate does not act on {name}={value!r}: {refused.why}."


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise for the first setting that is refused."""
    for name, value in settings.items():
        if (why := refusal(name, value)) is not None:
            raise ValueError(why)


def resolved(layers: list[Mapping[str, Any]], explicit: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a call; who stands nearer to it wins.

    Args:
        layers: settings, the nearest first: of the config given to the call, of the model's; None
            is not set.
        explicit: arguments of the call itself; None unsets what the layers say.

    Returns:
        all settings that are set, `do_sample` always among them.

    Raises:
        ValueError: for settings that are refused or contradict each other.
    """
    for layer in (explicit, *layers):
        check_settings(layer)
    for names in _TOGETHER[:2]:
        if all(explicit.get(name) is not None for name in names):
            raise ValueError(f"Give {names[0]} or {names[1]}, not both: they say the same.")
    found: dict[str, Any] = {}
    for layer in (*reversed(layers), explicit):
        given = {name: value for name, value in layer.items() if value is not None}
        for names in _TOGETHER:
            # A plan's number alone is of the rule that stands farther.
            if any(name in given for name in names if name != "steps_per_block"):
                found = {name: value for name, value in found.items() if name not in names}
        found |= given
    for name in (name for name, value in explicit.items() if value is None):
        found.pop(name, None)
    for name in _PIPELINED:
        if explicit.get(name) is not None and "max_active_blocks" not in found:
            raise ValueError(f"{name} is for blocks at the same time: give max_active_blocks, too.")
    found["do_sample"] = _draws(layers, explicit)
    if not found["do_sample"]:
        _check_greedy(explicit)
        if len(layers) > 1 and layers[0].get("do_sample") is None:
            _check_greedy(layers[0])
    elif found.get("temperature") == 0:
        raise ValueError("do_sample=True draws tokens, and temperature=0 takes the likeliest.")
    return found


def _draws(layers: list[Mapping[str, Any]], explicit: Mapping[str, Any]) -> bool:
    """Whether tokens are drawn: as the nearest says that speaks of it."""
    for layer in (explicit, *layers):
        if layer.get("do_sample") is not None:
            return bool(layer["do_sample"])
        if layer.get("temperature") is not None:
            return bool(layer["temperature"])
    return False


def _check_greedy(given: Mapping[str, Any]) -> None:
    for name, idle in SHAPING.items():
        value = given.get(name)
        if value is not None and value not in idle:
            raise ValueError(
                f"{name}={value} shapes draws, and nothing is drawn: give do_sample=True or a "
                "temperature, or leave it out."
            )


__all__ = [
    "ACTED",
    "METADATA",
    "OWN",
    "REFUSED",
    "SHAPING",
    "Refusal",
    "check_settings",
    "refusal",
    "resolved",
    "setting_names",
]
