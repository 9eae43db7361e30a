"""No setting of `generate` is swallowed: each is acted on, or refused in one sentence."""

from __future__ import annotations

import itertools

import pytest
import torch
from block_models import MASK, assert_same, block_model, drawn, mixed_prompts, streams
from generate_settings_table import PAGE, page
from transformers import GenerationConfig

from hf_ddistill.models import BlockDiffusionGenerationConfig
from hf_ddistill.models.block_diffusion.generation_settings import (
    ACTED,
    METADATA,
    OWN,
    REFUSED,
    SHAPING,
    refusal,
    setting_names,
)

THEIRS = sorted(GenerationConfig().to_dict().keys() - set(METADATA))
NEW = 9


def new(rows=4, **settings):
    """The new tokens behind the first of some mixed prompts."""
    ids, mask = mixed_prompts()
    return drawn(block_model(), ids[:rows], mask[:rows], max_new_tokens=NEW, **settings)[0]


@pytest.mark.parametrize("name", THEIRS)
def test_a_setting_of_transformers_is_acted_on_or_refused(name):
    assert (name in ACTED) != (name in REFUSED)
    if name in REFUSED:
        # A default of transformers asks for nothing; anything else does.
        default = GenerationConfig._get_default_generation_params().get(name)
        for idle in (None, default):
            assert refusal(name, idle) is None
        with pytest.raises(ValueError, match=f"generate does not act on {name}='asked': "):
            new(**{name: "asked"})
        with pytest.raises(ValueError, match=f"generate does not act on {name}='asked': "):
            config = BlockDiffusionGenerationConfig()
            setattr(config, name, "asked")
            new(generation_config=config)


def test_no_setting_is_in_the_table_that_there_is_not():
    assert ACTED.keys() | REFUSED.keys() == set(THEIRS)
    own = set(vars(BlockDiffusionGenerationConfig)) & OWN.keys()
    assert own == OWN.keys() and SHAPING.keys() <= ACTED.keys()


def test_a_setting_that_a_later_transformers_adds_is_refused(monkeypatch):
    plain = GenerationConfig.to_dict

    def later(self):
        return plain(self) | {"telepathy": getattr(self, "telepathy", None)}

    monkeypatch.setattr(GenerationConfig, "to_dict", later)
    assert "telepathy" in setting_names() and refusal("telepathy", None) is None
    with pytest.raises(ValueError, match="does not act on telepathy=True: this version of"):
        new(telepathy=True)


def test_the_page_of_settings_is_that_of_the_code():
    assert PAGE.read_text() == page(), "python tests/support/generate_settings_table.py renews it"


def test_lengths_are_those_of_transformers():
    model, (ids, mask) = block_model(), mixed_prompts()
    quiet = {"eos_token_id": -1}
    assert model.generate(ids, mask, max_length=16, **quiet).shape == (4, 16)
    with pytest.warns(UserWarning, match="Neither max_new_tokens nor max_length is given: 20 new"):
        assert model.generate(ids, mask, **quiet).shape == (4, 31)
    # The window of 64 tokens leaves four.
    with pytest.warns(UserWarning, match="4 new tokens, transformers' default"):
        assert model.generate(ids.repeat(1, 6)[:, :60], **quiet).shape == (4, 64)
    own = GenerationConfig(max_length=14, pad_token_id=0)
    assert model.generate(ids, mask, own, **quiet).shape == (4, 14)
    # Who stands nearer wins.
    assert model.generate(ids, mask, own, max_new_tokens=1, **quiet).shape == (4, 12)
    given = GenerationConfig(max_new_tokens=9)
    assert model.generate(ids, mask, given, max_length=12, **quiet).shape == (4, 12)
    assert model.generate(ids[:, :2], block_size=64, max_length=5, **quiet).shape == (4, 5)


def test_an_end_token_waits_for_the_least_length():
    free = new(unmasking="static")
    end = int(free[0, 1])
    ids, mask = mixed_prompts()
    for settings in ({"min_new_tokens": 5}, {"min_length": 16}):
        found = drawn(
            block_model(), ids, mask, max_new_tokens=NEW, eos_token_id=end, **settings
        )[0]  # fmt: skip
        assert not (found[:, :5] == end).any()
    forced = drawn(block_model(), ids, mask, max_new_tokens=NEW, forced_eos_token_id=[end])[0]
    assert (forced[:, -1] == end).all()


def test_sequences_for_each_prompt_are_those_of_repeated_prompts():
    model, (ids, mask) = block_model(), mixed_prompts()
    settings = {"max_new_tokens": 5, "do_sample": True, "eos_token_id": -1}
    many = model.generate(
        ids, mask, num_return_sequences=3, generator=streams(range(12)), **settings
    )
    twice = (part.repeat_interleave(3, 0) for part in (ids, mask))
    assert torch.equal(many, model.generate(*twice, generator=streams(range(12)), **settings))
    assert len(many.unique(dim=0)) > 4
    with pytest.raises(ValueError, match="Got 4 generators for 12 rows"):
        model.generate(ids, mask, num_return_sequences=3, generator=streams(), **settings)


def test_what_contradicts_itself_is_refused():
    twice = {
        "max_new_tokens or max_length, not both": {"max_length": 20, "max_new_tokens": 3},
        "min_new_tokens or min_length, not both": {"min_length": 20, "min_new_tokens": 3},
        "top_k=3 shapes draws, and nothing is drawn": {"top_k": 3, "temperature": None},
        "temperature=0.7 shapes draws": {"temperature": 0.7, "do_sample": False},
        "do_sample=True draws tokens, and temperature=0": {"temperature": 0.0, "do_sample": True},
        "output_scores=True needs return_dict_in_generate": {"output_scores": True},
        "At least 9 new tokens are asked for, and at most 4": {"min_new_tokens": 9},
        "max_length=5 leaves no new token": {"max_length": 5, "max_new_tokens": None},
        "pad_token_id=9: padding with a token of the text": {"pad_token_id": 9},
        "max_time must be above 0": {"max_time": -1.0},
        "stop_strings are found with the model's tokenizer": {"stop_strings": "a"},
        "bad_words_ids must be a list of lists": {"bad_words_ids": [3]},
        "Token 40 is none of the model's": {"suppress_tokens": [40]},
        "num_return_sequences must be at least 1": {"num_return_sequences": 0},
        "generate takes no validate": {"validate": 3},
        "generate takes no assistant_model": {"assistant_model": 3},
    }
    ids, mask = mixed_prompts()
    for message, settings in twice.items():
        with pytest.raises(ValueError, match=message):
            block_model().generate(ids, mask, **{"max_new_tokens": 4} | settings)


def test_pads_are_none_of_the_text():
    model, (ids, mask) = block_model(), mixed_prompts()
    end = int(new(unmasking="static")[0, 1])
    settings = {"max_new_tokens": NEW, "unmasking": "static", "eos_token_id": end}
    for pad, expected in ((None, 0), (0, 0), (end, end), (MASK, MASK)):
        found = model.generate(ids, mask, pad_token_id=pad, **settings)
        assert (found[0, -NEW + 2 :] == expected).all()


def test_a_config_that_is_given_keeps_the_ends_of_the_models_own():
    ids, mask = mixed_prompts()
    model = block_model()
    end = int(new(unmasking="static")[0, 1])
    own, model.generation_config = model.generation_config, BlockDiffusionGenerationConfig()
    try:
        model.generation_config.eos_token_id = [3, end]
        given = BlockDiffusionGenerationConfig(max_new_tokens=NEW)
        out = model.generate(ids, mask, given, unmasking="static")
        assert (out[0, -NEW + 2 :] == 0).all() and model.decoding_plan(given).eos == (3, end)
        free = model.generate(ids, mask, given, unmasking="static", eos_token_id=None)
        assert torch.equal(free[:, -NEW:], new(unmasking="static"))
    finally:
        model.generation_config = own


def test_every_setting_that_is_acted_on_passes_through():
    """Nothing that is acted on is refused for its name: with values that ask for little."""
    little = {"max_new_tokens": 2, "min_new_tokens": 1, "max_time": 60.0, "do_sample": True}
    little |= {"use_cache": True, "temperature": 1.0, "top_k": 9, "top_p": 0.9, "min_p": 0.01}
    little |= {"top_h": 0.9, "typical_p": 0.9, "epsilon_cutoff": 1e-4, "eta_cutoff": 1e-4}
    little |= {"repetition_penalty": 1.1, "no_repeat_ngram_size": 3, "bad_words_ids": [[3, 4]]}
    little |= {"renormalize_logits": True, "forced_eos_token_id": 2, "suppress_tokens": [3]}
    little |= {"remove_invalid_values": True, "begin_suppress_tokens": [4], "eos_token_id": 2}
    little |= {"sequence_bias": [[[5], 1.0]], "num_return_sequences": 2, "pad_token_id": 0}
    little |= {"output_scores": True, "output_logits": True, "return_dict_in_generate": True}
    little |= {"bos_token_id": 1, "disable_compile": True}
    assert ACTED.keys() - little.keys() == {"max_length", "min_length", "stop_strings"}
    out = block_model().generate(torch.tensor([[5, 6]]), **little)
    assert out.sequences.shape == (2, 4) and len(out.scores) == len(out.logits) == 2


def test_a_row_without_tokens_starts_with_the_beginning():
    model = block_model()
    settings = {"max_new_tokens": 6, "eos_token_id": -1}
    with_bos = model.generate(torch.tensor([[1]]), **settings)
    assert torch.equal(model.generate(**settings), with_bos)
    assert torch.equal(model.generate(torch.zeros(1, 0, dtype=torch.int64), **settings), with_bos)
    ids, mask = torch.tensor([[0, 0], [5, 6]]), torch.tensor([[0, 0], [1, 1]])
    assert torch.equal(model.generate(ids, mask, **settings)[0, 1:], with_bos[0])
    other = model.generate(bos_token_id=7, **settings)
    assert torch.equal(other, model.generate(torch.tensor([[7]]), **settings))
    assert model.generate(bos_token_id=-1, **settings).shape == (1, 6)


def test_processors_and_settings_go_together():
    """A processor of the caller's sees what settings barred, and has the last word."""
    seen = []

    def watch(ids, scores):
        seen.append(scores[:, 7])
        return scores

    ids, mask = mixed_prompts()
    one = drawn(block_model(), ids, mask, max_new_tokens=2, suppress_tokens=[7],
                logits_processor=watch)  # fmt: skip
    assert any(torch.isinf(part).all() for part in seen)
    assert_same(one, drawn(block_model(), ids, mask, max_new_tokens=2, suppress_tokens=[7]))
    assert list(itertools.chain(*one[0].tolist())).count(7) == 0
