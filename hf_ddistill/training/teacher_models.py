"""What may be given as a teacher, and the model that it becomes."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.peft_utils import find_adapter_config_file

from hf_ddistill.denoisers import Denoiser, Ensemble
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import (
    BlockDiffusionLM,
    as_causal_teacher,
    as_denoiser,
    check_name,
    check_same_tokens,
    load_checkpoint,
    load_config,
    unwrapped,
)
from hf_ddistill.models.causal_kind import is_causal, is_causal_config
from hf_ddistill.models.opening import MODEL_FILES, open_model
from hf_ddistill.training.model_card import is_repo_id
from hf_ddistill.training.sharding import placed_teacher

_NAMELESS = "a teacher in memory"


def teacher_model(
    teacher: object, student: object, tokenizer: PreTrainedTokenizerBase | None
) -> object:
    """The teacher itself; a name is loaded, several become an `Ensemble`, and a causal language
    model comes in the vocabulary of its block-diffusion student.

    Args:
        teacher: a model, its name, a denoiser, a list of these, or None.
        student: a model or None.
        tokenizer: the student's, which must be that of a teacher that is loaded by its name.

    Raises:
        ValueError: for a causal teacher without a block-diffusion student, among several, or with
            another tokenizer (with the first token that differs); for several that do not go
            together.
    """
    if isinstance(teacher, list | tuple):
        members = [teacher_model(each, student, tokenizer) for each in teacher]
        return Ensemble(tuple(_member(each, tokenizer) for each in members))
    if isinstance(teacher, str):
        if isinstance(tokenizer, PreTrainedTokenizerBase) and _has_tokenizer(teacher):
            check_same_tokens(AutoTokenizer.from_pretrained(teacher), tokenizer)
        teacher = _loaded(teacher)
    if not is_causal(teacher):
        return teacher
    inner = unwrapped(student) if isinstance(student, nn.Module) else student
    if not isinstance(inner, BlockDiffusionLM):
        got = "no model" if inner is None else type(inner).__name__
        raise ValueError(
            f"{type(teacher).__name__} is a causal language model: its student is a "
            f"BlockDiffusionLM (to_block_diffusion makes one of it), got {got}."
        )
    return as_causal_teacher(teacher, inner.config)


def _member(teacher: object, tokenizer: object) -> Denoiser:
    if isinstance(teacher, PreTrainedModel) and not is_causal(teacher):
        return as_denoiser(teacher.eval().requires_grad_(False), tokenizer=tokenizer)
    if isinstance(teacher, Denoiser):
        return teacher
    raise ValueError(
        f"Several teachers are averaged as denoisers, and {type(teacher).__name__} is none; give "
        "masked or diffusion models, their names, or denoisers."
    )


def placed(teacher: Denoiser, accelerator: Accelerator, trained: nn.Module) -> Denoiser:
    """A denoiser with its networks frozen, in eval mode, where the process computes.

    Args:
        teacher: any.
        accelerator: of the training.
        trained: the student, which is placed as such and left out here.
    """
    ready: dict[nn.Module, nn.Module] = {}
    for network in teacher.networks():
        if unwrapped(network) is unwrapped(trained):
            ready[network] = network
        elif network not in ready:
            ready[network] = placed_teacher(network.eval().requires_grad_(False), accelerator)
    return teacher.with_networks([ready[network] for network in teacher.networks()])


def teacher_name(teacher: Denoiser) -> str:
    """What its networks are called, for the card, with a plus between the names of several."""
    names = []
    for network in teacher.networks():
        name = getattr(getattr(unwrapped(network), "config", None), "name_or_path", "")
        # The path of a folder says nothing to others.
        name = name if is_repo_id(name) else Path(name).name
        names.append(name or _NAMELESS)
    return " + ".join(names) or _NAMELESS


def agreed(model: nn.Module, teacher: Denoiser, given: Diffusion | None) -> Diffusion:
    """The diffusion of both; a student that says nothing takes on the teacher's.

    Raises:
        ValueError: if they differ in vocabulary, process or schedule.
    """
    entry = getattr(unwrapped(model).config, "discrete_diffusion", None)
    student = given or (Diffusion.from_config(entry) if entry else teacher.diffusion)
    if student.vocab_size != teacher.diffusion.vocab_size:
        raise ValueError(
            f"The student has vocab_size={student.vocab_size} and the teacher "
            f"{teacher.diffusion.vocab_size}: they must share one vocabulary."
        )
    if student != teacher.diffusion:
        raise ValueError(
            f"The student was set up for {student.to_config()} and the teacher for "
            f"{teacher.diffusion.to_config()}: they must share one process and schedule."
        )
    return student


def _loaded(name: str) -> PreTrainedModel:
    """A teacher by its name; adapters are opened by what their base is."""
    check_name(name, files=MODEL_FILES)
    if find_adapter_config_file(name) is not None:
        return open_model(name)
    if is_causal_config(load_config(name), name):
        return load_checkpoint(AutoModelForCausalLM, name)
    return open_model(name)


def _has_tokenizer(name: str) -> bool:
    folder = Path(name)
    return not folder.is_dir() or any(folder.glob("tokenizer*"))
