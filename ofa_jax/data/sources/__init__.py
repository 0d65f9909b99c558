"""Readers of data sets as people have them, one file per format, one protocol (`task.Source`)."""
