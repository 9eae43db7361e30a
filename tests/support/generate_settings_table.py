"""docs/generate_settings.md, from the code; run as a program, it renews the page."""

from __future__ import annotations

from pathlib import Path

from hf_ddistill.models.block_diffusion.generation_settings import ACTED, OWN, REFUSED

PAGE = Path(__file__).parents[2] / "docs" / "generate_settings.md"
HEAD = """# Settings of `generate`

Every setting of transformers' `GenerationConfig` (5.24) and of `BlockDiffusionGenerationConfig`, as
`BlockDiffusionLM.generate`, `DiscreteDiffusionPipeline` and
`transformers.pipeline("discrete-diffusion")` take them. What is not acted on is refused in one
sentence where it asks for something; a setting that a later transformers adds is refused until it
stands here. A setting of the call goes before one of `generation_config=`, that before the model's
own `generation_config`; `None` in a call unsets it. Conversion (`to_block_diffusion`) keeps those
of the causal model that are acted on, and warns of the others.

What a row decodes depends neither on its batch nor on the padding, with a generator for each row.

`python tests/support/generate_settings_table.py` makes this page; a test compares it with the
code.

"""
MORE = """
## Arguments that are no settings

`logits_processor` (transformers' processors, or `ProxySteering`), `stopping_criteria`, `tokenizer`
(for `stop_strings`), `streamer` (one row), `generator` (one, or one for each row), `on_call` and
`attention_mask` are acted on; any other (`assistant_model`, `inputs_embeds`,
`prefix_allowed_tokens_fn`, `negative_prompt_ids`, `custom_generate`, ...) is refused by name.

## What a prompt means

A prompt given as text is what the tokenizer makes of it, special tokens included: the pipelines
decode behind what `generate(**tokenizer(prompt, return_tensors="pt"))` does. A chat is passed as
tokens, `pipe(**tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True,
return_tensors="pt"))`, since its template has put the special tokens already. A row without any
token starts with the beginning-of-sequence token, if the model has one. Where all positions are
sampled at once (masked language models, or `length=`), the special tokens that the tokenizer puts
at the end are left out: of `[CLS] a b [SEP]`, `[CLS] a b` is held.
"""


def page() -> str:
    """The whole page."""
    lines = ["| setting | | |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | acted on | {how} |" for name, how in sorted(ACTED.items())]
    lines += [f"| `{name}` | ours, acted on | {how} |" for name, how in OWN.items()]
    for name, refused in sorted(REFUSED.items()):
        idle = ", ".join(f"`{value!r}`" for value in refused.idle)
        but = f" (but {idle}, which asks for nothing)" if idle else ""
        lines.append(f"| `{name}` | refused | {refused.why}{but} |")
    return HEAD + "\n".join(lines) + "\n" + MORE


if __name__ == "__main__":
    PAGE.write_text(page())
