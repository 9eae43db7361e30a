"""The recording device computes what the CPU does, and misses no wait for the device."""

from __future__ import annotations

import pytest
import torch
from ddit_cases import build, tokens
from recording_device import DEVICE, RecordingDevice

from hf_ddistill import Absorbing, AncestralScheduler, DiscreteDiffusionPipeline

X = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])

WAITS = {
    "float": lambda x: float(x[0, 0]),
    "bool": lambda x: bool((x > 0).all()),
    "int": lambda x: int(x.argmax()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "copy into a CPU tensor": lambda x: torch.empty(2, 3).copy_(x),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 1),
    "Boolean index": lambda x: x[x > 1],
    "Boolean assignment": lambda x: x.clone().__setitem__(x > 1, 0.0),
    "masked_select": lambda x: x.masked_select(x > 1),
    "unique": lambda x: x.unique(),
    "repeat": lambda x: x.repeat_interleave(torch.arange(2, device=x.device), 0),
    "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x, x),
    "inverse": lambda x: torch.linalg.inv(x[:, 1:]),
    "matrix_exp": lambda x: torch.matrix_exp(x[:, 1:]),
}
COPIES = {
    "to": lambda x: torch.arange(3).to(x.device),
    "tensor": lambda x: torch.tensor([1, 2], device=x.device),
    "as_tensor": lambda x: torch.as_tensor([1, 2], device=x.device),
    "list as an index": lambda x: x[:, [0, 2]],
    "CPU index": lambda x: x[:, torch.tensor([0, 2])],
    "copy_": lambda x: x.clone().copy_(X),
}
FREE = {
    "arithmetic": lambda x: (x * 2 + x.sum()).softmax(-1),
    "a Python number": lambda x: x + 2.5,
    "a CPU number": lambda x: x * torch.tensor(0.5, dtype=torch.float64),
    "one number sent": lambda x: torch.tensor(0.5, device=x.device),
    "where": lambda x: torch.where(x > 1, x, torch.zeros_like(x)),
    "device index": lambda x: x[:, torch.arange(2, device=x.device)],
    "in place": lambda x: x.clone().add_(1)[0].mul_(2),
    "random": lambda x: torch.rand(2, 3, device=x.device).shape,
    "sort and search": lambda x: torch.searchsorted(x.sort(-1).values, x),
}


def on_device(work):
    recorder = RecordingDevice()
    with recorder:
        x = X.to(recorder.device)
        recorder.clear()
        out = work(x)
    return recorder, recorder.cpu(out)


@pytest.mark.parametrize("work", WAITS.values(), ids=WAITS)
def test_a_wait_is_counted_once_with_its_line(work):
    recorder, _ = on_device(work)
    assert recorder.reads.total() == 1, recorder.report()
    (place,) = recorder.reads
    assert place.split(":")[0].endswith("test_recording_device.py")


@pytest.mark.parametrize("work", COPIES.values(), ids=COPIES)
def test_a_copy_to_the_device_is_counted_once_and_is_no_wait(work):
    recorder, _ = on_device(work)
    assert (recorder.copies.total(), recorder.reads.total()) == (1, 0), recorder.report()


@pytest.mark.parametrize("work", FREE.values(), ids=FREE)
def test_what_stays_on_the_device_counts_as_neither(work):
    recorder, out = on_device(work)
    assert not recorder.reads and not recorder.copies, recorder.report()
    assert recorder.operations.total() > 0
    if isinstance(out, torch.Tensor):
        torch.testing.assert_close(out, work(X))


def test_tensors_of_two_devices_do_not_meet():
    with pytest.raises(RuntimeError, match="all tensors on one device"):
        on_device(lambda x: x + X)


def test_what_is_made_there_says_so():
    with RecordingDevice() as recorder:
        made = [torch.zeros(2, device=recorder.device), torch.zeros_like(X.to(recorder.device))]
    assert all(x.device == DEVICE for x in made)


def test_a_network_has_the_same_gradients_there():
    here, recorder = build(), RecordingDevice()
    here(input_ids=tokens()).logits.square().sum().backward()
    with recorder:
        there, ids = build().to(recorder.device), tokens().to(recorder.device)
        recorder.clear()
        there(input_ids=ids).logits.square().sum().backward()
    assert not recorder.reads, recorder.report()
    for a, b in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(recorder.cpu(b.grad), a.grad)


def test_a_pipeline_draws_the_same_tokens_there():
    def draw(model):
        pipe = DiscreteDiffusionPipeline(
            model=model, scheduler=AncestralScheduler(Absorbing(11).to_config()), tokenizer=None
        )
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        return pipe(batch_size=2, num_inference_steps=3, generator=generator).sequences

    recorder = RecordingDevice()
    with recorder:
        there = draw(build().to(recorder.device))
    assert recorder.operations.total() > 100
    torch.testing.assert_close(recorder.cpu(there), draw(build()))
