"""Scores of predictions against truths: numpy only, pure functions over lists.

Stands after post-processing (text, boxes or codes in the units of the data) and before the
report. One module per family:

  caption         CIDEr-D with cached document frequencies, BLEU-1..4, ROUGE-L
  vqa             official VQA accuracy with its answer normalizer, and OFA's in-training score
  grounding       IoU, accuracy at an IoU threshold, mean IoU
  detection       recall, precision and F1 of labeled boxes
  classification  accuracy, F1, Matthews correlation, majority baseline
  text            exact match, edit distance; ROUGE with stemming (rouge_score)
  image           code accuracy, Frechet distance, Inception score, CLIP similarities
  verdict         right, partly, wrong: one name for each, for scorers and the report

  generation      the same three of generated images, through networks that the caller plugs in

Through packages that the extra `eval` installs (a missing one is one sentence, `dependency`):

  average_precision  box AP of COCO (pycocotools)
  caption_server     PTB tokens, METEOR, SPICE (pycocoevalcap and Java)

Scores are shares in [0, 1] unless a docstring says otherwise (CIDEr-D reaches 10).
"""
