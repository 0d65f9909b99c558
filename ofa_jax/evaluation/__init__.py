"""Predict, post-process, score: from a trained model to metrics and prediction files."""
