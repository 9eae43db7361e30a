"""What decoding by blocks costs, beside the causal model's own cached `generate`, at equal tokens.

    python examples/benchmarks/block_decoding.py [--only NAME] [--repeats N] [--json FILE]

New weights of a Llama of 6 layers of 256, or of SmolLM2-135M's shape (30 layers of 576, K 49,152);
K tokens, B rows, prompts that with 64 new tokens make `length`. All kinds in turn, process CPU time
of one thread, medians: figures are ratios. The call that reads the prompt is left out on both
sides. "loop" is what is spent outside the network. It runs on older states of the package, too: put
one first on PYTHONPATH. About half an hour.
"""

import argparse
import json
import statistics
import time

import torch
from benchmark_files import rows_file
from transformers import AutoModelForCausalLM, LlamaConfig

from hf_ddistill.convert import to_block_diffusion

NEW = 64
SMALL = {
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
SHAPES = {"6 x 256": SMALL, "SmolLM2-135M": SMOLLM2}
#: (shape, K, B, length, block size)
SIZES = [
    *(("SmolLM2-135M", 49_152, rows, 128, block) for rows in (1, 8) for block in (4, 32)),
    *(("6 x 256", 32_000, rows, 128, block) for rows in (1, 8) for block in (4, 32)),
    *(
        ("6 x 256", 512, rows, length, block)
        for rows in (1, 8)
        for length in (128, 512, 1024)
        for block in (4, 8, 16, 32)
    ),
]
#: Settings of `generate`; of new weights with a sharpened head the threshold is met here and there.
KINDS = {
    "static, 4 calls a block": {"unmasking": "static", "steps_per_block": 4},
    "static, 2 calls a block": {"unmasking": "static", "steps_per_block": 2},
    "threshold": {"unmasking": {"type": "threshold", "threshold": 0.2}},
    "threshold, drawn": {
        "unmasking": {"type": "threshold", "threshold": 0.2},
        "temperature": 1.0,
    },
}


def models(vocabulary, block, shape="6 x 256"):
    """A causal model, and the same in blocks."""
    torch.manual_seed(0)
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
    config = LlamaConfig(
        vocab_size=vocabulary, max_position_embeddings=2048, **SHAPES[shape], **ends
    )
    lm = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        lm.lm_head.weight.mul_(10)
    model, _ = to_block_diffusion(lm, mask_token_id=vocabulary - 1, block_size=block)
    return lm, model.eval()


class Watch:
    """CPU time and rows of every call of a network."""

    def __init__(self, network):
        self.network, self.forward = network, network.forward

    def __enter__(self):
        self.times, self.rows = [], []

        def forward(*args, **kwargs):
            started = time.process_time()
            out = self.forward(*args, **kwargs)
            self.times.append(time.process_time() - started)
            self.rows.append(len(kwargs["input_ids"]))
            return out

        self.network.forward = forward
        self.started = time.process_time()
        return self

    def __exit__(self, *error):
        self.total = time.process_time() - self.started
        self.network.forward = self.forward


def measured(network, generate):
    """One run: calls, the rows of all of them, CPU time behind the first call, that in the loop."""
    with Watch(network) as watch:
        generate()
    inside = sum(watch.times)
    return len(watch.times), sum(watch.rows), watch.total - watch.times[0], watch.total - inside


def compared(size, repeats):
    """The rows of one size: the causal model's cost, and that of each kind beside it."""
    shape, vocabulary, rows, length, block = size
    lm, model = models(vocabulary, block, shape)
    prompt = torch.randint(
        3, vocabulary - 1, (rows, length - NEW), generator=torch.Generator().manual_seed(1)
    )
    runs = {
        "causal": (
            lm,
            lambda: lm.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=NEW,
                do_sample=False,
            ),
        )
    }
    for name, settings in KINDS.items():
        streams = [torch.Generator() for _ in range(rows)]
        runs[name] = (
            model,
            lambda settings=settings, streams=streams: model.generate(
                prompt,
                max_new_tokens=NEW,
                generator=[stream.manual_seed(row) for row, stream in enumerate(streams)],
                **settings,
            ),
        )
    found = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            found[name].append(measured(*run))
    middle = {
        name: [statistics.median(values) for values in zip(*each, strict=True)]
        for name, each in found.items()
    }
    step = middle["causal"][2] / (middle["causal"][0] - 1)
    for name, (calls, row_calls, spent, loop) in middle.items():
        call = spent / (calls - 1)
        yield {
            "kind": name,
            "shape": shape,
            "vocabulary": vocabulary,
            "rows": rows,
            "length": length,
            "block": block,
            "calls": calls,
            "row_calls": row_calls,
            "tokens_per_row_call": round(rows * NEW / row_calls, 3),
            "loop_share": round(loop / spent, 4),
            "loop_by_network": round(loop / (spent - loop), 4),
            "call_by_causal_call": round(call / step, 3),
            "speed_by_causal": round(middle["causal"][2] / spent, 3),
        }


def main():
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of the names of the sizes")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind, in turn")
    parser.add_argument("--json", type=rows_file, help="file for the rows")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for size in SIZES:
        if args.only not in "{}, K {}, B {}, length {}, block {}".format(*size):
            continue
        for row in compared(size, args.repeats):
            rows.append(row)
            print(json.dumps(row), flush=True)
        if args.json:
            args.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
