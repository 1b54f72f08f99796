"""Benchmarks: ours against peers and floors, as ratios measured in one run."""
