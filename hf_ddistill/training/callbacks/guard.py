"""No training destroys a model: what is done where a student gets worse than its teacher."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_ddistill.couplings import Log
from hf_ddistill.training.callbacks.collapse import StepFigures
from hf_ddistill.training.callbacks.lowered import LoweredRates
from hf_ddistill.training.comparison import Comparison, is_looked_at
from hf_ddistill.training.copies import teacher_weights
from hf_ddistill.training.fewer_calls import FewerCalls, in_words, leads
from hf_ddistill.training.good_weights import GoodStep, GoodWeights
from hf_ddistill.training.last_word import LastWord, given_up, kept_for_fewer
from hf_ddistill.training.likeness import Likeness
from hf_ddistill.training.sharding import is_sharded

#: What is left of the student's learning rate each time that it is stepped back.
LOWER = 0.5
#: Standard errors beyond which samples are farther from the data: at a good step, and on the way,
#: where students repeat themselves before they spread.
ERRORS, MANY_ERRORS = 2.0, 4.0


class Guard(TrainerCallback):
    """Keeps a student from getting worse than its teacher at the same calls, as far as the steps
    and some samples of both can say.

    - In each step, the student's learning rate is multiplied by (bound / lag)^2, while the lag of
      the auxiliary, in nats per token, is above the bound `auxiliary_lag`.
    - In each step, where the student draws for its training, the entropy of what it drew
      (`StepFigures`), and at some steps (10, 20, 40, ... and each tenth of all) variety and
      likeness to the data of samples (`Comparison`) are held against the teacher's own. Below
      `collapse_share` of these, or farther from the data than the teacher's by four standard
      errors, the weights become those of the last good step again, with mean, auxiliary and
      optimizer, and the learning rate half of what it was.
    - A good step is one whose samples are no farther from the data than the teacher's, or nearer
      than those of the good step before; nor, by two standard errors, farther than these.
    - After the last step, samples that are farther than the teacher's give way to the last good
      step; where there is none, or its samples are farther, too, a copy of the teacher becomes the
      teacher again, its noise input adding nothing.
    - Before either, a student that is farther, and has not collapsed, is held against its teacher
      at the fewer calls that its objective serves too (`FewerCalls`). Ahead at one of them it is
      kept as it is; such a step is good, and before all good steps that are not.

    Each time it says so. It only warns where the student is rewarded for what its teacher does not
    do, and, of samples and steps back, where weights are sharded; a student of blocks is not
    sampled, and never stepped back.

    Args:
        trainer: a `DiscreteDistillationTrainer`.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.start()

    def start(self) -> None:
        """Forget what was seen: a run begins."""
        self.figures, self.comparison = StepFigures(), None
        self.rate, self.round, self.warned = 1.0, 0, False
        #: Of the last step, lag included.
        self.factor = 1.0
        self.good = GoodStep()
        self.fewer, self.last = FewerCalls(self.trainer), LastWord()
        self._rates: LoweredRates | None = None

    @property
    def share(self) -> float:
        """Below which a figure is a collapse."""
        return self.trainer.args.collapse_share

    @property
    def acts(self) -> bool:
        """Whether it does more than warn."""
        return not is_sharded(self.trainer.accelerator) and not self.trainer._objective.takes_reward

    def see(self, log: Log) -> None:
        """Take note of the log of a micro step."""
        if self.share or self.trainer.auxiliaries.networks:
            self.figures.see(log)

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Before the first step, of a run or of a round: the teacher's samples, and the student as
        it is."""
        now = self.trainer.round_at(state.global_step)
        if now != self.round:
            rate = self.rate
            self.start()
            self.rate, self.round = rate, now
        if self.comparison is None and self.share and self.acts:
            self.comparison = Comparison.of(self.trainer)
            if self.comparison is not None and not self.good.weights:
                self._keep(state.global_step, self.comparison.student())
                # New noise is no gain, whatever few samples say.
                self.good.near &= not self.comparison.is_noisier

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Optimizer | None = None,
        **kwargs: object,
    ) -> None:
        """Lower the student's learning rate for this step."""
        self.figures.read(self.trainer.accelerator)
        lag, bound = self.figures.lag, self.trainer.args.auxiliary_lag
        waits = bound and not self.trainer._objective.takes_reward and lag > bound
        self.factor = self.rate * ((bound / lag) ** 2 if waits else 1.0)
        if self.factor == 1.0:
            return
        self._rates = LoweredRates(self.trainer.model, optimizer, self.factor)

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Give the schedule its own back."""
        if self._rates is not None:
            self._rates.give_back()
        self._rates = None

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Compare."""
        step, last = state.global_step, state.max_steps
        # The step that ends a round has a new teacher already.
        if not self.share or (step < last and self.trainer.round_at(step) != self.round):
            return
        if lost := self.figures.lost(self.share):
            self._step_back(step, lost)
        elif self.comparison is not None and step < last and is_looked_at(step, last):
            self._compare(step)
        if self.comparison is not None and step >= last:
            self._end(step)

    def _compare(self, step: int) -> None:
        found, good = self._looked_at(), self.good
        lost = self.comparison.lost(found, self.share)
        beyond, error = found.beyond(self.comparison.teacher)
        far = MANY_ERRORS * error
        is_far = lost is None and beyond > far and found.distance > good.distance + far
        ahead = lost is None and good.leads and beyond <= -ERRORS * error
        # Fewer calls are looked at where they can change what is done.
        if self._agreed(is_far or (lost is None and good.leads and not ahead)):
            ahead = self._at_fewer()
        if is_far and not ahead:
            away = f"{beyond:.3g} +- {error:.2g}"
            lost = f"its samples are farther from the data than the teacher's by {away}"
        if self._agreed(lost is not None):
            self._step_back(step, lost or "another process saw it")
        elif self._is_good(found, ahead, error):
            self._keep(step, found, ahead)

    def _at_fewer(self) -> bool:
        """Whether the student is ahead of its teacher at fewer calls; where, is remembered."""
        behind = self._agreed(self.fewer.look(self.share))
        if leads(behind):
            self.last.ahead = in_words(behind, self.trainer.student_steps)
        return leads(behind)

    def _looked_at(self) -> Likeness:
        """The student's samples, with their distance and the teacher's for the log."""
        comparison, found = self.comparison, self.comparison.student()
        least = comparison.of_data.within
        figures = {"distance": found, "teacher_distance": comparison.teacher}
        made = {name: torch.tensor(each.distance + least) for name, each in figures.items()}
        self.trainer.parts.add(made)
        self.last = LastWord((found.distance + least, comparison.teacher.distance + least))
        return found

    def report(self) -> str | None:
        """How the last samples compare, and which step was good; None where nobody looked."""
        return self.last.report(self.good.step)

    def facts(self) -> dict[str, str]:
        """For the card."""
        return self.last.facts()

    def _agreed(self, own: Any) -> Any:
        """What the first process says, where there are several."""
        if self.trainer.accelerator.num_processes == 1:
            return own
        (said,) = broadcast_object_list([own])
        return said

    def _is_good(self, found: Likeness, ahead: bool, error: float) -> bool:
        """Whether it is a step to go back to: one order, in which those that were seen ahead of
        their teacher at fewer calls are before all others, and the distance is next."""
        as_before = found.distance <= self.good.distance + ERRORS * error
        if ahead or self.good.leads:
            return ahead and (as_before or not self.good.leads)
        nearer = max(self.comparison.teacher.distance, self.good.distance - 1e-12)
        return as_before and found.distance <= nearer

    def _keep(self, step: int, found: Likeness, leads: bool = False) -> None:
        near = found.distance <= self.comparison.teacher.distance
        self.good = GoodStep(self._weights().take(), step, found.distance, near, leads)

    def _weights(self) -> GoodWeights:
        own, beside = self.trainer, self.trainer.auxiliaries.models
        return GoodWeights(own.model, own.average, beside, own.optimizer)

    def _step_back(self, step: int, lost: str) -> None:
        if self.warned and not self.good.weights:
            return
        self.warned = True
        done = "lower the learning rate, or raise the objective's maskings or kl, if it has these"
        if self.acts:
            self.rate *= LOWER
            self.figures.forget()
            done = f"it goes on at {self.rate:.3g} of its learning rate"
            if self.good.weights:
                self._weights().put_back(self.good.weights)
                done = f"it goes on from step {self.good.step} at {self.rate:.3g} of its rate"
            done += f", better set learning_rate below {self.trainer.args.learning_rate:g}"
        self._say(f"The student collapses: at step {step} {lost}; {done}.")

    def _end(self, step: int) -> None:
        """Give up weights whose samples are farther from the data than the teacher's, and at no
        fewer calls nearer."""
        self.comparison = self.comparison.larger()
        found, why = self._worse()
        if why is None:
            return
        trainer, good, then = self.trainer, self.good, ""
        collapsed = self.comparison.lost(found, self.share) is not None
        error = self.comparison.beyond(found)[1]
        nearer = good.leads and good.distance < found.distance - ERRORS * error
        kept = bool(self.last.ahead) and not nearer
        before = good.near or good.leads or collapsed or good.distance < found.distance
        if not kept and good.step < step and before:
            self._weights().put_back(good.weights)
            then = f"its weights are those of step {good.step} again"
            kept = good.near or good.leads
            if kept and good.step > 0:
                kept = self._worse()[1] is None or bool(self.last.ahead)
        calls = trainer.student_steps
        if kept and self.last.ahead:
            self._say(kept_for_fewer(step, calls, why, then, self.last.ahead))
            return
        if not kept and trainer.is_copy:
            self._weights().become(teacher_weights(trainer.model, trainer.teacher.networks()[0]))
            self.last = LastWord((self.last.distances[1],) * 2, is_teacher=True)
            then = "its weights are its teacher's own, and a noise input adds nothing"
        self._say(given_up(step, calls, why, then or "it is kept", kept))

    def _worse(self) -> tuple[Likeness, str | None]:
        """Samples of the student as it is, and by what it is worse than the teacher; where they are
        farther, and no collapse, fewer calls are looked at. A loss is of no number of calls."""
        found, share = self._looked_at(), self.share
        why = self.comparison.worse(found, share)
        farther = self.comparison.is_farther(found) and self.comparison.lost(found, share) is None
        why, farther = self._agreed((why, farther))
        fewer = ", ".join(map(str, self.fewer.numbers))
        if farther and fewer and not self._at_fewer():
            why = f"{why}, and nearer at no fewer calls ({fewer})"
        return found, why

    def _say(self, words: str) -> None:
        if self.trainer.is_world_process_zero():
            warnings.warn(words, stacklevel=4)

    def kept(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, so that a run that goes on takes the same steps."""
        found = {f"figures.{name}": value for name, value in self.figures.kept().items()}
        found |= {f"good.{name}": value for name, value in self.good.kept().items()}
        numbers = [self.rate, self.round, self.warned]
        found["numbers"] = torch.tensor(numbers, dtype=torch.float64)
        return {f"guard.{name}": value for name, value in found.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `kept` gave."""
        own = {k.removeprefix("guard."): v for k, v in tensors.items() if k.startswith("guard.")}
        self.rate, number, warned = own["numbers"].tolist()
        self.round, self.warned = int(number), bool(warned)
        self.figures.restore({k[8:]: v for k, v in own.items() if k.startswith("figures.")})
        self.good = GoodStep.of({k[5:]: v for k, v in own.items() if k.startswith("good.")})
