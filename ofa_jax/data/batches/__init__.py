"""Batches of a mixture: which examples each holds, of which static shape, and who reads them."""
