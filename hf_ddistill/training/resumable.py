"""`Trainer` whose checkpoints are whole, of this run, and hold numbers."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from transformers import Trainer, TrainerState
from transformers.trainer_utils import TrainOutput

from hf_ddistill.training import checkpoints
from hf_ddistill.training.fingerprint import RUN_NAME, Fingerprint, made_of, settings_of
from hf_ddistill.training.finite import check_weights
from hf_ddistill.training.pushing import push_to_hub
from hf_ddistill.training.run_state import RunState


class ResumableTrainer(Trainer):
    """Goes on from checkpoints of its own run alone, and saves nothing that is not a number.

    A run is known by its `Fingerprint`, which is written into the output folder when training
    starts and into each checkpoint. A checkpoint ends with a marker (`checkpoints`): one that was
    cut short, or changed since, is passed over with a warning. `save_total_limit` counts, and
    removes, checkpoints of this run alone.
    """

    _made_of: dict[str, Any] | None = None
    push_to_hub = push_to_hub
    _found_whole: str | None = None
    _limit: int | None = None

    def fingerprint(self) -> Fingerprint:
        """What this run is, in the words of the first process; all of them must ask together."""
        if self._made_of is None:
            # Once, at the start: a teacher may change, and an objective remember.
            read_by = self._denoiser.parameterization
            parts = {"objective": self._objective, "parameterization": read_by}
            parts = {k: v.to_config() for k, v in (parts | {"diffusion": self.diffusion}).items()}
            own = None
            if self.is_world_process_zero():
                teacher = getattr(self, "teacher", None)
                own = made_of(parts, self.model, teacher, self.train_dataset)
            (self._made_of,) = broadcast_object_list([own])
        about = Fingerprint(**self._made_of)
        return replace(about, settings=about.settings | settings_of(self.args))

    def last_checkpoint(
        self, folder: str | Path | None = None, must_exist: bool = False
    ) -> str | None:
        """The last whole checkpoint of this run in a folder (the output's if not given).

        None if there are none at all, or all were cut short, which is warned of.

        Raises:
            ValueError: if all that are whole are of other runs, with what differs; with
                `must_exist`, instead of None.
        """
        folder = Path(self.args.output_dir if folder is None else folder)
        chosen = self._chosen(checkpoints.checkpoints_in(folder), must_exist)
        if chosen is None and must_exist:
            raise ValueError(
                f"There is no checkpoint in {folder} to go on from; leave out --resume "
                "(resume_from_checkpoint)."
            )
        return chosen

    def _chosen(self, candidates: Sequence[Path], must: bool) -> str | None:
        """The first that is whole and of this run; with `must` it is an error if none is whole."""
        # All look at the same files: the first process may be writing its last marker still.
        self.accelerator.wait_for_everyone()
        damaged, foreign = [], []
        for candidate in candidates:
            if str(candidate) == self._found_whole:
                return self._found_whole
            if wrong := checkpoints.damage(candidate):
                damaged.append(f"{candidate} ({wrong})")
            elif differing := self._differences(candidate):
                foreign.append(f"{candidate} is of another run: {_listed(differing)}")
            else:
                self._pass_over([*damaged, *foreign], f"going on from {candidate.name}")
                self._found_whole = str(candidate)
                return self._found_whole
        if foreign:
            raise ValueError(
                f"{foreign[0]}; give the settings and data of that run, or another output folder."
            )
        if damaged and must:
            raise ValueError(
                f"No checkpoint is whole: {', '.join(damaged)}; start the training without "
                "resuming, or put the files back."
            )
        self._pass_over(damaged, "starting from the beginning")
        return None

    def _pass_over(self, left: list[str], then: str) -> None:
        if left and self.is_world_process_zero():
            warnings.warn(f"Passed over {', '.join(left)}; {then}.", stacklevel=4)

    def _differences(self, checkpoint: Path) -> list[str]:
        written = Fingerprint.read(checkpoint)
        if written is None:
            return [f"it has no {RUN_NAME} that can be read"]
        differing = self.fingerprint().differences(written)
        step, most = checkpoints.step_of(checkpoint), self.args.max_steps
        if not differing and 0 < most < step:
            return [f"it stands at step {step}, and max_steps is {most}"]
        return differing

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> TrainOutput:
        """Train; from the checkpoint that is named, or with True from the last whole one.

        A run that had ended is loaded and takes no further step.

        Raises:
            ValueError: if there is no such checkpoint, it is not whole, or is of another run; if
                gradients or weights are no numbers.
        """
        run, checkpoint = self.fingerprint(), None
        if isinstance(resume_from_checkpoint, str | Path):
            checkpoint = self._chosen([Path(resume_from_checkpoint)], must=True)
        elif resume_from_checkpoint:
            checkpoint = self.last_checkpoint(must_exist=True)
        # Once alone: what is trained on from here may write over it.
        self._found_whole = None
        if checkpoint is not None:
            state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
            if state.global_step == self.args.max_steps:
                return self._ended(checkpoint, state)
        if self.args.should_save:
            run.write(self.args.output_dir)
        limit = self.args.save_total_limit
        # `Trainer` would remove the checkpoints of other runs, and whatever stands in them.
        self._limit, self.args.save_total_limit = limit, None
        try:
            output = super().train(checkpoint, *args, **kwargs)
        finally:
            self.args.save_total_limit = limit
        self.check_finite()
        return output

    def _hp_search_setup(self, trial: Any) -> None:
        super()._hp_search_setup(trial)
        if trial is not None:
            # A trial may be of another model.
            self._made_of = None

    def _init_training_state(self, max_steps: int, *args: Any) -> tuple[int, int]:
        where = super()._init_training_state(max_steps, *args)
        # A checkpoint brings the intervals of logs, evaluations and checkpoints that it was
        # written under; those that are asked for now are what counts.
        self.state.compute_steps(self.args, max_steps)
        return where

    def _ended(self, checkpoint: str, state: TrainerState) -> TrainOutput:
        """Load a run that had ended; `Trainer` would take one more step."""
        self._load_from_checkpoint(checkpoint)
        self.state = state
        if self.args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load_best_model()
        losses = [record["loss"] for record in state.log_history if "loss" in record]
        return TrainOutput(state.global_step, losses[-1] if losses else float("nan"), {})

    def check_finite(self) -> None:
        """Raise unless the weights in training, and what goes with them, are numbers."""
        trained = ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)
        named = itertools.chain(trained, self._kept().items())
        check_weights(named, self.accelerator, self.state.global_step)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run_folder = Path(self._get_output_dir(trial))
        folder = run_folder / f"checkpoint-{self.state.global_step}"
        run, before = self.fingerprint(), {}
        if self.args.should_save:
            before = checkpoints.begin(folder)
        self.accelerator.wait_for_everyone()
        with checkpoints.told(folder):
            super()._save_checkpoint(model, trial)
        if self.args.should_save:
            run.write(folder)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            checkpoints.finish(folder, before, not self.args.save_only_model)
            self._remove_old(run_folder, folder)

    def _remove_old(self, run_folder: Path, latest: Path) -> None:
        """Keep the last checkpoints of this run, `save_total_limit` of them, and the best one."""
        if not self._limit or self._limit < 0:
            return
        best = self.state.best_model_checkpoint
        kept = {latest} if best is None else {latest, Path(best)}
        own = [
            path
            for path in checkpoints.checkpoints_in(run_folder)
            if checkpoints.has_marker(path) and not self._differences(path)
        ]
        spare = [path for path in own if path not in kept]
        for path in spare[max(self._limit - len(kept & set(own)), 0) :]:
            checkpoints.remove(path)

    def _kept(self) -> dict[str, Tensor]:
        """What a checkpoint keeps beside the weights of the model."""
        return {}

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `_kept` gave."""

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        state = RunState.load(resume_from_checkpoint, self.args.process_index)
        self._restore(state.tensors)
        self.memory, self.measured = state.memory, state.measured

    def _load_best_model(self) -> None:
        super()._load_best_model()
        best = RunState.load(self.state.best_model_checkpoint, self.args.process_index)
        self._restore(best.tensors)


def _listed(clauses: Sequence[str]) -> str:
    more = f", and {len(clauses) - 5} more" if len(clauses) > 5 else ""
    return ", ".join(clauses[:5]) + more
