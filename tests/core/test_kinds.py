"""Settings of members of families that hold another kind of thing than they take."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from jaxtyping import config

import hf_ddistill.convert
import hf_ddistill.evaluation  # noqa: F401  families in them
from hf_ddistill.configurable import Configurable
from hf_ddistill.kinds import of_their_kinds
from hf_ddistill.objectives import Objective, Rollouts
from hf_ddistill.objectives.blocks.posterior_target import PosteriorTarget
from hf_ddistill.samplers import Sampler
from hf_ddistill.training import DiscreteDistillationConfig

WRONG = {
    "int": ["x", 2.5, math.nan, True, [1], {}],
    "float": ["x", math.nan, math.inf, -math.inf, False, [1.0], {}],
    "bool": ["no", 0, 1.0, [], None],
    "str": [1, None, ["a"], {}],
}
#: What a member asks for before it is whole.
NEEDED = {"general": {"matrix": [[-1.0, 1.0], [1.0, -1.0]]}}


@pytest.fixture(autouse=True)
def as_users_have_it():
    """Without the checks of annotations, which are of these tests and come before ours."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def plain_settings():
    for family in Configurable.__subclasses__():
        for name, cls in family.registry.items():
            ours = cls.__module__.startswith("hf_ddistill.")
            for field in dataclasses.fields(cls) if ours else ():
                kind = str(field.type).removesuffix(" | None")
                if kind in WRONG:
                    yield pytest.param(cls, field, kind, id=f"{family.family}-{name}-{field.name}")


def rest_of(cls):
    """The settings that a member has no default for."""
    given = {
        each.name: 8
        for each in dataclasses.fields(cls)
        if (each.default, each.default_factory) == (dataclasses.MISSING,) * 2
    }
    return given | NEEDED.get(cls.id, {})


@pytest.mark.parametrize(("cls", "field", "kind"), list(plain_settings()))
def test_a_setting_of_another_kind_is_taken_or_told_without_its_name(cls, field, kind):
    for value in WRONG[kind]:
        if value is None and str(field.type).endswith("None"):
            continue
        if cls.unbounded and isinstance(value, float) and math.isinf(value):
            continue
        with pytest.raises(ValueError, match=rf"\b{field.name}\b") as told:
            cls(**rest_of(cls) | {field.name: value})
        assert "\n" not in str(told.value)


SIZED = [
    each
    for each in plain_settings()
    if each.values[2] == "float" and each.values[0].sized and not each.values[0].unbounded
]


@pytest.mark.parametrize(("cls", "field", "kind"), SIZED)
def test_a_loss_is_nan_in_step_0_by_the_size_of_a_setting(cls, field, kind):
    for size in (1e300, 1e20, 10**400, 1e-300):
        for value in (size, -size):
            with pytest.raises(ValueError, match=rf"\b{field.name}\b") as told:
                cls(**rest_of(cls) | {field.name: value})
            assert "\n" not in str(told.value)


@pytest.mark.parametrize("value", [1e300, math.inf, math.nan])
@pytest.mark.parametrize("name", ["noise_std", "auxiliary_learning_rate", "auxiliary_lag"])
def test_a_trainers_setting_has_no_upper_end(name, value):
    with pytest.raises(ValueError, match=name):
        DiscreteDistillationConfig("", noise_dim=1, **{name: value})


def test_a_size_in_a_list_or_a_part_is_not_looked_at():
    for given, name in [
        ({"type": "d2f", "masks": [1e-300, 1.0]}, "masks of D2F"),
        (
            {"type": "ecd", "weighting": {"type": "entropy", "strength": 1e38}},
            "strength of Entropy",
        ),
        ({"type": "opdlm", "rollouts": {"temperature": 1e-40}}, "temperature of Rollouts"),
    ]:
        with pytest.raises(ValueError, match=f"{name}.* must be 0 or from 1e-12 to 1e.12 in size"):
            Objective.from_config(given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"type": "d2f", "masks": 0.3}, "masks of D2F must be a list of numbers, got 0.3"),
        ({"type": "d2f", "masks": [0.3, "x"]}, "masks of D2F must be a list of numbers"),
        ({"type": "opdlm", "rollouts": {"tokens": 2.0}}, "tokens of Rollouts must be an integer"),
        ({"type": "opdlm", "target": {"candidates": "all"}}, "candidates of PosteriorTarget must"),
        ({"type": "d2f", "hints": {"sees": "half"}}, "sees of Hints must be a number, got 'half'"),
        ({"type": "t3d", "masks": {"ratios": 1}}, "ratios of DecidedMasks must be a list of num"),
        ({"type": "t3d", "masks": {"exponent": math.inf}}, "exponent of DecidedMasks must be fin"),
        ({"type": "law_matching", "sampler": {"type": "psi", "kappa": "x"}}, "kappa of Psi must"),
    ],
)
def test_a_kind_within_what_an_objective_is_made_of_is_not_looked_at(given, says):
    with pytest.raises(ValueError, match=says):
        Objective.from_config(given)


@pytest.mark.parametrize(
    "given",
    [
        {"type": "ecd", "top_k": 0},
        {"type": "d2f", "block_size": 0},
        {"type": "cdlm", "block_size": -4},
        {"type": "dparallel", "block_size": 0},
    ],
)
def test_a_size_below_one_is_told_in_the_first_step_of_training(given):
    with pytest.raises(ValueError, match="must be at least 1"):
        Objective.from_config(given)


def test_numbers_of_numpy_and_torch_are_refused_or_end_a_saving():
    made = Objective.from_config({"type": "imdm", "teacher_steps": np.int64(4)})
    assert json.loads(json.dumps(made.to_config()))["teacher_steps"] == 4
    assert Sampler.from_config({"type": "psi", "between": np.array([0.25, 1.0])}).between == (
        0.25,
        1.0,
    )
    assert PosteriorTarget(torch.tensor(3)).candidates == 3
    assert Rollouts(temperature=np.float32(0.5)).temperature == 0.5


def test_a_class_with_types_in_place_of_their_names_is_not_looked_at():
    @dataclasses.dataclass(frozen=True)
    class Own:
        count: int
        # What a module without `from __future__ import annotations` has.
        __annotations__ = {"count": int}

        @of_their_kinds
        def __post_init__(self):
            pass

    assert Own(3).count == 3
    with pytest.raises(ValueError, match="count of Own must be an integer, got 'x'"):
        Own("x")
