"""Corpus, language model and students of `ar_to_diffusion.py`."""

import copy
import math
import time
from dataclasses import replace

import torch
from ar_to_diffusion_figures import share_of_words
from ar_to_diffusion_runs import NOISE, OF_THE_LANGUAGE_MODEL, OWN_ROLLOUTS, OWN_SETTINGS, RUNS
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch.utils.data import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from hf_ddistill import DiscreteDistillationConfig, DiscreteDistillationTrainer
from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.objectives import Objective

CONTEXT = 256
ALPHABET = "abcdefghijklmnopqrstuvwxyz 0,.;:?'-$\n"  # every digit is read as 0
END, PAD = "</s>", "<pad>"
ATTENTION = "eager"  # in training: torch's fused one has a slow bfloat16 gradient on CPUs


def character_tokenizer():
    """One token a character of lower-case English; what is not in `ALPHABET` is left out."""
    vocab = {token: i for i, token in enumerate([PAD, END, *ALPHABET])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=PAD))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace("’", "'"),
            normalizers.Replace(Regex("[—–‑]"), "-"),
            normalizers.Replace(Regex("[0-9]"), "0"),
            normalizers.Replace(Regex(f"[^{ALPHABET.replace('-', '')}-]"), ""),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def read_corpus(file, tokenizer, share=0.05):
    """Token ids of a text, for training and held out: the last documents, at least `share` of it.

    Documents are separated by an empty line; each ends with the end token.
    """
    documents = [text.strip() for text in file.read_text(encoding="utf8").split("\n\n")]
    ids = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in documents if text]
    sizes = torch.tensor([len(document) for document in ids])
    first = int((sizes.cumsum(0) <= (1 - share) * sizes.sum()).sum())
    if first == 0:
        raise ValueError(
            f"{file} has {len(ids)} documents separated by empty lines; there must be some to "
            "learn from before the one that is held out."
        )
    return tuple(
        torch.tensor([token for document in part for token in document])
        for part in (ids[:first], ids[first:])
    )


class Windows(Dataset):
    """Stretches of `length` tokens, one every `stride`; with labels for a causal LM."""

    def __init__(self, tokens, length=CONTEXT, stride=64):
        self.rows = tokens.unfold(0, length, stride)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def settings(args, steps, **more):
    """What all trainings share."""
    return {
        "max_steps": steps,
        "lr_scheduler_type": "cosine",
        "warmup_steps": min(100, steps // 10),
        "adam_beta2": 0.98,
        "logging_steps": max(1, min(50, steps // 4)),
        "save_steps": max(1, min(500, steps // 4)),
        "save_total_limit": 1,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": args.bf16,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": args.seed,
        **more,
    }


def trained(trainer, folder):
    """Train, from the last checkpoint if there is one; tells how long it took."""
    started, busy = time.monotonic(), time.process_time()
    if isinstance(trainer, DiscreteDistillationTrainer):
        last = trainer.last_checkpoint(folder)
    else:
        last = get_last_checkpoint(folder) if folder.exists() else None
    trainer.train(resume_from_checkpoint=last)
    return f"{time.monotonic() - started:.0f} s ({time.process_time() - busy:.0f} s of one core)"


def train_language_model(args, tokenizer, train, held_out):
    """A Llama of 1.8 million parameters on the characters; trained once, resumed where it broke."""
    folder = args.output / "teacher"
    if (folder / "model.safetensors").exists():
        return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(args.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=args.hidden_size,
            num_hidden_layers=args.layers,
            num_attention_heads=args.hidden_size // 64,
            num_key_value_heads=args.hidden_size // 64,
            intermediate_size=args.hidden_size * 8 // 3,
            max_position_embeddings=CONTEXT,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.set_attn_implementation(ATTENTION)
    trainer = Trainer(
        model,
        TrainingArguments(
            str(folder),
            **settings(args, args.teacher_steps, learning_rate=2e-3, weight_decay=0.05),
            per_device_train_batch_size=8,
            per_device_eval_batch_size=16,
            prediction_loss_only=True,
        ),
        train_dataset=Windows(train),
        eval_dataset=Windows(held_out, stride=CONTEXT),
        processing_class=tokenizer,
    )
    took = trained(trainer, folder)
    nats = trainer.evaluate()["eval_loss"]
    trainer.save_model()
    print(
        f"language model: {model.num_parameters() / 1e6:.2f}M parameters, {nats:.4f} nats "
        f"({nats / math.log(2):.4f} bits) per held-out character, {took} in this run",
        flush=True,
    )
    (folder / "held_out_nats.txt").write_text(f"{nats:.6f}\n")
    # The trained object would compute in bfloat16 for good.
    return AutoModelForCausalLM.from_pretrained(folder), tokenizer


def converted(model, tokenizer, block_size, shift_logits=True):
    """The language model's weights as a block-diffusion model, untrained."""
    return to_block_diffusion(model, tokenizer, block_size=block_size, shift_logits=shift_logits)


def outputs(args, model, train):
    """What the language model writes behind prompts of the corpus: as many as OPDLM's rollouts."""
    file = args.output / "outputs.pt"
    if file.exists():
        return torch.load(file)
    torch.manual_seed(args.seed + 2)
    count = -(-args.steps * args.batch_size // args.rollout_updates)
    starts = torch.randint(len(train) - args.prompt_length, (count,))
    prompts = train.unfold(0, args.prompt_length, 1)[starts]
    rows = [ar_decode(model, part, args.new_tokens, 1.0) for part in prompts.split(256)]
    torch.save(torch.cat(rows), file)
    return torch.cat(rows)


def ar_decode(model, prompts, new, temperature):
    """`new` tokens behind each prompt, by transformers' own generation (and global generator)."""
    heat = {"do_sample": True, "temperature": temperature, "top_k": 0}
    model.generation_config.eos_token_id = None  # all rows have one length
    return model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=new,
        **(heat if temperature else {"do_sample": False}),
    )


def training_data(args, kind, model, train):
    """Rows of the corpus, prompts from it, or the language model's outputs."""
    length = args.prompt_length + (args.new_tokens if kind == "corpus" else 0)
    if kind == "outputs":
        rows = outputs(args, model, train)
        return Windows(rows.flatten(), rows.shape[1], rows.shape[1])
    return Windows(train, length)


def distillation(args, name):
    """Settings of a run beside those that all trainings share."""
    return {
        "learning_rate": args.learning_rate,
        "weight_decay": 0.0,
        "per_device_train_batch_size": args.batch_size,
        "ema_decay": 0.0,
        "prompt_length": args.prompt_length,
        **OWN_SETTINGS.get(name, {}),
    }


def distilled(args, name, model, tokenizer, train, block_size):
    """The student of a run; trained once, resumed where it broke."""
    objective, kind, start = RUNS[name]
    if objective["type"] == "d2f":
        objective = {**objective, "block_size": block_size}
    objective = Objective.from_config(objective)
    if objective.rollouts is not None:
        rolled = {"tokens": args.new_tokens, "updates": args.rollout_updates}
        rolled |= OWN_ROLLOUTS.get(name, {})
        objective = replace(objective, rollouts=objective.rollouts.changed(rolled))
    folder = args.output / f"{name}_{block_size}"
    if (folder / "model.safetensors").exists():
        return AutoModelForMaskedLM.from_pretrained(folder)
    if start in ("shifted", "in_place"):
        seen = args.prompt_length + args.new_tokens if name == "full_attention" else block_size
        student, tokenizer = converted(model, tokenizer, seen, start == "shifted")
    else:
        distilled(args, start, model, tokenizer, train, block_size)
        before = args.output / f"{start}_{block_size}"
        student = AutoModelForMaskedLM.from_pretrained(before, noise_dim=NOISE.get(name, 0))
        tokenizer = AutoTokenizer.from_pretrained(before)
    rewarded = objective.id == "outcome_reward"
    teacher = student if objective.id not in OF_THE_LANGUAGE_MODEL else model
    teacher = copy.deepcopy(teacher)  # the trainer freezes it, and wraps it to compute in bfloat16
    for network in (student, teacher):
        network.set_attn_implementation(ATTENTION)
    steps = args.steps if start in ("shifted", "in_place") else args.more_steps
    trainer = DiscreteDistillationTrainer(
        model=student,
        teacher=teacher,
        objective=objective,
        args=DiscreteDistillationConfig(
            str(folder), **settings(args, steps, **distillation(args, name))
        ),
        train_dataset=training_data(args, kind, model, train),
        processing_class=tokenizer,
        reward_function=share_of_words(args, tokenizer, train) if rewarded else None,
    )
    took = trained(trainer, folder)
    trainer.save_model()
    print(f"{folder.name}: {took} in this run", flush=True)
    return AutoModelForMaskedLM.from_pretrained(folder)
