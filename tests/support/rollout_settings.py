"""Objectives with other settings of their rollouts."""

from __future__ import annotations

from dataclasses import replace

from hf_ddistill.objectives import Objective


def decoding(objective, **settings):
    """An objective (an id, a configuration, or itself) with some settings of its rollouts changed,
    where it has any."""
    objective = Objective.from_config(objective)
    if objective.rollouts is None:
        return objective
    return replace(objective, rollouts=objective.rollouts.changed(settings))
