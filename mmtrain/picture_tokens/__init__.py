"""Tokenisers of pictures at work: their training, datasets as tokens, pictures that a language model writes."""
