"""Trainable copies of a teacher: the student where there is no other, and auxiliaries."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.linalg.keyed_noise import keyed_generator
from hf_ddistill.models import NoisedMaskedLM, keep_layers, round_weights, unwrapped
from hf_ddistill.models.as_denoiser import trainable
from hf_ddistill.models.noise_input import noise_input_of, with_noise_input
from hf_ddistill.training.arguments import DiscreteDistillationConfig
from hf_ddistill.training.noise_strength import FIRST


def student_of(
    model: nn.Module | None, teacher: object, args: DiscreteDistillationConfig, adapted: bool
) -> nn.Module:
    """The model that was given, or a copy of the teacher; with `args.noise_dim`, if it is above 0.

    Args:
        model: the one that was given.
        teacher: to be copied if there is none.
        args: settings.
        adapted: whether adapters will be trained, to which a noise input belongs, of a model that
            was given, too.

    Raises:
        ValueError: without a model that could be copied, or if the noise input that is asked for
            cannot be had.
    """
    copied = model is None
    for name, made in (("student_layers", "keep_layers"), ("student_bits", "round_weights")):
        if getattr(args, name) and not copied:
            raise ValueError(
                f"{name}={getattr(args, name)} is of a copy of the teacher; leave out model=, or "
                f"make it smaller with hf_ddistill.models.{made}."
            )
    if copied:
        model = _student_from(teacher)
        if args.student_layers:
            model = keep_layers(model, args.student_layers)
        if args.student_bits:
            model = round_weights(model, args.student_bits)
    asked, own = args.noise_dim, getattr(unwrapped(model).config, "noise_dim", 0)
    if asked in (0, own):
        return model
    if own or not (copied or adapted):
        raise ValueError(
            f"noise_dim={asked} was asked for, but the student has noise_dim={own}; leave out "
            "noise_dim to train it as it is, or model= for a copy of a teacher without noise."
        )
    model = with_noise_input(model, asked)
    _drawn(noise_input_of(model), args.noise_std or FIRST, args.seed)
    return model


def teacher_weights(student: nn.Module, teacher: nn.Module) -> list[Tensor]:
    """The weights, in the order of its own, with which a copy of a teacher is the teacher again,
    whatever noise it is given: the teacher's, and 0 where it has none, in the noise input.

    Args:
        student: a copy (`student_of`) with all layers of it.
        teacher: of which it is one.
    """
    student, teacher = unwrapped(student), unwrapped(teacher)
    around = isinstance(student, NoisedMaskedLM) and not isinstance(teacher, NoisedMaskedLM)
    prefix, own = "lm." if around else "", dict(teacher.named_parameters())
    return [
        own.get(name.removeprefix(prefix), torch.zeros_like(weight)).detach()
        for name, weight in student.named_parameters()
    ]


def denoiser_copy(source: Denoiser, what: str, seed: int) -> Denoiser:
    """The trainable copy that an auxiliary starts as, in train mode: adapters of its own, if the
    source is trained by adapters.

    Args:
        source: of the copy.
        what: it is, for errors.
        seed: of new adapters.
    """
    _check_is_of_models(source, what)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(keyed_generator(seed, "adapters", what).initial_seed())
        copied = source.adapted_copy()
    for network in copied.networks():
        network.train()
        config = getattr(unwrapped(network), "config", None)
        if copied.latent is None and getattr(config, "noise_dim", 0):
            # The base of a student with a noise input, asked without: it would have no gradient,
            # and a sharded optimizer that has no moments of a weight cannot be loaded.
            noise_input_of(unwrapped(network)).requires_grad_(False)
    return copied


def _student_from(teacher: object) -> nn.Module:
    """A trainable copy of a model, as it is, or the one that a denoiser starts a student as."""
    if isinstance(teacher, nn.Module):
        return trainable(copy.deepcopy(teacher))
    _check_is_of_models(teacher, "Without a model, the student")
    (model,) = teacher.trainable_copy().networks()
    return model


def _check_is_of_models(teacher: object, what: str) -> None:
    got = teacher.description if isinstance(teacher, Denoiser) else type(teacher).__name__
    if not isinstance(teacher, Denoiser) or not teacher.networks():
        raise ValueError(
            f"{what} is a copy of the teacher, so the teacher must be a model, or a denoiser "
            f"of one (as_denoiser); got {got}."
        )


@torch.no_grad()
def _drawn(projection: nn.Linear, std: float, seed: int) -> nn.Linear:
    """A projection of noise whose output has variance std^2 in each channel."""
    width, dim = projection.weight.shape
    drawn = torch.randn((width, dim), generator=keyed_generator(seed, "noise input"))
    projection.weight.copy_(drawn * std * dim**-0.5)
    return projection
