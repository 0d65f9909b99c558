"""Training losses: pure functions over logits, after the model and before the training step."""
