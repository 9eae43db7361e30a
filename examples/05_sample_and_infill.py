"""Samplers, infilling, reproducible rows: everything that a pipeline does with one model.

python examples/05_sample_and_infill.py
"""

import torch

from hf_ddistill import (
    AncestralScheduler,
    CTMCEulerScheduler,
    DiscreteDiffusionPipeline,
    TauLeapingScheduler,
)
from hf_ddistill.cli.quickstart import shipped_teacher
from hf_ddistill.evaluation import load_digit_tokens


def show(tokens: torch.Tensor) -> None:
    """Digits beside each other as text."""
    for row in tokens.reshape(-1, 8, 8).transpose(0, 1).tolist():
        print("   ".join("".join(" #"[v] for v in line) for line in row))


pipe = DiscreteDiffusionPipeline.from_model(shipped_teacher())
pipe.set_progress_bar_config(disable=True)

for cls in (AncestralScheduler, CTMCEulerScheduler, TauLeapingScheduler):
    pipe.scheduler = cls.from_config(pipe.scheduler.config)
    # One generator for each row: a row is the same in any batch.
    generators = [torch.Generator().manual_seed(i) for i in range(6)]
    out = pipe(
        class_labels=[0, 1, 2, 3, 4, 5],
        num_inference_steps=32,
        generator=generators,
        output_type="tokens",
    )
    print(f"\n{cls.__name__}, {out.num_network_calls} network calls")
    show(out.sequences)

# Infilling: the upper half is given, the lower half is drawn for three classes.
pipe.scheduler = AncestralScheduler.from_config(pipe.scheduler.config)
digit = load_digit_tokens(levels=2)[0][8]
infill = torch.arange(64) >= 32
out = pipe(
    input_ids=digit,
    infill=infill,
    class_labels=[8, 9, 3],
    num_inference_steps=32,
    generator=torch.Generator().manual_seed(0),
    output_type="tokens",
)
print("\nA real digit, and its upper half completed as an 8, a 9 and a 3")
show(torch.cat([digit[None], out.sequences]))
assert (out.sequences[:, :32] == digit[:32]).all()
