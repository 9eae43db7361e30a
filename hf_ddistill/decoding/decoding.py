"""The loop of block diffusion: blocks from left to right, the calls of a block until none of its
tokens is masked, keys and values of finished blocks kept.

The first call of a block also reads the block before, now finished, into the cache: a block costs
no call beyond those that decide its tokens. Rows go on by themselves, each as fast as its tokens
are decided, and a row that is finished leaves the batch. With a rule that decides an even share a
call, rows begin each block together, which costs no call; with a dual cache they do so, too. With
`Pipelining` several blocks of a row are in work. What a row decides depends on none of that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from transformers.generation import BaseStreamer

from hf_ddistill.decoding.plan import DecodingPlan
from hf_ddistill.decoding.prompts import Decoded, Prompts
from hf_ddistill.decoding.record import Record
from hf_ddistill.decoding.work import Work
from hf_ddistill.linalg import asked_at_the_end
from hf_ddistill.shapes import Generators


def decode(
    model: Any,  # noqa: ANN401 (a BlockDiffusionLM, perhaps wrapped by PEFT)
    prompts: Prompts,
    new: int,
    plan: DecodingPlan,
    generator: Generators = None,
    *,
    streamer: BaseStreamer | None = None,
    processors: Any = None,  # noqa: ANN401 (one or many)
    record: Record | None = None,
    on_call: Callable[[int, Decoded], bool] | None = None,
) -> Decoded:
    """Decode `new` tokens behind each prompt, and what is missing to whole blocks.

    Args:
        model: whose tokens are decoded.
        prompts: what they are decoded behind.
        new: how many.
        plan: how.
        generator: of the draws; one, or one for each row.
        streamer: gets what is decided of a single row.
        processors: change the logits, see `changes`.
        record: gets the laws that tokens were drawn from.
        on_call: called behind each network call with its number and what is decoded, which it must
            not change; True ends decoding as if its time were up.

    Raises:
        ValueError: if prompt and new tokens do not fit into the model's window, for an empty
            prompt before a shifted head, for logits that are NaN or infinite, and where settings
            or processors leave no token for a position.
    """
    if model.config.shift_logits and not bool(prompts.sources[1].any(1).all()):
        raise ValueError(
            "A prompt is empty, and a shifted head reads each token from the one before it; start "
            "with a token, such as that of the beginning of a sequence."
        )
    started = time.monotonic()
    work = Work(model, prompts, new, plan, generator, processors, record)
    window = model.config.max_position_embeddings
    longest = int(work.real.sum(1).max())
    if window is not None and longest > window:
        raise ValueError(
            f"Prompt and new tokens make {longest} positions in whole blocks of "
            f"{prompts.block_size}, and the model reads {window}; shorten the prompt or "
            "max_new_tokens (of rollouts in training: prompt_length, or their tokens)."
        )
    if streamer is not None:
        source, came = prompts.sources
        streamer.put(source[0][came[0]][None].cpu())
    shown, number = work.finish(), 0
    with asked_at_the_end():
        while shown < work.blocks:
            work.call()
            stopped = on_call is not None and on_call(number, work.decoded())
            if stopped or time.monotonic() - started > plan.max_time:
                work.cut()
            finished = work.finish()
            if streamer is not None:
                _show(streamer, work, shown, finished)
            shown, number = finished, number + 1
    if streamer is not None:
        streamer.end()
    return work.decoded()


def _show(streamer: BaseStreamer, work: Work, shown: int, finished: int) -> None:
    """Give a streamer the blocks of the only row that were finished, or how those in work look."""
    wanted, size = work.wanted[0], work.size
    if finished > shown:
        done = slice(work.start + shown * size, work.start + finished * size)
        drawn = wanted[done] & (work.rounds[0, done] >= 0)
        streamer.put(work.ids[0, done][drawn].cpu())
    elif hasattr(streamer, "put_draft"):
        part = slice(work.start + shown * size, work.stop)
        streamer.put_draft(work.ids[0, part][wanted[part]].cpu())
