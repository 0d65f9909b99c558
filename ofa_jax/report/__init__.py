"""The report of a run: one HTML page with curves, tables and images of held-out answers.

Reads the files that training and evaluation left in a run directory and imports nothing of the
model, so it works on any machine, also long after the run. In reading order:

  collect    files -> `RunRecord`; says what is missing, refuses what is malformed
  labels     names and numbers as people read them
  examples   what kind of answer a task gives, which rows are right, which to show
  images   boxes and labels on upscaled images
  plots      loss, evaluation and throughput curves
  tables     of scores, as Markdown and CSV; comparison of several runs
  cards      held-out examples of a task
  gallery    one sheet of examples of all tasks
  rendering  the templates of `templates/`, every value escaped
  page       the whole page
  build      all of it, in order, to RUN_DIR/report.html

`python -m ofa_jax.report RUN_DIR` is the command.
"""

# Shown of each task, at most.
DEFAULT_EXAMPLES = 24
