"""A student in the form that SGLang and lmdeploy serve."""

import json

import pytest
import torch
from plain_lm import blockwise
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from hf_ddistill import BlockDiffusionLM, to_block_diffusion
from hf_ddistill.cli.main import main
from hf_ddistill.convert import SDAR, LLaDA, recognise, served_folder
from hf_ddistill.convert.mask_row import with_mask_at

SIZES = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
}
MASK = 151669


def qwen3(vocab=16, **more):
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(vocab_size=vocab, head_dim=6, rope_theta=7e5, eos_token_id=3, **SIZES | more)
    )


def student(vocab=16, mask=9, block_size=4, **more):
    given = {name: more.pop(name) for name in ("shift_logits", "noise_dim") if name in more}
    lm = qwen3(vocab, **more)
    return to_block_diffusion(lm, mask_token_id=mask, block_size=block_size, **given)[0]


def words(count, added=("<|a|>", "<|b|>"), mask=None):
    """A tokenizer of so many tokens, the last of them added ones."""
    names = [f"w{i}" for i in range(count - len(added))]
    inner = Tokenizer(WordLevel({name: i for i, name in enumerate(names)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens([AddedToken(name) for name in added])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="w0", mask_token=mask)


@pytest.mark.parametrize("tied", [False, True])
def test_another_network_than_qwen3_under_the_block_mask_is_written(tied, tmp_path):
    model = student(tie_word_embeddings=tied)
    SDAR().write(model, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    names = {key for key in model.lm.state_dict() if not (tied and key == "lm_head.weight")}
    assert weights.keys() == names
    text = Qwen3Config(
        **{name: config[name] for name in (*SIZES, "vocab_size", "head_dim", "rms_norm_eps")},
        rope_theta=config["rope_theta"],
        tie_word_embeddings=config["tie_word_embeddings"],
    )
    theirs = Qwen3ForCausalLM(text)
    theirs.load_state_dict(weights, strict=not tied)
    ids = torch.randint(0, 16, (2, 10))
    seen = blockwise(10, config["block_size"])[None, None].expand(2, 1, 10, 10)
    with torch.no_grad():
        expected = theirs.eval()(input_ids=ids, attention_mask=seen).logits
        found = model.eval()(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_field_that_an_engine_reads_is_missing(tmp_path):
    model = student(block_size=8)
    SDAR().write(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["SDARForCausalLM"] and config["model_type"] == "sdar"
    assert config["rope_theta"] == 7e5 and config["rope_scaling"] is None
    assert config["block_size"] == 8 and config["mask_token_id"] == 9
    assert config["eos_token_id"] == 3 and config["torch_dtype"] == "float32"
    assert config["attention_bias"] is False and config["sliding_window"] is None
    assert {name: config[name] for name in SIZES} == SIZES and config["head_dim"] == 6
    assert config["auto_map"] == {"AutoConfig": "configuration_sdar.SDARConfig"}
    told = json.loads((tmp_path / "generation_config.json").read_text())
    assert told["eos_token_id"] == 3
    told = (tmp_path / "dllm.yaml").read_text()
    assert told == "block_size: 8\nthreshold: 0.9\n"
    # As SGLang and lmdeploy load it.
    loaded = AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    for name in config.keys() - {"auto_map", "torch_dtype"}:
        assert getattr(loaded, name) == config[name], name


def test_yarn_is_not_under_its_old_name(tmp_path):
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
    model = student(rope_scaling=rope)
    SDAR().write(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["rope_theta"] == 7e5 and config["rope_scaling"]["factor"] == 4.0
    assert config["rope_scaling"]["rope_type"] == "yarn"
    again, _ = SDAR().read(str(tmp_path))
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: student(shift_logits=True), "output at i - 1 speaks of token i"),
        (lambda: student(noise_dim=2), "no input for noise"),
        (lambda: student(block_size=32), "full attention"),
        (lambda: student(hidden_act="gelu"), "gelu"),
        (
            lambda: to_block_diffusion(
                AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=9, **SIZES)),
                mask_token_id=8,
            )[0],
            "a llama network, and SDAR a qwen3 one",
        ),
    ],
)
def test_what_the_form_cannot_hold_is_written_into_it(made, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        SDAR().write(made(), tmp_path)


@pytest.mark.parametrize("rule", ["entropy_threshold", {"type": "static", "score": "random"}])
def test_an_order_that_no_engine_has_is_dropped_in_silence(rule, tmp_path):
    model = student()
    model.generation_config.unmasking = rule
    with pytest.raises(ValueError, match="by confidence"):
        SDAR().write(model, tmp_path)


def permuted(model, ids, order):
    with torch.no_grad():
        return model.eval()(input_ids=order[ids]).logits[..., order]


@pytest.mark.parametrize("tied", [False, True])
def test_a_moved_mask_changes_the_model(tied):
    before = student(tie_word_embeddings=tied)
    ids = torch.randint(0, 16, (2, 10))
    ids[0, 3] = 9
    with torch.no_grad():
        expected = before.eval()(input_ids=ids).logits
    after, _ = with_mask_at(before, None, 13)
    order = torch.arange(16)
    order[[9, 13]] = order[[13, 9]]
    assert torch.equal(permuted(after, ids, order), expected)
    assert after.config.mask_token_id == 13


def test_the_tokenizer_keeps_its_old_mask_number():
    # The mask is behind the token whose number it is to have: they change places.
    tokenizer = words(15, ("<|a|>", "<|b|>", "<|m|>"), mask="<|m|>")
    model, moved = with_mask_at(student(mask=14), tokenizer, 12)
    assert moved.mask_token_id == 12 == model.config.mask_token_id
    assert moved.convert_tokens_to_ids(["<|a|>", "<|b|>", "w4"]) == [14, 13, 4]
    assert moved("w3 <|a|> <|m|>")["input_ids"] == [3, 14, 12]
    assert tokenizer.mask_token_id == 14


def test_the_row_behind_the_tokenizer_is_not_used_for_the_mask():
    # The mask is a token that the tokenizer had before: it stays, and a new one is the mask.
    tokenizer = words(13, ("<|a|>", "<|b|>"), mask="<|a|>")
    model, moved = with_mask_at(student(mask=11), tokenizer, 13)
    assert moved.mask_token == "<|mask|>" and moved.mask_token_id == 13
    assert moved.convert_tokens_to_ids("<|a|>") == 11 and len(moved) == 14
    assert model.config.mask_token_id == 13


@pytest.mark.parametrize(
    ("tokenizer", "row", "said"),
    [
        (lambda: words(12, ("<|m|>",), "<|m|>"), 14, "counts 12 tokens"),
        (lambda: words(12, ("<|m|>",), "<|m|>"), 16, "the student has 16 rows"),
        (lambda: words(12, ("<|m|>",), "<|m|>"), 3, "cannot give it"),
        (lambda: words(12, ("<|a|>", "<|b|>")), 10, "names no mask token"),
    ],
)
def test_a_number_that_no_token_can_have_is_given(tokenizer, row, said):
    tokenizer = tokenizer()
    with pytest.raises(ValueError, match=said):
        with_mask_at(student(mask=11), tokenizer, row)


@pytest.mark.parametrize("row", [12, pytest.param(MASK, marks=pytest.mark.slow)])
def test_the_command_does_not_move_the_mask_to_where_engines_look(
    row, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(served_folder, "MASK_TOKEN_ID", row)
    model = student(vocab=row + 11, mask=row + 2)
    model.save_pretrained(tmp_path / "student")
    words(row + 3, ("<|x|>", "<|y|>", "<|mask|>"), "<|mask|>").save_pretrained(tmp_path / "student")
    argv = ["export", str(tmp_path / "student"), str(tmp_path / "out"), "--to", "sdar"]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "in the form of a model of SDAR, with its tokenizer" in said and "dllm.yaml" in said
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["mask_token_id"] == row
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", config=model.lm.config)
    assert tokenizer.mask_token_id == row
    assert tokenizer.convert_tokens_to_ids("<|x|>") == row + 2
    weights = load_file(tmp_path / "out" / "model.safetensors")
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(weights[key][row], model.lm.state_dict()[key][row + 2])
    assert "hf-ddistill export student out --to sdar" in (tmp_path / "out/README.md").read_text()
    assert recognise(str(tmp_path / "out")) is SDAR


def test_a_tied_head_is_not_written_for_engines_that_look_for_one(tmp_path, monkeypatch):
    monkeypatch.setattr(served_folder, "MASK_TOKEN_ID", 12)
    model = student(tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "student")
    argv = ["export", str(tmp_path / "student"), str(tmp_path / "out"), "--to", "sdar"]
    assert main(argv) == 0
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    )
    again, _ = SDAR().read(str(tmp_path / "out"))
    order = torch.arange(16)
    order[[9, 12]] = order[[12, 9]]
    ids = torch.randint(0, 16, (2, 10))
    with torch.no_grad():
        assert torch.equal(permuted(again, ids, order), model.eval()(input_ids=ids).logits)


def test_what_is_not_of_the_command_is_overwritten(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(served_folder, "MASK_TOKEN_ID", 9)
    student().save_pretrained(tmp_path / "student")
    argv = ["export", str(tmp_path / "student"), str(tmp_path / "out"), "--to", "sdar"]
    assert main(argv) == 0
    assert main(argv) == 2 and "is not empty" in capsys.readouterr().err
    (tmp_path / "out" / "mine.txt").write_text("x")
    assert main([*argv, "--overwrite"]) == 0 and (tmp_path / "out" / "mine.txt").exists()
    (tmp_path / "out" / "configuration_sdar.py").write_text("# mine")
    assert main([*argv, "--overwrite"]) == 2 and "yours now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "Give the form with --to"),
        (["--to", "sdar"], "row 151669 of the embeddings, and the student has 16 rows"),
        (["--to", "llada"], "a qwen3 network, and LLaDA a llama one"),
        (["--to", "dream"], "a qwen3 network, and Dream a qwen2 one"),
    ],
)
def test_the_command_writes_what_the_form_cannot_hold(argv, said, tmp_path, capsys):
    student().save_pretrained(tmp_path / "student")
    assert main(["export", str(tmp_path / "student"), str(tmp_path / "out"), *argv]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_what_is_exported_to_llada_is_not_read_back_as_the_student(tmp_path, capsys):
    LLaDA.example(tmp_path / "theirs")
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 0
    argv = ["export", str(tmp_path / "ours"), str(tmp_path / "back"), "--to", "llada"]
    assert main(argv) == 0
    ours = BlockDiffusionLM.from_pretrained(tmp_path / "ours")
    again, _ = LLaDA().read(str(tmp_path / "back"))
    theirs = load_file(tmp_path / "theirs" / "model.safetensors")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert theirs.keys() == back.keys()
    assert all(torch.equal(theirs[key], back[key]) for key in theirs)
    assert again.config.mask_token_id == ours.config.mask_token_id
    assert "without a tokenizer" in capsys.readouterr().out
