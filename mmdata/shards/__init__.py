"""The on-disk contract: tar shards, Arrow index, manifest, and random access to them."""
