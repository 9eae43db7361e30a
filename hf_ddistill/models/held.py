"""The special tokens of a masked language model, which are given and never drawn.

A masked LM of transformers has seen each sequence between its tokenizer's own tokens, such as
`[CLS] ... [SEP]`, and was never to guess one. Its configuration keeps that as `held_tokens`; a
student takes it on. With S the special tokens, the mask not among them:

    p(x_0 = k | x_t) = 0 for k in S at a masked position
    x_t = x_0 wherever x_0 is in S: data's special tokens are context, in no state noised
    x_0 of a sample begins and ends with the tokens that the tokenizer puts there
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.configuration_utils import PreTrainedConfig

from hf_ddistill.samplers import Canvas
from hf_ddistill.shapes import Where

#: What the special tokens are for that are held; others, of a user's own, are data.
_ROLES = ("bos", "cls", "eos", "sep", "pad", "unk")


@dataclass(frozen=True)
class Held:
    """Tokens that are given wherever they stand, and those that stand around a sample.

    Args:
        tokens: never drawn, and in data context.
        begin: the first tokens of a sample.
        end: the last tokens of a sample.

    Raises:
        ValueError: unless all are lists of integers of at least 0, and those around a sample are
            among the tokens.
    """

    tokens: tuple[int, ...]
    begin: tuple[int, ...] = ()
    end: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            listed = isinstance(value, list | tuple)
            if not listed or not all(type(token) is int and token >= 0 for token in value):
                raise ValueError(
                    f"held_tokens: {name} must be a list of integers from 0, got {value!r}."
                )
            object.__setattr__(self, name, tuple(value))
        others = sorted({*self.begin, *self.end} - {*self.tokens})
        if others:
            raise ValueError(f"held_tokens: {others} stand around a sample and are not in tokens.")

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Held | None:
        """What a configuration says; None where it says nothing.

        Raises:
            ValueError: if it cannot be read.
        """
        said = getattr(config, "held_tokens", None)
        if said is None:
            return None
        names = {"tokens", "begin", "end"}
        if not isinstance(said, Mapping) or not {"tokens"} <= {*said} <= names:
            raise ValueError(
                'config.held_tokens must be a mapping such as {"tokens": [0, 1, 2], "begin": [0], '
                f'"end": [2]}}, got {said!r}.'
            )
        return cls(**said)

    @classmethod
    def of_tokenizer(cls, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Held:
        """The special tokens of a tokenizer, as far as the model has them, and those of them that
        it puts around a text."""
        mask = tokenizer.mask_token_id
        known = {getattr(tokenizer, f"{role}_token_id", None) for role in _ROLES} - {None, mask}
        tokens = tuple(sorted(token for token in known if token < vocab_size))
        begin, end = around_a_text(tokenizer)
        return cls(tokens, *(tuple(t for t in part if t in tokens) for part in (begin, end)))

    def where(self, ids: Tensor) -> Where:
        """(B, L), True at the tokens that are held."""
        return torch.isin(ids, torch.tensor(self.tokens, dtype=ids.dtype, device=ids.device))

    def around(self, canvas: Canvas, given: Sequence[int] = (0,)) -> Canvas:
        """The canvas on which samples begin and end as they must, too.

        Args:
            canvas: to be generated on.
            given: how many tokens at the beginning of each row the caller has laid out: these stay
                as they are, and rows that have any begin with them. One number serves all rows.
        """
        tokens, infill = canvas.tokens.clone(), canvas.infill.clone()
        length = tokens.shape[1]
        begin, end = (torch.tensor(part, dtype=torch.int64) for part in (self.begin, self.end))
        for row in range(len(tokens)):
            laid = given[row % len(given)]
            first = 0 if laid else min(len(begin), length)
            last = min(len(end), length - max(laid, first))
            tokens[row, :first], infill[row, :first] = begin[:first].to(tokens), False
            tokens[row, length - last :] = end[len(end) - last :].to(tokens)
            infill[row, length - last :] = False
        return Canvas(tokens, infill)


def enter_held(config: PreTrainedConfig, tokenizer: object) -> None:
    """Enter the special tokens of a tokenizer in the configuration of a masked LM of transformers.

    One that knows of discrete diffusion is left as it is: it says what it was trained for, and may
    well draw the token that ends a text.
    """
    asked = isinstance(tokenizer, PreTrainedTokenizerBase)
    if asked and not hasattr(config, "discrete_diffusion") and Held.of(config) is None:
        held = Held.of_tokenizer(tokenizer, config.vocab_size)
        config.held_tokens = {name: list(tokens) for name, tokens in asdict(held).items()}


def inherit_held(config: PreTrainedConfig, networks: Iterable[nn.Module]) -> None:
    """Let a student hold what its teacher holds, unless it says itself what it does."""
    for network in networks:
        said = getattr(getattr(network, "config", None), "held_tokens", None)
        if said is not None and Held.of(config) is None:
            config.held_tokens = said


def blank_canvas(
    config: PreTrainedConfig, shape: tuple[int, int], device: torch.device | str | None = None
) -> Canvas:
    """A canvas (B, L) for samples of a model, on which only what it holds is given."""
    held, canvas = Held.of(config), Canvas.empty(shape, device)
    return canvas if held is None else held.around(canvas)


def around_a_text(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The tokens that a tokenizer puts before and behind a text."""
    special, vocabulary = {*tokenizer.all_special_ids}, tokenizer.get_vocab()
    ordinary = min((i for i in vocabulary.values() if i not in special), default=None)
    text = "" if ordinary is None else tokenizer.decode([ordinary])
    read: dict[str, Any] = tokenizer(text, return_special_tokens_mask=True)
    ids, added = read["input_ids"], read["special_tokens_mask"]
    if 0 not in added:  # the text has no token: all that is there was put
        middle = len(ids) - len(ids) // 2
        return ids[:middle], ids[middle:]
    first, behind = added.index(0), len(added) - added[::-1].index(0)
    return ids[:first], ids[behind:]
