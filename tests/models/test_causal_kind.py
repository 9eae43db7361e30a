"""A masked language model is no causal one, by whichever name it is given."""

from __future__ import annotations

import pytest
from training_runs import distilling
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    XLMConfig,
    XLMWithLMHeadModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED,
)

from hf_ddistill.models.causal_kind import is_causal, is_causal_config
from hf_ddistill.models.opening import is_causal_name

BOTH = sorted(CAUSAL.keys() & MASKED.keys())
TINY = {"vocab_size": 24, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TINY |= {"intermediate_size": 16, "max_position_embeddings": 8}


def config_of(model_type, architectures=None, **settings):
    name = CONFIG_MAPPING_NAMES[model_type]
    every = [*MODEL_FOR_CAUSAL_LM_MAPPING.keys(), *MODEL_FOR_MASKED_LM_MAPPING.keys()]
    kind = next(each for each in every if each.__name__ == name)
    return kind(architectures=architectures, **settings)


def test_there_are_types_that_are_both():
    assert {"bert", "roberta", "xlm-roberta", "electra"} < set(BOTH) and len(BOTH) >= 20


@pytest.mark.parametrize("model_type", BOTH)
def test_the_class_that_wrote_a_checkpoint_decides(model_type):
    assert not is_causal_config(config_of(model_type, [MASKED[model_type]]), "it")
    if CAUSAL[model_type] != MASKED[model_type] and hasattr(config_of(model_type), "is_decoder"):
        causal = config_of(model_type, [CAUSAL[model_type]], is_decoder=True)
        assert is_causal_config(causal, "it")


def test_of_a_checkpoint_that_names_no_class_the_attention_decides():
    for model_type in ("bert", "roberta", "xlm-roberta", "electra"):
        assert not is_causal_config(config_of(model_type), "it")
        assert not is_causal_config(config_of(model_type, ["ElectraForPreTraining"]), "it")
        assert is_causal_config(config_of(model_type, is_decoder=True), "it")
    assert is_causal_config(config_of("xlm", causal=True), "it")
    assert is_causal_config(config_of("llama"), "it") and is_causal_config(config_of("gpt2"), "it")
    assert not is_causal_config(config_of("distilbert"), "it")


def test_what_nothing_decides_is_refused():
    words = r"it \(bart, written by nobody known, .*\) can be a masked or a causal language model"
    with pytest.raises(ValueError, match=words):
        is_causal_config(config_of("bart"), "it")
    with pytest.raises(ValueError, match="written by BertLMHeadModel, is_decoder=False"):
        is_causal_config(config_of("bert", ["BertLMHeadModel"]), "it")


def test_an_object_is_what_its_class_is():
    assert not is_causal(BertForMaskedLM(BertConfig(**TINY)))
    assert is_causal(BertLMHeadModel(BertConfig(**TINY, is_decoder=True)))
    xlm = {"vocab_size": 24, "emb_dim": 16, "n_layers": 1, "n_heads": 2}
    assert not is_causal(XLMWithLMHeadModel(XLMConfig(**xlm)))
    assert is_causal(XLMWithLMHeadModel(XLMConfig(**xlm, causal=True)))
    assert not is_causal("a name")


def test_a_masked_lm_by_its_name_is_a_teacher_of_a_copy(tmp_path):
    model = BertForMaskedLM(BertConfig(**TINY))
    model.config.mask_token_id = 4
    model.save_pretrained(tmp_path / "bert")
    name = str(tmp_path / "bert")
    assert not is_causal_name(name)
    trainer = distilling(tmp_path, name, [{"input_ids": [5, 6]}], max_steps=1)
    assert isinstance(trainer.model, BertForMaskedLM)
    assert trainer.model is not trainer.teacher_model
