"""Training that can be interrupted and goes on from a checkpoint, for the commands that train."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from hf_ddistill.training import DiscreteDiffusionTrainer
from hf_ddistill.training.callbacks.interruption import Interruption


def train(
    trainer: DiscreteDiffusionTrainer,
    folder: str | Path | None,
    must_resume: bool = False,
    option: str | None = None,
) -> None:
    """Train from the last whole checkpoint in `folder`, or from the start if there is none.

    Ctrl-C and SIGTERM end it with a checkpoint and one line with the command that goes on.

    Args:
        trainer: of the run.
        folder: of its checkpoints; None to start anew.
        must_resume: whether there has to be one.
        option: what the command needs to go on; nothing if it does so by itself.

    Raises:
        ValueError: with `must_resume`, if there is no checkpoint or none is whole; if those that
            are whole are of another run.
        SystemExit: after an interruption, with the code 130 (SIGINT) or 143 (SIGTERM).
    """
    checkpoint = None
    if folder is not None:
        checkpoint = trainer.last_checkpoint(folder, must_resume)
    interruption = Interruption(trainer.accelerator)
    trainer.add_callback(interruption)
    with interruption.listening():
        trainer.train(resume_from_checkpoint=checkpoint)
    trainer.remove_callback(interruption)
    if not interruption.signal:
        return
    if trainer.is_world_process_zero():
        state, launched = trainer.state, trainer.args.world_size > 1
        print(
            f"hf-ddistill: stopped at step {state.global_step} of {state.max_steps}, with a "
            f"checkpoint; it goes on with{' the same launcher and' if launched else ''}: "
            f"{command_that_goes_on(option)}",
            file=sys.stderr,
        )
    raise SystemExit(128 + interruption.signal)


def command_that_goes_on(option: str | None) -> str:
    """This command, with the option that it needs, to be pasted into a shell."""
    if option is None:
        return shlex.join(["hf-ddistill", *sys.argv[1:]])
    # What was there before is replaced by now: what is there is the run itself.
    given = [each for each in sys.argv[1:] if each not in (option, "--overwrite")]
    return shlex.join(["hf-ddistill", *given, option])
