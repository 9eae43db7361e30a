"""Training that goes on from a checkpoint, for the commands that train."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hf_ddistill.training import DiscreteDiffusionTrainer


def train(
    trainer: DiscreteDiffusionTrainer, folder: str | Path | None, must_resume: bool = False
) -> None:
    """Train from the last checkpoint in `folder`, or from the start if there is none.

    A run that had ended is loaded and left as it is: `Trainer` would take one more step.

    Raises:
        ValueError: with `must_resume`, if there is no checkpoint.
    """
    checkpoint = None if folder is None else last_whole_checkpoint(Path(folder))
    if must_resume and checkpoint is None:
        raise ValueError(f"There is no checkpoint in {folder} to go on from; leave out --resume.")
    if checkpoint is not None and _step(checkpoint) >= trainer.args.max_steps > 0:
        trainer._load_from_checkpoint(checkpoint)
    else:
        trainer.train(resume_from_checkpoint=checkpoint)


def last_whole_checkpoint(folder: Path) -> str | None:
    """The last checkpoint whose last file was written; half of one is passed over."""
    inside = folder.iterdir() if folder.is_dir() else ()
    numbered = [path for path in inside if re.fullmatch(r"checkpoint-\d+", path.name)]
    whole = [path for path in numbered if (path / "trainer_state.json").is_file()]
    last = max(whole, key=lambda path: int(path.name.partition("-")[2]), default=None)
    return None if last is None else str(last)


def _step(checkpoint: str) -> int:
    return json.loads((Path(checkpoint) / "trainer_state.json").read_text())["global_step"]
