"""How far our numbers may be from the official ones: one table for all parity tests.

Both sides compute in float32, so both are off from the exact value. Where a fixture lists the
official error (`fp32_noise`, about 1e-6 to 1e-5) and twice that (theirs plus ours) is more than
the table allows, that is the bound: deep or wide models must not fail for noise that the original
has itself. On the fixture `mini` the table always applies.
"""

from __future__ import annotations

import numpy as np

# Largest absolute difference of normalized states (encoder output, decoder features). The residual
# stream inside is not normalized and grows with depth: there it is relative to the standard
# deviation, where that is above 1 (`state_bound`).
LAYER = 1e-5
LOGITS = 1e-4  # absolute: logits, log-sum-exp, log-probabilities
LOSS = 1e-5  # relative
GRADIENT_NORM = 1e-3  # relative, per parameter and of all
# Relative to the parameter's gradient norm, for single entries. A ReLU input within rounding of
# zero is on in one program and off in the other, and moves the stem's gradients by a finite
# amount: up to 3e-3 in the case `sample_patches`, where our float64 run agrees with the official
# float32 one to 1e-4.
GRADIENT_ENTRY = 5e-3
BEAM_SCORE = 1e-4  # absolute: scores of hypotheses
# Parameters after optimizer steps have gone as far as their gradients sent them, so what they
# went is as exact as the gradients: GRADIENT_NORM, relative to the norm of the movement (measured:
# up to 7e-4, of the stem's batch norms). Besides, relative to a parameter's own norm (measured:
# up to 1.2e-5, where four steps move the bias of a batch norm by a fiftieth of itself):
PARAMETER = 2e-5
# Adam divides each entry by its own size, so an entry whose gradient is nearly 0 is less exact:
# this share of the longest way that Adam can go (measured: 1e-2).
MOVED_ENTRY = 5e-2

# Some gradients are zero in exact arithmetic (biases of keys, for one: softmax does not see
# them), so what either side shows is noise. Differences below this share of the norm of the whole
# gradient count as equal.
GRADIENT_FLOOR = 1e-6
# The official optimizer run with batch statistics is reproducible only at its first step: later,
# Adam divides small noisy gradients (measured against float64: up to 4e-3 of the loss).
NOISY_STEPS = 1e-2

NOISE_FACTOR = 2.0

# The image tokenizer (VQGAN_SPEC 9). Absolute; a group norm with another eps (1e-5) misses the
# first three. The official model itself moves by up to 1e-5 between float32 and float64.
VQGAN_LATENTS = 5e-5
VQGAN_LOGITS = 5e-5
VQGAN_IMAGE = 3e-5
VQGAN_DISTANCES = 5e-4
# Relative to the norm of a parameter's gradient.
VQGAN_GRADIENT = 1e-3
# Absolute: scores of the discriminator; losses of training and LPIPS.
DISCRIMINATOR_SCORE = 1e-5
VQGAN_LOSS = 1e-5
# Relative: the quotient of two gradient norms.
ADAPTIVE_WEIGHT = 1e-3
TEMPERATURE = 1e-6  # absolute


def bound(tolerance: float, noise: float | None) -> float:
    """The allowed absolute difference.

    Args:
      tolerance: from the table.
      noise: measured error of the official float32 run, or None where it was not measured.

    Returns:
      `tolerance`, or twice the noise where that is larger.
    """
    return tolerance if noise is None else max(tolerance, NOISE_FACTOR * noise)


def state_bound(official: np.ndarray) -> float:
    """The allowed absolute difference of states that no norm has scaled yet.

    Args:
      official: float[...] official states.
    """
    return LAYER * max(1.0, float(np.std(official)))
