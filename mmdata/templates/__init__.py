"""Templates: the parts of a sample to token ids, places of media, and the spans that are trained."""

from mmdata.templates._codec import Tokenizer
from mmdata.templates._encode import MEDIUM, Encoded, encode
from mmdata.templates._file import take_processors
from mmdata.templates._pairs import ANSWERS, is_pair
from mmdata.templates._plain import PROMPTS, Plain, Turn
from mmdata.templates._template import Template, TrainOn, Weights, digest, get_template, names
from mmdata.templates._truncate import Truncated, sentence_ends, truncate
from mmdata.templates._turns import Message, messages

__all__ = [
    "ANSWERS",
    "MEDIUM",
    "PROMPTS",
    "Encoded",
    "Message",
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
    "is_pair",
    "messages",
    "names",
    "sentence_ends",
    "take_processors",
    "truncate",
]
