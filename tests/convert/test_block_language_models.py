"""Language models that diffuse in blocks: LLaDA2 and A2D, and their tokenizers."""

import json

import pytest
import torch
from plain_lm import (
    IDS,
    QWEN,
    QWEN_CONFIG,
    SIZES,
    blockwise,
    full,
    gated,
    linear,
    logits,
    plain_forward,
    random_weights,
    write_folder,
)
from safetensors.torch import load_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from hf_ddistill.convert import A2D, Dream, LLaDA, LLaDA2, recognise


def bailing(experts=6, shared=2, layers=3, head=4):
    """Weights of LLaDA2: one dense layer, then layers of experts."""
    draw = torch.Generator().manual_seed(5)
    shapes = {"model.word_embeddings.weight": (13, 16), "model.norm.weight": (16,)}
    shapes["lm_head.weight"] = (13, 16)
    for i in range(layers):
        at = f"model.layers.{i}."
        shapes |= {f"{at}input_layernorm.weight": (16,)}
        shapes |= {f"{at}post_attention_layernorm.weight": (16,)}
        shapes |= {f"{at}attention.query_key_value.weight": (8 * head, 16)}
        shapes |= {f"{at}attention.dense.weight": (16, 4 * head)}
        shapes |= {f"{at}attention.{part}_layernorm.weight": (head,) for part in ("query", "key")}
        wide = {f"{at}mlp.": 20}
        if i:
            wide = {f"{at}mlp.experts.{e}.": 8 for e in range(experts)}
            wide |= {f"{at}mlp.shared_experts.": 8 * shared}
            shapes |= {f"{at}mlp.gate.weight": (experts, 16)}
            shapes |= {f"{at}mlp.gate.expert_bias": (experts,)}
        for place, width in wide.items():
            shapes |= {f"{place}{part}_proj.weight": (width, 16) for part in ("gate", "up")}
            shapes |= {f"{place}down_proj.weight": (16, width)}
    return {
        key: torch.randn(shape, generator=draw) * 0.3 + (1.0 if "norm" in key else 0.0)
        for key, shape in shapes.items()
    }


def experts_of(x, weights, place, *, groups, kept, taken, scaling):
    """Token by token, from the description of the router."""
    if f"{place}gate.weight" not in weights:
        return gated(x, weights, place)
    scores = torch.sigmoid(linear(x, weights, f"{place}gate")).flatten(0, 1)
    out = torch.zeros_like(x).flatten(0, 1)
    for token, (score, state) in enumerate(zip(scores, x.flatten(0, 1), strict=True)):
        chosen = score + weights[f"{place}gate.expert_bias"]
        parts = chosen.view(groups, -1)
        best = parts.sort(descending=True).values[:, :2].sum(-1).argsort(descending=True)[:kept]
        size = parts.shape[1]
        allowed = [int(g) * size + e for g in best for e in range(size)]
        top = sorted(allowed, key=lambda e: -float(chosen[e]))[:taken]
        total = sum(float(score[e]) for e in top)
        for e in top:
            share = float(score[e]) / total * scaling
            out[token] += share * gated(state, weights, f"{place}experts.{e}.")
    return out.view_as(x) + gated(x, weights, f"{place}shared_experts.")


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_an_llada2_of_other_sizes_is_another_network(share, tmp_path):
    weights = bailing()
    config = QWEN_CONFIG | {"model_type": "llada2_moe", "head_dim": 4, "block_size": 4}
    config |= {"num_hidden_layers": 3, "num_experts": 6, "num_experts_per_tok": 2}
    config |= {"num_shared_experts": 2, "moe_intermediate_size": 8, "n_group": 3, "topk_group": 2}
    config |= {"first_k_dense_replace": 1, "routed_scaling_factor": 2.5, "use_qk_norm": True}
    config |= {"partial_rotary_factor": share, "score_function": "sigmoid"}
    folder = write_folder(tmp_path, config, weights, shards=2)
    model, _ = LLaDA2().read(str(folder))
    names = QWEN | {"embed": "model.word_embeddings.weight", "qn": "attention.query_layernorm"}
    names |= {"kn": "attention.key_layernorm", "o": "attention.dense"}
    router = {"groups": 3, "kept": 2, "taken": 2, "scaling": 2.5}
    expected = plain_forward(
        weights,
        IDS,
        blockwise(10, 4),
        names,
        **SIZES | {"layers": 3},
        rotary_share=share,
        fused="attention.query_key_value",
        mlp=lambda x, at: experts_of(x, weights, f"{at}mlp.", **router),
    )
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    # Of random choices some experts are taken that the correction alone brings in.
    assert model.config.mask_token_id == 5 and model.config.block_size == 4


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("block", [None, 4])
def test_an_a2d_model_is_another_network(family, block, tmp_path):
    bias = ("q", "k", "v") if family == "qwen2" else ()
    sizes = (13, 16, 20, 4, 2, 4)
    weights = random_weights(QWEN, layers=2, sizes=sizes, bias=bias, qk_norm=family == "qwen3")
    config = QWEN_CONFIG | {"model_type": f"a2d-{family}", "head_dim": 4}
    folder = str(write_folder(tmp_path / "source", config, weights))
    assert recognise(folder) is A2D
    model, _ = A2D(block_size=block).read(folder)
    sees = full(10) if block is None else blockwise(10, block)
    expected = plain_forward(weights, IDS, sees, QWEN, **SIZES)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    A2D().write(model, tmp_path / "back")
    again, _ = A2D().read(str(tmp_path / "back"))
    assert torch.equal(logits(again), logits(model))
    assert again.config.block_size == model.config.block_size


def test_an_a2d_model_without_a_mask_gets_any(tmp_path):
    A2D.example(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["mask_token_id"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="nor a tokenizer names the mask token"):
        A2D().read(str(tmp_path))
    assert A2D(mask_token_id=7).read(str(tmp_path))[0].config.mask_token_id == 7
    folder_tokenizer(12, "<|mask|>", 10).save_pretrained(tmp_path)
    model, tokenizer = A2D().read(str(tmp_path))
    assert model.config.mask_token_id == 10 == tokenizer.mask_token_id


def folder_tokenizer(count, mask=None, at=None):
    names = [f"w{i}" for i in range(count)]
    if at is not None:
        names[at] = "<|mask|>"
    inner = Tokenizer(WordLevel({name: i for i, name in enumerate(names)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="w0", mask_token=mask)


def test_the_tokenizer_does_not_learn_which_token_masks(tmp_path):
    LLaDA.example(tmp_path)
    folder_tokenizer(12, at=11).save_pretrained(tmp_path)
    _, tokenizer = LLaDA().read(str(tmp_path))
    assert tokenizer.mask_token == "<|mask|>" and tokenizer.mask_token_id == 11


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        (lambda: folder_tokenizer(12, "<|mask|>", 3), "There must be one mask token"),
        (lambda: folder_tokenizer(15), "15 tokens, and its model 14 embeddings"),
    ],
)
def test_a_tokenizer_of_another_model_is_taken(tokenizer, said, tmp_path):
    LLaDA.example(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=said):
        LLaDA().read(str(tmp_path))


@pytest.mark.parametrize("whole", [False, True])
def test_a_tokenizer_with_code_of_its_own_is_not_read(whole, tmp_path):
    Dream.example(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"vocab_size": 300}
    weights = load_file(tmp_path / "model.safetensors")
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[key] = torch.ones(300, 8)
    write_folder(tmp_path, config | {"mask_token_id": 257}, weights)
    letters = {letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))}
    added = {256: "<|endoftext|>", 257: "<|mask|>"}
    if whole:
        inner = Tokenizer(BPE(letters, []))
        inner.pre_tokenizer, inner.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
        inner.add_special_tokens([*added.values()])
        inner.save(str(tmp_path / "tokenizer.json"))
    else:
        (tmp_path / "vocab.json").write_text(json.dumps(letters))
        (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    named = {"tokenizer_class": "DreamTokenizer", "mask_token": "<|mask|>"}
    named["auto_map"] = {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]}
    named["added_tokens_decoder"] = {
        str(i): {"content": name, "special": True} for i, name in added.items()
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    (tmp_path / "tokenization_dream.py").write_text("raise SystemExit('it was run')\n")
    _, tokenizer = Dream().read(str(tmp_path))
    ids = tokenizer("hi <|mask|>")["input_ids"]
    assert ids[-1] == 257 == tokenizer.mask_token_id and len(ids) == 4
    assert tokenizer.decode(ids[:2]) == "hi"


def test_a_general_tokenizer_does_not_get_the_tokens_of_its_networks_kin(tmp_path):
    """Beside a Qwen2 transformers read it as a Qwen2's, with an <|endoftext|> of its own: a token
    more than the model has rows, and Dream was refused."""
    Dream.example(tmp_path)
    folder_tokenizer(12, "<|mask|>", 11).save_pretrained(tmp_path)
    _, tokenizer = Dream().read(str(tmp_path))
    assert len(tokenizer) == 12 and tokenizer.convert_tokens_to_ids("w3") == 3
