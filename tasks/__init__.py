"""Task declarations: one file per family; importing a file registers its tasks with seqio."""
