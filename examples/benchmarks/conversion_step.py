"""What one step of on-policy conversion to block diffusion (`opdlm`) costs: floating-point
operations and memory, from the shape of the causal language model alone.

A multiply-add is two operations; only matrix products count. d width, f inner width, h heads of
which k have keys, D their width, V vocabulary; B rows, P prompt, b block size, c calls per block; L
= P and the new tokens in whole blocks, N masked tokens of the batch; e bytes of a computed number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from text_shape import TextShape

#: Bytes for each of the N V numbers of the loss where it needs most: log p of the teacher and of
#: the student, and three temporaries of the forward KL, float32.
LOSS_BYTES = 20


@dataclass(frozen=True)
class ConversionStep:
    """One optimizer step without accumulation, as one process does it.

    Args:
        shape: of the model.
        rows: B, prompts of the process.
        prompt: P, tokens.
        new: tokens of a rollout.
        block_size: b.
        calls: c, mean over the blocks of the calls that the slowest row of the batch needs; b (one
            token a call) if not given.
        masked: N; if not given what equal calls give on average, B new (c + 1) / (2 c).
        shift: whether the head is shifted.
        lora: rank of adapters on all matrices of the layers, whose base is the teacher; None for
            full fine-tuning beside a frozen teacher.
        checkpointing: whether each layer is computed again in the backward pass.
        number: e; 2 for bfloat16.
        adapter_number: bytes of an adapter's number in the computation; e if not given. (PEFT keeps
            them in float32 beside a bfloat16 base, and their inputs with them; under FSDP2's mixed
            precision they are computed in bfloat16.)
    """

    shape: TextShape
    rows: int
    prompt: int
    new: int
    block_size: int = 4
    calls: float | None = None
    masked: float | None = None
    shift: bool = False
    lora: int | None = None
    checkpointing: bool = False
    number: int = 2
    adapter_number: int | None = None

    def __post_init__(self) -> None:
        for name in ("rows", "new", "block_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.calls is not None and not 1 <= self.calls <= self.block_size:
            raise ValueError(
                f"calls={self.calls}: a block of {self.block_size} tokens takes 1 to "
                f"{self.block_size} calls."
            )

    @property
    def columns(self) -> int:
        """L, columns of a finished row."""
        return math.ceil((self.prompt + self.new) / self.block_size) * self.block_size

    @property
    def calls_per_block(self) -> float:
        """c."""
        return self.block_size if self.calls is None else self.calls

    @property
    def masked_tokens(self) -> float:
        """N."""
        calls = self.calls_per_block
        each = self.rows * self.new * (calls + 1) / (2 * calls)
        return each if self.masked is None else self.masked

    def reads(self) -> list[tuple[float, int, int]]:
        """Calls of a rollout: (how often, tokens computed, tokens attended to), per row.

        The first call reads the prompt's blocks; the first of each later block also the block
        before, now finished. A shifted head reads one token more.
        """
        size, again = self.block_size, self.calls_per_block - 1
        start, extra = self.prompt // size * size, int(self.shift)
        reads: list[tuple[float, int, int]] = []
        for end in range(start + size, self.columns + 1, size):
            first = end == start + size
            reads.append((1, end if first else 2 * size + extra, end))
            reads.append((again, size + (extra if end > size else 0), end))
        return reads

    def said(self) -> float:
        """Tokens of a row that the head is asked for in a rollout: those that are open in a call,
        an even share fewer in each."""
        first = self.block_size - self.prompt % self.block_size
        blocks = self.columns // self.block_size - self.prompt // self.block_size
        open_ = [first] + [self.block_size] * (blocks - 1)
        return sum(tokens * (min(self.calls_per_block, tokens) + 1) / 2 for tokens in open_)

    def flops(self) -> dict[str, float]:
        """Operations of the rollout, the teacher's call, the student's on two copies, its backward
        pass, and their sum.

        Attention counts every pair of a query and a key, seen or not, as `eager` and `sdpa` compute
        them; a fused kernel does a quarter more of its share in the backward pass.
        """
        shape, rows, length = self.shape, self.rows, self.columns
        head = 2 * self.masked_tokens * shape.vocabulary * shape.width
        rollout = rows * sum(n * self._forward(q, keys) for n, q, keys in self.reads())
        rollout += 2 * rows * self.said() * shape.vocabulary * shape.width
        teacher = rows * replace(self, lora=None)._forward(length, length) + head
        student = rows * self._forward(2 * length, 2 * length)
        parts = {"rollout": rollout, "teacher": teacher, "student": student + head}
        parts["backward"] = self._backward(head, student)
        return {**parts, "total": sum(parts.values())}

    def _forward(self, tokens: float, keys: float) -> float:
        """The layers of one row."""
        shape = self.shape
        weights = shape.layers * shape.matrices
        weights += 0 if self.lora is None else shape.adapters(self.lora)
        return 2 * tokens * weights + shape.layers * 4 * tokens * keys * shape.heads_width

    def _backward(self, head: float, student: float) -> float:
        shape, rank = self.shape, self.lora
        tokens = 2 * self.columns * self.rows
        last = shape.projections[-1]
        if rank is None:
            again = student - 2 * tokens * shape.layers * last[0] * last[1]
            total = 2 * (student + head)
        else:
            # A frozen matrix has the gradient of its input alone, and the first layer's not that.
            qkv = shape.projections[:3]
            frozen = shape.layers * shape.matrices - sum(i * o for i, o in qkv)
            trained = 2 * shape.adapters(rank) - sum(rank * i for i, _ in qkv)
            pairs = student - self.rows * self._forward(2 * self.columns, 0)
            total = 2 * tokens * (frozen + trained) + 2 * pairs + head
            again = student - 2 * tokens * shape.layers * rank * last[1]
        # The last product of a layer is not needed to go backward through it.
        return total + again * self.checkpointing

    def activations(self) -> float:
        """Bytes that the student's call leaves for its backward pass, without those of the loss."""
        shape, tokens = self.shape, 2 * self.columns * self.rows
        if self.checkpointing:
            kept = tokens * shape.layers * self.number * shape.width + self._mask(1) / self.rows
        else:
            kept = shape.layers * (tokens * self.kept_by_layer() + self._mask(self.number))
        kept += tokens * (4 * shape.width + 4 + 2 * self.number * shape.head_dim)
        if self.lora is None:
            return kept + self.number * shape.width * (tokens + self.masked_tokens)
        # The first layer's input needs no gradient.
        return kept if self.checkpointing else kept - tokens * (4 * shape.width + 4)

    def kept_by_layer(self) -> int:
        """Bytes that a layer keeps of a token, its attention mask left out."""
        shape, e, adapter = self.shape, self.number, self.adapter_number or self.number
        d, f, heads = shape.width, shape.inner, shape.heads_width
        # A norm keeps its input in float32, 1 / rms, and what a trained weight multiplies.
        weighed = e if self.lora is None else 0
        norms = 2 * (d * (4 + weighed) + 4)
        if shape.qk_norm:
            each = shape.heads + shape.kv_heads
            norms += each * (shape.head_dim * (4 + weighed) + 4)
        # q, k and v for every head, what comes out, and the sums of the softmax.
        attention = 4 * e * heads + 4 * shape.heads
        if self.lora is None:
            return norms + attention + e * (2 * d + 4 * f)
        low = len(shape.projections) * self.lora * adapter
        if adapter == e:
            return norms + attention + e * (2 * d + 4 * f) + low
        # Inputs of adapters are copied to their dtype, for each one again.
        return norms + attention + 3 * e * f + adapter * (5 * d + heads + f) + low

    def peak(self) -> float:
        """Bytes that the loss and its backward pass need at most, beside weights and gradients."""
        shape, tokens, e = self.shape, 2 * self.columns * self.rows, self.number
        kept = self.activations()
        at_loss = kept + LOSS_BYTES * self.masked_tokens * shape.vocabulary
        # Backward through the last layer, in the middle of its feed-forward part.
        layer = tokens * e * (2 * shape.inner + shape.width)
        if self.checkpointing:
            layer += tokens * self.kept_by_layer() + self._mask(e)
        ends = tokens * 4 * shape.width
        if self.lora is None:
            ends += e * shape.width * (tokens + self.masked_tokens)
        return max(at_loss, kept - ends + layer)

    def cache(self) -> int:
        """Bytes of the keys and values of a finished rollout."""
        shape = self.shape
        each = 2 * shape.kv_heads * shape.head_dim * self.number
        return self.rows * self.columns * shape.layers * each

    def memory(self, processes: int) -> dict[str, float]:
        """Bytes on each GPU under FSDP2 with bfloat16 mixed precision and AdamW.

        What is trained has float32 weights, gradients and two moments, all sharded; a frozen base
        is sharded as it was loaded. A teacher beside the student is whole. "gathered" is the
        embeddings and the head, two layers, and the gradients of what is trained there, before they
        are sharded; "training" is `peak`; "decoding" is all weights in the computation's dtype and
        the cache. Training and decoding take turns: of what they need the total has the larger. One
        process gathers nothing.

        Args:
            processes: GPUs.
        """
        shape, full = self.shape, self.lora is None
        trained = shape.parameters if full else shape.adapters(self.lora)
        tables = shape.parameters - shape.layers * shape.layer
        gathered = tables * (1 + full) + shape.layer * (2 + full)
        decoding = shape.parameters + (0 if full else trained)
        kept = {
            "weights": (4 * trained + (0 if full else self.number * shape.parameters)) / processes,
            "gradients": 4 * trained / processes,
            "optimizer": 8 * trained / processes,
            "teacher": self.number * shape.parameters if full else 0,
        }
        sharded = self.number * (processes > 1)
        turns = {
            "gathered": sharded * gathered,
            "training": self.peak(),
            "decoding": sharded * decoding + self.cache(),
        }
        most = max(turns["gathered"] + turns["training"], turns["decoding"])
        return {**kept, **turns, "total": sum(kept.values()) + most}

    def _mask(self, number: int) -> int:
        """Bytes of an attention mask over two copies."""
        return self.rows * (2 * self.columns) ** 2 * number
