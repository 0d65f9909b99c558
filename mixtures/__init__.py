"""Mixture declarations: which tasks are trained together, at which rates, and why."""
