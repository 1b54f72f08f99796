"""Models by spec: built from numbers, or loaded."""

from mmtrain.models.build import build
from mmtrain.models.families import family_of, media_tokens, tokenizer_source, with_template
from mmtrain.models.kept import keep, rebuild

__all__ = ["build", "family_of", "keep", "media_tokens", "rebuild", "tokenizer_source", "with_template"]
