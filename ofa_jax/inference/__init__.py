"""Asking a trained model: loading it, the one answerer, streams of images, generated images."""
