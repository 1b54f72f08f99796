"""Rows of a table: what a Hugging Face model family expects of its batches."""
