"""What `rank_samplers.py` draws from, and what judges it: the digits teacher and a text teacher."""

from functools import cached_property

import torch
from completions import distinct
from rank_samplers_text import LENGTH, corpus, judge, teacher

from hf_ddistill import as_denoiser
from hf_ddistill.cli.quickstart import shipped_student, shipped_teacher
from hf_ddistill.denoisers import Sharpened
from hf_ddistill.evaluation import DigitsJudge, frechet_distance, token_entropy
from hf_ddistill.evaluation.digits_figures import judge_samples
from hf_ddistill.evaluation.diversity import corpus_entropy, pairwise_distance
from hf_ddistill.samplers import Ancestral, Canvas

BATCH = 200


@torch.no_grad()
def draw(denoiser, sampler, steps, shape, temperature, seed, **condition):
    """(N, L) tokens, and the calls of each batch."""
    calls = []
    (module,) = denoiser.networks()
    own = sampler.sharpened(temperature, None, 1.0) if temperature != 1 else sampler
    if own is None:
        own, denoiser = sampler, Sharpened(denoiser, temperature)
    generator, parts = torch.Generator().manual_seed(seed), []
    counting = module.register_forward_hook(lambda *_: calls.append(1))
    for start in range(0, shape[0], BATCH):
        size = min(BATCH, shape[0] - start)
        given = {key: value[start : start + size] for key, value in condition.items()}
        canvas = Canvas.empty((size, shape[1]))
        parts.append(own.sample(denoiser, canvas, steps, generator, **given))
    counting.remove()
    return torch.cat(parts), len(calls) / len(parts)


class Digits:
    """The class-conditional teacher of the package, and its student."""

    name = "digits"

    def __init__(self, samples):
        self.samples, self.judge = samples, DigitsJudge(2)
        self.teacher = as_denoiser(shipped_teacher().eval())
        self.student = as_denoiser(shipped_student().eval())

    def real(self):
        """What as many real digits would have."""
        figures = self.judge.real(self.samples)
        return {key: figures[key] for key in ("fd", "confidence", "class_entropy", "novelty")}

    @cached_property
    def unseen(self):
        """Features of the digits that teacher, student and judge have not seen."""
        return self.judge.classifier.features(self.judge.split.held_out_tokens)

    def figures(self, sampler, steps, temperature, seed, denoiser=None):
        """Quality and variety of samples."""
        labels = torch.arange(self.samples) % 10
        run = (denoiser or self.teacher, sampler, steps, (self.samples, 64), temperature, seed)
        x, made = draw(*run, class_labels=labels)
        classifier = self.judge.classifier
        return {
            "made": made,
            **judge_samples(classifier, x, self.judge.split.train_tokens),
            "fd_held_out": frechet_distance(classifier.features(x), self.unseen),
            "pairwise": pairwise_distance(x),
        }

    def students(self, calls, seed):
        """That of the package, where it was trained for so many calls."""
        if calls in (1, 2, 4):
            yield "student", lambda: self.figures(Ancestral(), calls, 1.0, seed, self.student)


class Text:
    """A masked diffusion model of characters, judged by n-grams of its training text."""

    name = "text"

    def __init__(self, samples, file, folder, steps):
        self.samples = samples
        tokenizer, train, rows, self.held_out = corpus(file)
        self.ngrams = judge(train, tokenizer)
        self.teacher = as_denoiser(teacher(folder, rows, tokenizer, steps).eval())

    def judged(self, x):
        """nll of the judge beside what shows how varied the samples are."""
        grams = (x.unfold(1, 4, 1) * 64 ** torch.arange(4)).sum(-1)
        return {
            "nll": self.ngrams.nats(x, self.ngrams.order),
            "entropy": token_entropy(x),
            "ngram_entropy": corpus_entropy(grams),
            "distinct_4": distinct(x, 4),
        }

    def real(self):
        """As much text that nobody has seen."""
        return self.judged(self.held_out[: self.samples])

    def figures(self, sampler, steps, temperature, seed):
        """Quality and variety of samples."""
        x, made = draw(self.teacher, sampler, steps, (self.samples, LENGTH), temperature, seed)
        return {"made": made, **self.judged(x)}

    def students(self, calls, seed):
        """None."""
        return ()
