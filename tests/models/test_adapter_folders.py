"""What `save_model` writes of a student of adapters opens again: base, process, number of steps."""

from __future__ import annotations

import json
import os

import pytest
import torch
import transformers
from bert_folders import BERT, TOKENS, bert_folder, lora, opened_bert, same_law, saved
from block_models import MASK as BLOCK_MASK
from block_models import causal
from peft import get_peft_model
from safetensors.torch import load_file
from training_runs import QUIET, distilling, rows, tiny
from transformers import AutoModelForMaskedLM, BertForMaskedLM

from hf_ddistill import DiscreteDiffusionPipeline
from hf_ddistill.cli import main
from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.hub import load_model, load_pipeline
from hf_ddistill.models import BlockDiffusionLM, DDiTForDiscreteDiffusion
from hf_ddistill.models.opening import is_causal_name
from hf_ddistill.training import DiscreteDistillationTrainer

BERT |= {"intermediate_size": 32, "max_position_embeddings": 8}


def test_adapters_of_a_masked_lm_open_with_the_process_that_its_folder_lacks(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    trainer = saved("student", opened_bert(bert_folder("bert")))
    assert not (tmp_path / "student" / "model.safetensors").exists()
    (tmp_path / "student").rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    folder = str(tmp_path / "moved")

    pipe = DiscreteDiffusionPipeline.from_pretrained(folder)
    assert same_law(trainer, pipe.model)
    assert pipe.scheduler.config.num_inference_steps == 3
    assert pipe(batch_size=2).num_network_calls == 3
    assert type(load_model(folder)) is BertForMaskedLM and not is_causal_name(folder)
    generate = transformers.pipeline("discrete-diffusion", model=folder, device="cpu")
    assert same_law(trainer, generate.model)
    assert len(generate(num_return_sequences=2)) == 2
    assert main(["sample", folder, "--count", "1", "--device", "cpu"]) == 0
    assert len(json.loads(capsys.readouterr().out.splitlines()[-1])) == 8


def test_a_base_in_memory_is_saved_beside_its_adapters(tmp_path):
    block = to_block_diffusion(causal(), mask_token_id=BLOCK_MASK)[0]
    settings = {"objective": {"type": "opdlm", "rollouts": {"tokens": 4}}, "prompt_length": 4}
    trainer = saved(tmp_path / "student", block, **settings)
    (tmp_path / "student").rename(tmp_path / "moved")
    pipe = load_pipeline(str(tmp_path / "moved"))
    assert isinstance(pipe.model, BlockDiffusionLM)
    tokens = torch.tensor([row["input_ids"] for row in TOKENS])
    for model in (pipe.model, AutoModelForMaskedLM.from_pretrained(tmp_path / "moved")):
        with torch.no_grad(), trainer.averaged_weights():
            expected = trainer.model.eval()(tokens).logits
            assert torch.allclose(model.eval()(tokens).logits, expected, atol=1e-4)
    generate = transformers.pipeline(
        "discrete-diffusion", model=str(tmp_path / "moved"), device="cpu"
    )
    assert len(generate(input_ids=tokens[:1, :4], max_new_tokens=4)) == 1


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")  # of peft
def test_a_base_that_was_changed_since_it_was_loaded_is_not_named(tmp_path):
    def trained(model):
        with torch.no_grad():
            model.get_input_embeddings().weight[3] += 1.0

    def grown(model):
        model.resize_token_embeddings(30, mean_resizing=False)

    folder = bert_folder(tmp_path / "bert")
    for change in (trained, grown):
        model = opened_bert(folder)
        change(model)
        trainer = saved(tmp_path / change.__name__, model)
        assert (tmp_path / change.__name__ / "model.safetensors").exists()
        assert same_law(trainer, load_model(str(tmp_path / change.__name__)))


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")  # of peft
@pytest.mark.parametrize("tied", [True, False])
def test_whole_modules_and_parted_ties_survive_two_savings(tmp_path, tied):
    base = tiny(tie_word_embeddings=tied)
    data = rows(16)
    settings = {"target_modules": ["qkv"], "modules_to_save": ["lm_head"]}
    trainer = saved(
        tmp_path / "student", base, data, peft_config=lora(**settings), learning_rate=0.1
    )
    tokens = torch.tensor([row["input_ids"] for row in data])
    model = load_model(str(tmp_path / "student"))
    assert same_law(trainer, model, tokens)
    model.save_pretrained(tmp_path / "whole")
    again = DDiTForDiscreteDiffusion.from_pretrained(tmp_path / "whole")
    assert same_law(trainer, again, tokens)


def test_adapters_can_be_a_teacher_and_a_student_by_their_name(tmp_path):
    base = tiny(noise_dim=2)
    trainer = saved(tmp_path / "student", base, rows(16))
    name = str(tmp_path / "student")
    tokens = torch.tensor([row["input_ids"] for row in rows(16)])
    assert same_law(trainer, load_model(name), tokens) or base.config.noise_dim
    other = distilling(tmp_path / "next", name, model=name)
    assert isinstance(other.teacher_model, DDiTForDiscreteDiffusion)
    assert other.model.config.noise_dim == 2 and other.model is not other.teacher_model


def test_a_checkpoint_of_adapters_gets_no_copy_of_the_base(tmp_path):
    saved(tmp_path, tiny(), rows(16), save_strategy="steps", save_steps=1)
    names = {path.name for path in (tmp_path / "checkpoint-1").iterdir()}
    assert "adapter_model.safetensors" in names and "model.safetensors" not in names


def test_adapters_by_another_name_and_a_base_that_is_gone_are_refused(tmp_path):
    model = get_peft_model(tiny(), lora(target_modules=["qkv"]), adapter_name="mine")
    with pytest.raises(ValueError, match="under the name 'default', and these are called 'mine'"):
        distilling(tmp_path, None, model=model)
    saved(tmp_path / "student", opened_bert(bert_folder(tmp_path / "bert")))
    os.rename(tmp_path / "bert", tmp_path / "gone")
    with pytest.raises(
        ValueError, match="holds adapters of the base '.*/bert'.*there is no folder"
    ):
        load_model(str(tmp_path / "student"))


def test_card_names_what_the_adapters_are(tmp_path):
    trainer = saved(tmp_path / "student", tiny(), rows(16))
    card = (tmp_path / "student" / "README.md").read_text()
    assert "The weights are adapters (LORA of rank 2)" in card and "- peft" in card
    assert isinstance(trainer, DiscreteDistillationTrainer) and QUIET
    assert (
        load_file(tmp_path / "student" / "model.safetensors").keys() == tiny().state_dict().keys()
    )
