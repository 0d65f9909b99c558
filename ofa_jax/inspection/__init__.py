"""What is in a data set: `python -m ofa_jax.inspect PATH`.

Reads records of any source, raw or prepared, and shows them as the model will meet them. In
reading order:

  opening   a path or a name -> records of a split
  survey    records -> fields, counts, lengths, sizes, faults
  tokens    records through the matching tasks -> token ids beside their text
  charts    histograms
  sheet     examples with their boxes drawn
  summary   text for the terminal
  page      one HTML page of everything
  build     all of it, in order, to a directory
"""
