"""A trace of a pipeline, shown where it was asked for."""

from __future__ import annotations

import sys
from pathlib import Path

from hf_ddistill.cli.show import gif, page, terminal
from hf_ddistill.cli.show.story import Story, text_of_tokens, told
from hf_ddistill.cli.values import TERMINAL
from hf_ddistill.models import unwrapped
from hf_ddistill.pipelines import DiscreteDiffusionPipeline, Trace, grey_levels


def shown(pipe: DiscreteDiffusionPipeline, trace: Trace, where: str) -> None:
    """Show every step.

    Args:
        pipe: that was traced.
        trace: of its call.
        where: `TERMINAL`, or a .gif or .html file.

    Raises:
        ValueError: if there is a file that is not ours.
    """
    story = _story(pipe, trace)
    if where == TERMINAL:
        terminal.show(story, sys.stdout)
        return
    kind = gif if where.lower().endswith(".gif") else page
    kind.save(story, Path(where))
    print(f"{len(story.frames)} steps are in {where}.")


def _story(pipe: DiscreteDiffusionPipeline, trace: Trace) -> Story:
    process = pipe.scheduler.diffusion.process
    # Under a process that reveals a mask says nothing yet; under any other all tokens are tokens.
    noise = process.noise_tokens
    moments = trace.moments
    if pipe.scheduler.sampler.drafts:
        # A call may decide what several steps were to: of those that follow nothing is to be seen.
        moments = [each for each in moments if bool(each.changed.any())] or moments[-1:]
    shape = getattr(unwrapped(pipe.model).config, "token_shape", None)
    if pipe.tokenizer is not None:
        return told(moments, text_of_tokens(pipe.tokenizer), noise)
    if shape is not None and len(shape) == 2:
        greys = grey_levels(process).tolist()
        return told(moments, str, noise, greys, tuple(shape))
    return told(moments, lambda token: f" {token}", noise)
