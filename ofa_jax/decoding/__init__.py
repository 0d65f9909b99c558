"""Decoding: beam search, sampling, constraints and candidate ranking, all in static shapes.

Order of reading: `constraints`, `rules`, `unbranched`, `beam`, `sampling`, `ranking`, `generate`.
All but the last know the model only as a step function.
"""
