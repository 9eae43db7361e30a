"""Judges of samples, the figures that they tell, and quality against network calls.

A judge is a member of the family `Judge`: one file here and one line below.
Each metric is a plain function on tensors (float64) and, where users of `evaluate` expect one, an
`evaluate.Metric` beside it in the same file.
"""

from hf_ddistill.evaluation.digits_classifier import DigitsClassifier
from hf_ddistill.evaluation.digits_data import DigitSplit, load_digit_tokens, split_digits
from hf_ddistill.evaluation.digits_figures import (
    digit_figures,
    judge_real,
    judge_samples,
    real_figures,
)
from hf_ddistill.evaluation.digits_judge import DigitsJudge
from hf_ddistill.evaluation.diversity import (
    TokenDiversity,
    class_entropy,
    corpus_entropy,
    nearest_distance,
    pad_tokens,
    pairwise_distance,
    token_entropy,
    unique_fraction,
)
from hf_ddistill.evaluation.diversity_judge import DiversityJudge
from hf_ddistill.evaluation.frechet import FrechetDistance, frechet_distance
from hf_ddistill.evaluation.frontier import EntropyMatch, match_entropy, nfe_frontier
from hf_ddistill.evaluation.generative_perplexity import (
    GenerativePerplexity,
    generative_perplexity,
    token_nll,
)
from hf_ddistill.evaluation.judge import Judge, Source
from hf_ddistill.evaluation.likelihood import Bound, likelihood_bound
from hf_ddistill.evaluation.molecule_judge import MoleculeJudge
from hf_ddistill.evaluation.perplexity_judge import PerplexityJudge
from hf_ddistill.evaluation.sequence_scores import any_order_log_probability, mutation_scores
from hf_ddistill.evaluation.two_sample import two_sample_auc
from hf_ddistill.evaluation.two_sample_judge import TwoSampleJudge

__all__ = [
    "Bound",
    "any_order_log_probability",
    "likelihood_bound",
    "mutation_scores",
    "DigitSplit",
    "DigitsClassifier",
    "DigitsJudge",
    "DiversityJudge",
    "EntropyMatch",
    "FrechetDistance",
    "GenerativePerplexity",
    "Judge",
    "MoleculeJudge",
    "PerplexityJudge",
    "Source",
    "TokenDiversity",
    "TwoSampleJudge",
    "class_entropy",
    "corpus_entropy",
    "digit_figures",
    "frechet_distance",
    "generative_perplexity",
    "judge_real",
    "judge_samples",
    "load_digit_tokens",
    "match_entropy",
    "nearest_distance",
    "nfe_frontier",
    "pad_tokens",
    "pairwise_distance",
    "real_figures",
    "split_digits",
    "token_entropy",
    "token_nll",
    "two_sample_auc",
    "unique_fraction",
]
