"""Samples of a student in training beside those of its teacher, at the same calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hf_ddistill.denoisers import Denoiser, Latent
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import asked_at_the_end
from hf_ddistill.linalg.keyed_noise import keyed_generator
from hf_ddistill.models import BlockDiffusionLM, unwrapped
from hf_ddistill.samplers import Canvas
from hf_ddistill.shapes import Generators, Tokens
from hf_ddistill.training.clean_tokens import trained_in
from hf_ddistill.training.held_out import EVALUATION
from hf_ddistill.training.likeness import Likeness, Rows, likeness
from hf_ddistill.training.rows_of_data import batches_of, rows_of

#: Samples, at least and at most, network calls for all of them together, and rows of the data
#: beside them; a run of few rows is compared by fewer, so many of its rows for one, but in the end.
LEAST, MOST, CALLS, MOST_DATA, SHARE = 16, 64, 256, 256, 20
#: Steps of a run that is worth it.
FEWEST = 10
#: Times as many after the last step.
LARGER = 4
#: Standard errors beyond which a student is worse then.
END_ERRORS = 1.0
#: The first step at which samples are drawn, then twice as many, and every so many of all.
FIRST, TENTHS = 10, 10
#: Groups of the rows of each batch, whose losses tell how much they spread.
PARTS = 8


@dataclass(frozen=True)
class _Apart(Latent):
    """A noise input that is drawn by itself, so that a student that has one draws its tokens with
    the same noise as a teacher that has none."""

    generator: torch.Generator | None = None

    def draw(self, x_t: Tokens, diffusion: Diffusion, generator: Generators = None) -> Tensor:
        return super().draw(x_t, diffusion, self.generator)


@dataclass(frozen=True)
class Comparison:
    """Samples for rows of the data (those held out where there are any): behind the same context,
    of the same lengths and classes, with the same noise for both.

    Args:
        trainer: a `DiscreteDistillationTrainer`.
        batches: what is sampled for.
        data: rows of the data.
        of_data: they beside themselves.
        teacher: the samples of the teacher beside the data.
        calls: of both for a sample.
        times: as many rows as usual.
    """

    trainer: Any
    batches: tuple[Mapping[str, Tensor], ...]
    data: Rows
    of_data: Likeness
    teacher: Likeness
    calls: int
    times: int = 1

    @classmethod
    def of(cls, trainer: Any, times: int = 1, calls: int | None = None) -> Comparison | None:
        """That of a training, at `student_steps` calls if not said; None where the student decodes
        blocks, the data have but one row, or there are so few steps that nothing can be lost."""
        blocks = isinstance(unwrapped(trainer.model), BlockDiffusionLM)
        if blocks or trainer.state.max_steps < FEWEST:
            return None
        rows = rows_of(trainer, MOST_DATA * times)
        args = trainer.args
        trained = trainer.state.max_steps * args.train_batch_size * args.gradient_accumulation_steps
        share = SHARE if times == 1 else 1
        calls = calls or trainer.student_steps
        most = min(MOST * times, CALLS * times // calls, trained // share)
        count = max(LEAST, most)
        given = trainer.args.prompt_length
        size = args.train_batch_size
        parts = batches_of(trainer, rows, size)
        data = _joined([(b["input_ids"], trained_in(b, given)) for b in parts])
        if len(data.tokens) < 2:
            return None
        # Rows of small data are sampled for again, with other noise.
        chosen = [rows[i * len(rows) // count] for i in range(count)]
        batches = batches_of(trainer, chosen, size)
        of_data = likeness(data, data, trainer.diffusion.vocab_size)
        made = cls(trainer, batches, data, of_data, of_data, calls, times)
        return replace(made, teacher=made._drawn(trainer.teacher))

    def larger(self) -> Comparison:
        """The same with more rows."""
        return type(self).of(self.trainer, self.times * LARGER)

    def student(self) -> Likeness:
        """The samples of the student with the weights that would be saved."""
        model = unwrapped(self.trainer.model, keep_adapters=True)
        with self.trainer.averaged_weights():
            return self._drawn(self.trainer.denoiser(model))

    def lost(self, found: Likeness, share: float) -> str | None:
        """The first figure that is below a share of what it is held against, as a clause."""
        names = {
            "entropy": "an entropy of {:.4g} nats per token",
            "spread": "a spread of {:.4g} nats per position",
            "likeness": "a likeness to the data of {:.4g}",
        }
        for name, (own, reference) in found.shares(self.teacher, self.of_data).items():
            if own < share * reference:
                return (
                    f"its samples have {names[name].format(own)}, below {share:g} of the "
                    f"{reference:.4g} of the teacher's at the same calls"
                )
        return None

    def beyond(self, found: Likeness) -> tuple[float, float]:
        """How much farther from the data the student is in the end, and the standard error of it:
        where it is known to have started worse, less has to be seen."""
        return found.beyond(self.teacher, paired=self.is_noisier)

    def is_farther(self, found: Likeness) -> bool:
        """Whether that is more than a standard error."""
        beyond, error = self.beyond(found)
        return beyond > END_ERRORS * error

    @property
    def is_noisier(self) -> bool:
        """Whether the student has got a noise input that its teacher has not."""
        return self.trainer.denoiser().latent != self.trainer.teacher.latent

    def worse(self, found: Likeness, share: float) -> str | None:
        """By what the student is worse than its teacher in the end, as a clause: what `lost` says;
        farther from the data by a standard error; or, where it is not nearer by one either, the
        student's loss, where that is a distance from the teacher and it started as it."""
        trainer, why = self.trainer, self.lost(found, share)
        beyond, error = self.beyond(found)
        if why is None and self.is_farther(found):
            return f"they are farther from the data by {beyond:.3g} +- {error:.2g}"
        tells = trainer.is_copy and trainer._objective.matches_conditionals
        if why is None and tells and beyond > -END_ERRORS * error:
            higher, error = self.loss_beyond()
            if higher > END_ERRORS * error:
                return (
                    f"no nearer to the data, at a loss that is {higher:.3g} +- {error:.2g} higher"
                )
        return why

    @torch.no_grad()
    def loss_beyond(self) -> tuple[float, float]:
        """How much higher the student's loss is, with the weights that would be saved, than the
        teacher's would be in its place, on the same rows and with the same noise, and the standard
        error of it."""
        trainer = self.trainer
        model = unwrapped(trainer.model, keep_adapters=True)
        training, found = model.training, []
        model.eval()
        with torch.random.fork_rng(devices=[]), trainer.averaged_weights(), asked_at_the_end():
            for inputs in self.batches:
                for rows in torch.arange(len(inputs["input_ids"])).chunk(PARTS):
                    some = {name: value[rows.to(value.device)] for name, value in inputs.items()}
                    losses = []
                    for asked in (trainer.denoiser(model), trainer.teacher):
                        # A record for each: its noise is used up.
                        record = trainer.training_record(model, some, EVALUATION)
                        with trainer.compute_loss_context_manager():
                            loss = trainer._objective(replace(record, student=asked))["student"]
                        losses.append(float(loss))
                    found.append(losses[0] - losses[1])
        model.train(training)
        trainer.auxiliaries.train(training)
        differences = torch.tensor(found, dtype=torch.float64)
        return float(differences.mean()), float(differences.std()) / len(found) ** 0.5

    @torch.no_grad()
    def _drawn(self, denoiser: Denoiser) -> Likeness:
        trainer, drawn = self.trainer, []
        model = unwrapped(trainer.model, keep_adapters=True)
        training = model.training
        model.eval()
        sampler = trainer._objective.sampler
        with torch.random.fork_rng(devices=[]), trainer.compute_loss_context_manager():
            for number, inputs in enumerate(self.batches):
                given = dict(inputs)
                x_0 = given.pop("input_ids")
                given.pop("labels", None)
                infill = trained_in(inputs, trainer.args.prompt_length)
                noise, apart = (
                    keyed_generator(trainer.args.seed, name, number, device=x_0.device)
                    for name in ("guard", "guard latent")
                )
                own = denoiser
                if own.latent is not None:
                    own = replace(own, latent=_Apart(own.latent.dim, own.latent.per, apart))
                canvas = Canvas(x_0, infill)
                drawn.append((sampler.sample(own, canvas, self.calls, noise, **given), infill))
        model.train(training)
        return likeness(_joined(drawn), self.data, trainer.diffusion.vocab_size)


def is_looked_at(step: int, last: int) -> bool:
    """Whether samples are drawn after a step: 10, 20, 40, ... and each tenth of all."""
    doubled = step
    while doubled > FIRST and doubled % 2 == 0:
        doubled //= 2
    tenth = max(FIRST, last // TENTHS)
    return doubled == FIRST or step % tenth == 0


def _joined(parts: list[tuple[Tensor, Tensor]]) -> Rows:
    """Rows of batches that may differ in length, on the CPU."""
    rows = [Rows(tokens.cpu(), where.cpu()) for tokens, where in parts]
    length = max(each.tokens.shape[1] for each in rows)
    rows = [each.padded(length) for each in rows]
    return Rows(torch.cat([r.tokens for r in rows]), torch.cat([r.where for r in rows]))
