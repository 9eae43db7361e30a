"""Tiny causal models of each family, as block diffusion, and a plain loop to compare decoding with.

Vocabulary of 40 tokens, the last of them the mask; random weights, large enough that the network is
sure of some tokens.
"""

from __future__ import annotations

import functools

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.unmasking import Draft, Unmasking

K, MASK, WINDOW = 40, 39, 64
HALF = {"type": "threshold", "threshold": 0.5}
SHAPE = {"vocab_size": K, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": WINDOW}
SHAPE |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
FAMILIES = {
    "llama": (LlamaConfig, {}),
    "qwen2": (Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, {"head_dim": 8}),
    "gemma": (GemmaConfig, {"head_dim": 8}),
    "gemma2": (Gemma2Config, {"head_dim": 8, "sliding_window": 6}),
    # Its sixth layer is the first of full attention.
    "gemma3": (Gemma3TextConfig, {"head_dim": 8, "sliding_window": 6, "num_hidden_layers": 6}),
    # Its fourth layer is the first without rotary positions.
    "smollm3": (SmolLM3Config, {"num_hidden_layers": 4}),
}


@functools.cache
def causal(family="llama"):
    """A causal model, in eval mode."""
    kind, more = FAMILIES[family]
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(kind(**SHAPE | more)).eval()
    with torch.no_grad():
        for weight in lm.parameters():
            weight.mul_(4.0 if weight.ndim > 1 else 1.0)
        if family == "llama":
            lm.lm_head.weight.mul_(6.0)
    return lm.requires_grad_(False)


@functools.cache
def block_model(family="llama", shift=False, block_size=4):
    """The same as block diffusion."""
    model, _ = to_block_diffusion(
        causal(family), mask_token_id=MASK, block_size=block_size, shift_logits=shift
    )
    return model.eval()


def mixed_prompts(left=True):
    """Four prompts of 6, 11, 9 and 8 tokens, (4, 11), and their attention mask."""
    lengths, generator = torch.tensor([6, 11, 9, 8]), torch.Generator().manual_seed(1)
    ids = torch.randint(3, MASK, (4, 11), generator=generator)
    columns = torch.arange(11)
    mask = columns >= 11 - lengths[:, None] if left else columns < lengths[:, None]
    return ids.masked_fill(~mask, 0), mask.long()


def streams(rows=range(4)):
    """A generator for each row."""
    return [torch.Generator().manual_seed(int(row)) for row in rows]


def plain_loop(model, prompt, new, unmasking, block_size):
    """The likeliest tokens behind one prompt (P,), block by block, every call from scratch: the
    tokens, the call within its block that decided each, and the number of calls."""
    rule = Unmasking.from_config(unmasking)
    end = -(-(len(prompt) + new) // block_size) * block_size
    ids = torch.full((1, end), MASK)
    ids[0, : len(prompt)] = prompt
    rounds, calls = torch.full_like(ids, -1), 0
    for start in range(0, end, block_size):
        block, number = slice(start, start + block_size), 0
        while (open_ := ids[:, block] == MASK).any():
            logits = model(ids[:, : block.stop], block_size=block_size).logits[:, block]
            logits[..., MASK] = -1e6
            log_p = logits.log_softmax(-1)
            draft = Draft(log_p, log_p, log_p.argmax(-1), open_, number, block_size)
            stays = rule(draft)
            ids[:, block] = torch.where(stays, draft.tokens, ids[:, block])
            rounds[:, block][stays] = number
            number, calls = number + 1, calls + 1
    span = slice(len(prompt), len(prompt) + new)
    return ids[0, span], rounds[0, span], calls


def drawn(model, ids, mask, generator=None, **settings):
    """The new tokens of prompts, with rounds and calls; draws where there is a generator."""
    settings = {"eos_token_id": -1, "max_new_tokens": 13} | settings
    out = model.generate(
        ids,
        mask,
        temperature=0.0 if generator is None else 1.0,
        generator=generator,
        return_dict_in_generate=True,
        **settings,
    )
    new = settings["max_new_tokens"]
    return out.sequences[:, -new:], out.rounds[:, -new:], out.calls


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)
