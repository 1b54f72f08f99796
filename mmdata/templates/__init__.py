"""Templates: the parts of a sample to token ids, places of media, and the spans that are trained."""

from mmdata.templates._codec import Tokenizer
from mmdata.templates._encode import MEDIUM, Encoded, encode
from mmdata.templates._plain import PROMPTS, Plain, Turn
from mmdata.templates._template import Template, TrainOn, Weights, digest, get_template, names
from mmdata.templates._truncate import Truncated, sentence_ends, truncate

__all__ = [
    "MEDIUM",
    "PROMPTS",
    "Encoded",
    "Plain",
    "Template",
    "Tokenizer",
    "TrainOn",
    "Truncated",
    "Turn",
    "Weights",
    "digest",
    "encode",
    "get_template",
    "names",
    "sentence_ends",
    "truncate",
]
