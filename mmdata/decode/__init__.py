"""Bytes and pixel operations to pixels: the only place that knows codecs."""
