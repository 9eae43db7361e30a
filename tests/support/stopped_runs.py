"""Runs that end at a step."""

from __future__ import annotations

from training_runs import At


def end_at(step):
    """A callback that ends the run after a step; what is saved is as the settings say."""

    def end(state, control):
        control.should_training_stop |= state.global_step == step

    return At("on_step_end", end)
