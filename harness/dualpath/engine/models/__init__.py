"""Models in torch, and checkpoints of them."""
