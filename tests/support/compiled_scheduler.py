"""Compiles a step of each scheduler as one graph, of the process that is named; see
`compiled_step`."""

import sys

import torch

from hf_ddistill import schedulers

K = 12
logits, x_t = torch.randn(2, 8, K), torch.full((2, 8), K - 1).index_fill(1, torch.tensor([3]), 4)

for kind in (
    schedulers.AncestralScheduler,
    schedulers.AnalyticScheduler,
    schedulers.CTMCEulerScheduler,
    schedulers.JumpScheduler,
    schedulers.TauLeapingScheduler,
):
    scheduler = kind(process={"type": sys.argv[1], "vocab_size": K}, num_inference_steps=3)

    changed = 0

    for t in map(float, scheduler.timesteps):

        def step(logits, x_t, scheduler=scheduler, t=t):
            return scheduler.step(logits, t, x_t, return_dict=False)

        torch.manual_seed(0)
        expected = step(logits, x_t)  # constants of the process are made here
        torch._dynamo.reset()
        torch.manual_seed(0)
        found = torch.compile(step, backend="eager", fullgraph=True)(logits, x_t)
        assert torch.equal(found[0], expected[0]), kind
        assert all(map(torch.allclose, found[1:], expected[1:])), kind
        changed += int((found[0] != x_t).sum())
    assert changed, kind
