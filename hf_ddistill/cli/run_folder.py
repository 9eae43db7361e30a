"""The folder of a training run: what the run writes into it is recorded as it comes."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_ddistill.outputs import (
    Record,
    check_folder,
    is_model_file,
    move_files,
    remove_ours,
    set_aside,
    writing,
)
from hf_ddistill.outputs.record import NAME, relative_files
from hf_ddistill.outputs.writing import free
from hf_ddistill.training import DiscreteDiffusionTrainer

#: What a run writes beside its model: checkpoints, its settings, samples, logs.
_WORK = re.compile(r"(checkpoint-\d+|samples|runs)/.+|run\.json")
#: What `Trainer` may write into a checkpoint, beside the parts of a model.
_IN_A_CHECKPOINT = (".safetensors", ".json", ".pt", ".pth", ".bin")


def check_run_folder(options: Any, sources: Iterable[str] = ()) -> None:
    """Raise before any work if a run may not write into `options.output`.

    Args:
        options: with `output`, `overwrite` and `resume`.
        sources: models that are read.
    """
    if os.environ.get("RANK", "0") == "0":  # of several processes, one writes
        check_folder(
            options.output,
            overwrite=options.overwrite,
            goes_on=options.resume,
            sources=sources,
            makes=is_model_file if options.resume else _is_of_a_run,
        )


@contextlib.contextmanager
def trainer_made(folder: str | Path) -> Iterator[None]:
    """Within it the trainer of a run is made; where it is refused, the empty folder that `Trainer`
    has made for it goes again."""
    place = Path(folder).absolute()
    fresh = [each for each in (place, *place.parents) if not each.exists()]
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # none was made, or there is something in it
            for each in fresh:
                each.rmdir()
        raise


@contextlib.contextmanager
def run_folder(
    trainer: DiscreteDiffusionTrainer, folder: str | Path, overwrite: bool = False
) -> Iterator[None]:
    """Within it, what the run writes into the folder is entered in the folder's record.

    With `overwrite`, checkpoints of an earlier run are in `replaced/` until the new model is whole
    (`save_result`); where training fails before its first checkpoint they come back.
    """
    if not trainer.is_world_process_zero():
        yield
        return
    folder = Path(folder)
    earlier = set_aside(folder, lambda path: not is_model_file(path)) if overwrite else {}
    keeper = _Keeper(folder)
    trainer.add_callback(keeper)
    try:
        yield
    except BaseException:
        if folder.is_dir():
            keeper.enter()
        if not keeper.has_checkpoint:
            keeper.undo()
            move_files(folder, {now: before for before, now in earlier.items()})
        raise
    finally:
        trainer.remove_callback(keeper)


def save_result(trainer: DiscreteDiffusionTrainer, folder: str | Path) -> None:
    """`trainer.save_model`, whole or not at all; earlier checkpoints in `replaced/` go then."""
    if not trainer.is_world_process_zero():
        trainer.save_model(str(folder))  # its part in gathering the weights; it writes nothing
        return
    with writing(folder, keep=lambda path: _WORK.fullmatch(path) is not None) as draft:
        trainer.save_model(str(draft))


def _is_of_a_run(path: str) -> bool:
    if path.startswith("checkpoint-"):
        return _WORK.fullmatch(path) is not None and _is_of_a_checkpoint(path)
    return is_model_file(path) or _WORK.fullmatch(path) is not None


def _is_of_a_checkpoint(path: str) -> bool:
    """Whether a checkpoint might have a file of this name itself."""
    name = PurePosixPath(path).name
    return is_model_file(name) or name.endswith(_IN_A_CHECKPOINT)


class _Keeper(TrainerCallback):
    """Enters in the record what the run has written.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        record = Record.read(folder)
        self.before = set(relative_files(folder)) if folder.is_dir() else set()
        self.foreign = {path for path in self._work(self.before) if not record.owns(path)}
        self.has_checkpoint = False
        self.stamps: dict[str, tuple[int, int]] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.enter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make room for a checkpoint: what is there of another hand is moved, not written over."""
        if not control.should_save:
            return
        name = f"checkpoint-{state.global_step}"
        record, place = Record.read(self.folder), self.folder / name
        there = relative_files(self.folder, name)
        strange = [p for p in there if _is_of_a_checkpoint(p) and not record.owns(p)]
        own = name in record.begun or not strange
        if place.is_symlink() or not own:
            aside = free(self.folder / f"aside-{name}")
            os.rename(place, aside)
            print(f"{place} is not of this run: it is {aside.name} now.", flush=True)
            there = []
        self.stamps = {path: self._stamp(path) for path in there}
        if name not in record.begun:
            record.begun.append(name)
            record.write()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.has_checkpoint = True
        name = f"checkpoint-{state.global_step}"
        inside = relative_files(self.folder, name)
        new = [path for path in inside if self.stamps.get(path) != self._stamp(path)]
        self.enter(new, name)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.enter()

    def enter(self, checkpoint: Iterable[str] = (), name: str = "") -> None:
        """Enter a new checkpoint's files, and those of the run that are in none as they are now."""
        record = Record.read(self.folder)
        present = set(record.present())
        record.files = {path: value for path, value in record.files.items() if path in present}
        record.begun = [begun for begun in record.begun if begun != name]
        small = self._work(relative_files(self.folder))
        record.add([*checkpoint, *(path for path in small if path not in self.foreign)])
        record.write()

    def undo(self) -> None:
        """Remove what this run has written and where it did, if that was all."""
        if not self.folder.is_dir():
            return
        fresh = [p for p in self._work(relative_files(self.folder)) if p not in self.before]
        remove_ours(self.folder, fresh)
        if relative_files(self.folder) == [NAME] and not Record.read(self.folder).files:
            (self.folder / NAME).unlink()
            with contextlib.suppress(OSError):  # empty folders of the user's are in it
                self.folder.rmdir()

    def _stamp(self, path: str) -> tuple[int, int]:
        about = (self.folder / path).lstat()
        return about.st_mtime_ns, about.st_ino

    @staticmethod
    def _work(paths: Iterable[str]) -> list[str]:
        """Those that a run writes outside of its checkpoints."""
        return [p for p in paths if _WORK.fullmatch(p) and not p.startswith("checkpoint-")]
