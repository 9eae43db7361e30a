"""Several students that share a task, as one model that is saved, shared and opened as any other.

p(x_0 | x_t) = p_k(x_0 | x_t),   k the student that owns the row: its time, or its class
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM
from transformers.modeling_outputs import MaskedLMOutput
from transformers.modeling_utils import PreTrainedModel

from hf_ddistill.denoisers import Classes, Intervals, Parted
from hf_ddistill.models.as_denoiser import as_denoiser, diffusion_entry, sampler_of
from hf_ddistill.models.block_diffusion.modeling_block_diffusion import BlockDiffusionLM
from hf_ddistill.models.held import Held
from hf_ddistill.models.parted.configuration_parted import SHARED, PartedLMConfig
from hf_ddistill.places import Places


class PartedLM(PreTrainedModel):
    """
    Students that were trained each for its own times or its own classes (`denoisers.Parted`), in
    one folder. Its logits are log-probabilities, however each student's own are read.

    Args:
        config (`PartedLMConfig`): with those of the students.
        parts (`Sequence[PreTrainedModel]`, *optional*): the students, taken over as they are; new
            ones by their configurations if not given.
    """

    config: PartedLMConfig
    config_class = PartedLMConfig
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(
        self, config: PartedLMConfig, parts: Sequence[PreTrainedModel] | None = None
    ) -> None:
        super().__init__(config)
        if parts is None:
            known = [AutoConfig.for_model(**about) for about in config.parts]
            parts = [AutoModelForMaskedLM.from_config(about) for about in known]
        # Not in a list, in which transformers looks for no tied weights.
        for number, part in enumerate(parts):
            self.add_module(f"part_{number}", part)
        self._parted: Parted | None = None
        self.post_init()

    @classmethod
    def of(cls, students: Sequence[PreTrainedModel], owners: Intervals | Classes) -> Self:
        """One model of students, which are taken over as they are, to be sampled as they are, in
        as many calls as the first one says.

        Args:
            students: of one vocabulary, process and noise input, and of the same special tokens.
            owners: who owns a row; one for each student.

        Raises:
            ValueError: if they do not go together.
        """
        _check(students)
        if isinstance(owners, Classes):
            _check_classes(students, owners)
        parted = Parted(tuple(map(as_denoiser, students)), owners)
        first = students[0].config
        shared = {name: getattr(first, name) for name in SHARED if hasattr(first, name)}
        read = "subs" if parted.diffusion.reveals else "conditional"
        about = {**diffusion_entry(first), "parameterization": read}
        owned = (
            {"bounds": list(owners.bounds)}
            if isinstance(owners, Intervals)
            else {"groups": [list(group) for group in owners.groups]}
        )
        parts = [each.config.to_dict() for each in students]
        owned["reads_time"] = "t" if parted.needs_time else None
        config = PartedLMConfig(parts=parts, **owned, **shared, discrete_diffusion=about)
        return cls(config, students)

    @property
    def parts(self) -> tuple[PreTrainedModel, ...]:
        """The students."""
        return tuple(getattr(self, f"part_{k}") for k in range(len(self.config.parts)))

    @property
    def denoiser(self) -> Parted:
        """The students as one denoiser."""
        if self._parted is None:
            config = self.config
            owners = (
                Intervals(tuple(config.bounds))
                if config.bounds is not None
                else Classes(tuple(map(tuple, config.groups)))
            )
            self._parted = Parted(tuple(map(as_denoiser, self.parts)), owners)
        return self._parted

    def get_input_embeddings(self) -> nn.Module:
        """Those of the first student."""
        return self.parts[0].get_input_embeddings()

    def forward(
        self,
        input_ids: Tensor,
        timesteps: Tensor | None = None,
        attention_mask: Tensor | None = None,
        class_labels: Tensor | None = None,
        noise: Tensor | None = None,
        at: Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`): x_t.
            timesteps (`torch.FloatTensor` of shape `(batch_size,)`): t in [0, 1].
            attention_mask (`torch.Tensor` of the shape of `input_ids`, *optional*): 0 at padding.
            class_labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*): the classes.
            noise (`torch.FloatTensor`, *optional*): of students that take some.
            at (`torch.LongTensor` of shape `(n,)`, *optional*): positions row * length + position
                that are asked for alone.

        Returns:
            `logits`, log p(x_0 | x_t), of shape `(batch_size, length, vocab_size)`, or
            `(n, vocab_size)` at the positions of `at`.

        Raises:
            ValueError: without a time, or for a class that no student owns.
        """
        given = {"attention_mask": attention_mask, "class_labels": class_labels, "noise": noise}
        given = {name: value for name, value in given.items() if value is not None}
        if at is None:
            said = self.denoiser(input_ids, timesteps, **given).log_conditional
            return MaskedLMOutput(logits=said)
        places = Places(at, tuple(input_ids.shape))
        said = self.denoiser.at(input_ids, timesteps, places, **given).log_conditional
        return MaskedLMOutput(logits=said.squeeze(1))


def _check(students: Sequence[PreTrainedModel]) -> None:
    if len(students) < 2:
        raise ValueError(f"Students share a task from two on, got {len(students)}.")
    for each in students:
        if isinstance(each, BlockDiffusionLM):
            raise ValueError(
                "A BlockDiffusionLM decodes in blocks, each at all times: it shares no task with "
                "others by times or classes of whole rows."
            )
    held = [Held.of(each.config) for each in students]
    if any(each != held[0] for each in held):
        raise ValueError(f"Students must hold the same special tokens, got {held}.")
    samplers = [sampler_of(each) for each in students]
    if any(each != samplers[0] for each in samplers):
        named = ", ".join(str(each.to_config()) for each in samplers)
        raise ValueError(
            f"Students that share a task are sampled by one sampler, and these were trained for "
            f"several: {named}; hf_ddistill.models.enter_sampler gives a student another one."
        )


def _check_classes(students: Sequence[PreTrainedModel], owners: Classes) -> None:
    """Raise for a class that a student does not know."""
    for student, group in zip(students, owners.groups, strict=False):
        known = getattr(student.config, "num_classes", 0) or 0
        if max(group) >= known:
            raise ValueError(
                f"A student that is to own the classes {list(group)} knows {known}: classes are "
                "numbered from 0, and its num_classes must be above them."
            )


__all__ = ["PartedLM"]
