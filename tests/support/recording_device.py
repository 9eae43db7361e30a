"""A device that only records: what the host reads back from it, what is copied to it, what it runs.

It needs no GPU. Its tensors say that they are elsewhere and hold their numbers on the CPU, so any
code of the house runs there as it would on a GPU, and every place where the host would have to wait
is noted with its file and line:

    recorder = RecordingDevice()
    with recorder:
        model = model.to(recorder.device)          # or x.to(recorder.device)
        warm_up()                                  # what is kept per device is made here
        recorder.clear()
        work()
    assert not recorder.reads, recorder.report()

`reads`, `copies` and `operations` are Counters: of places "samplers/euler.py:41 item" where the
host waits for the device, of places where the host sends it more than one number, and of operations
by name. Everything that makes tensors must run inside the `with`; read results with
`recorder.cpu(x)`, which is not counted. Random numbers come from CPU generators, or from none.

What counts as a read is what stops a CUDA stream: `.item()` and whatever asks for it (`bool`,
`float`, `int`, `tolist`, `if tensor`), copies to the CPU, `nonzero`, Boolean indexing, `unique`,
`repeat_interleave` of unknown length, `torch.equal`, and the linear algebra that looks at its own
numbers (`inv`, `solve`, `matrix_exp`, `eig`). Mixing it with CPU tensors of more than one number
raises, as CUDA does.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

PACKAGE = Path(__file__).parents[2] / "hf_ddistill"
#: A backend of which no operation is registered in any build, and which autograd runs on the
#: calling thread.
DEVICE = torch.device("lazy", 0)

aten = torch.ops.aten
READS = {
    aten._local_scalar_dense: "item",
    aten.nonzero: "nonzero",
    aten.masked_select: "masked_select",
    aten._unique2: "unique",
    aten.unique_dim: "unique",
    aten.unique_consecutive: "unique",
    aten.equal: "equal",
    aten.allclose: "allclose",
    aten.bincount: "bincount",
    aten._linalg_check_errors: "linalg",
    aten.linalg_matrix_exp: "matrix_exp",
    aten._linalg_eigh: "eigh",
    aten.linalg_eig: "eig",
}
#: Their indices may live on the CPU, and are sent.
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class Elsewhere(torch.Tensor):
    """A tensor that says it is on the recording device; its numbers are in `held`."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        out = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        out.held = held
        return out

    def __repr__(self):
        return f"Elsewhere({self.held!r})"

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


class _Constants(TorchFunctionMode):
    """Tensors made of Python numbers, which torch would make in the device's own memory."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if function in (torch.tensor, torch.as_tensor) and _is_here(device):
            return function(*args, **{**kwargs, "device": None}).to(device)
        if function is torch.Tensor.new_tensor and isinstance(args[0], Elsewhere):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(DEVICE)
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(x) if isinstance(x, list) else x for x in index)
            args = (args[0], index, *args[2:])
        return function(*args, **kwargs)


class RecordingDevice(TorchDispatchMode):
    """While it is active, records what tensors on its `device` make the host do.

    Args:
        within: a folder; a place is named by the innermost line of a file in it, or where there is
            none by the innermost line outside torch.
    """

    device = DEVICE

    def __init__(self, within=PACKAGE):
        super().__init__()
        self.within, self._constants = str(within), _Constants()
        self.clear()

    def __enter__(self):
        self._constants.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._constants.__exit__(*error)

    def clear(self):
        """Forget what was recorded."""
        self.reads, self.copies, self.operations = Counter(), Counter(), Counter()

    def report(self):
        """All reads and copies, the most frequent first."""
        kinds = (("reads", self.reads), ("copies", self.copies))
        return "\n".join(
            f"{name}: {counts.total()}\n"
            + "".join(f"  {n} {at}\n" for at, n in counts.most_common())
            for name, counts in kinds
        )

    def cpu(self, x):
        """The numbers of a tensor, not counted."""
        return held(x)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {}, self)

    def read(self, what):
        """Note a read."""
        self.reads[f"{self._place()} {what}"] += 1

    def copied(self, what):
        """Note a copy."""
        self.copies[f"{self._place()} {what}"] += 1

    def _place(self):
        frame, torchs, fallback = sys._getframe(2), str(Path(torch.__file__).parent), None
        while frame is not None:
            name = frame.f_code.co_filename
            if name.startswith(self.within):
                return f"{name[len(self.within) + 1 :]}:{frame.f_lineno}"
            if fallback is None and not name.startswith((torchs, __file__)):
                fallback = f"{name}:{frame.f_lineno}"
            frame = frame.f_back
        return fallback


def held(x):
    """What a tensor of the device holds; anything else as it is."""
    return x.held if isinstance(x, Elsewhere) else x


def _is_here(device):
    return device is not None and torch.device(device).type == DEVICE.type


def run(function, args, kwargs, recorder=None):
    """One operation, on what its tensors hold."""
    tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)]
    here = [x for x in tensors if not isinstance(x, Elsewhere)]
    target, packet = kwargs.get("device"), function.overloadpacket
    leaves = target is not None and not _is_here(target)
    moved = packet in (aten._to_copy, aten.copy_, aten._copy_from)
    if target is not None and not leaves:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if len(here) == len(tensors) and (target is None or leaves):
        return function(*args, **kwargs)
    if not (moved or packet in INDEXED) and any(x.ndim for x in here):
        raise RuntimeError(
            f"{function}: expected all tensors on one device, got some on the CPU and some on "
            f"{DEVICE}."
        )
    inner = tree_map(held, (args, kwargs))
    if recorder is not None:
        record(recorder, packet, tensors, inner, leaves)
    out = function(*inner[0], **inner[1])
    if (moved and leaves) or (packet is aten.copy_ and not isinstance(args[0], Elsewhere)):
        return args[0] if packet is aten.copy_ else out
    return wrapped(function, args, kwargs, out)


def record(recorder, packet, tensors, inner, leaves):
    """Note what an operation makes the host do."""
    recorder.operations[packet.__name__] += 1
    sent = [x for x in tensors if not isinstance(x, Elsewhere) and x.numel() > 1]
    if packet in READS:
        recorder.read(READS[packet])
    elif packet is aten.repeat_interleave and inner[1].get("output_size") is None:
        recorder.read("repeat_interleave")
    elif packet is aten._to_copy:
        if leaves:
            recorder.read("to the CPU")
        elif sent:
            recorder.copied("to the device")
    elif packet is aten.copy_ and not isinstance(tensors[0], Elsewhere):
        recorder.read("to the CPU")
    elif packet in INDEXED:
        flags = (torch.bool, torch.uint8)
        if any(x is not None and x.dtype in flags for x in inner[0][1]):
            recorder.read("Boolean indexing")
        if sent:
            recorder.copied("indices")
    elif sent:
        recorder.copied("to the device")


def wrapped(function, args, kwargs, out):
    """What came out, on the device; what was changed in place, as the tensor that was given."""
    if "out" in kwargs:
        return kwargs["out"]
    returns = function._schema.returns
    if returns and returns[0].alias_info is not None and returns[0].alias_info.is_write:
        return args[0]
    return tree_map(lambda x: Elsewhere(x) if isinstance(x, torch.Tensor) else x, out)
