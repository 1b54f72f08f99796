"""Train on packed multimodal streams: small commands over plain PyTorch."""
