"""OFA tasks as seqio's: its vocabulary, its tasks, its registry, and its text tasks as ours."""

# First of all: what `registration` puts into seqio's registry needs whole modules of this package.
import seqio  # noqa: F401
