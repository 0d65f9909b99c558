"""Tasks: the instruction language, what a task reads and how it answers, its place in seqio."""
