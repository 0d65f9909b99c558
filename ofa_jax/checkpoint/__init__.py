"""Checkpoints: the manager of a run's own, and the files of fairseq and HuggingFace, both ways."""
