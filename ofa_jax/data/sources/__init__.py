"""Readers of data sets as people have them, a file per format, one protocol (`example.Source`)."""
