"""Operations on one example: images, boxes, noise on text, negative samples.

Pure functions of arrays and a `numpy.random.Generator`; numpy and PIL only, so that the workers of
the input pipeline start fast. The instruction language composes them into tasks.
"""
