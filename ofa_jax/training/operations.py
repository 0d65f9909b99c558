"""Floating-point operations that a step really executes, recomputation included.

Counted in its jaxpr, so loops count as often as they run and nothing is compiled; matrix products
and convolutions only. The model's own operations (`ofa_jax.model.flops`) divided by these are the
share that is not recomputed.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.extend


def count_operations(jaxpr: jax.extend.core.ClosedJaxpr | jax.extend.core.Jaxpr) -> int:
    """Operations of a jaxpr on the whole batch.

    Args:
      jaxpr: closed or open, for example `jax.jit(f).trace(*arguments).jaxpr`.

    Returns:
      2 per multiply-add. Of a conditional the longest branch counts, of a `while` one round.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            total += _dot_operations(equation)
        elif name == "conv_general_dilated":
            total += _convolution_operations(equation)
        elif name == "cond":
            total += max(count_operations(branch) for branch in equation.params["branches"])
        else:
            inner = sum(count_operations(part) for part in _inner_jaxprs(equation.params))
            total += inner * (equation.params["length"] if name == "scan" else 1)
    return total


def _inner_jaxprs(params: dict[str, object]) -> list[Any]:
    found = []
    for value in params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, (jax.extend.core.ClosedJaxpr, jax.extend.core.Jaxpr)):
                found.append(part)
    return found


def _dot_operations(equation: Any) -> int:
    left, _ = (variable.aval.shape for variable in equation.invars)
    (contracted, _), _ = equation.params["dimension_numbers"]
    out = math.prod(equation.outvars[0].aval.shape)
    return 2 * out * math.prod(left[axis] for axis in contracted)


def _convolution_operations(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    spec = equation.params["dimension_numbers"].rhs_spec
    out = math.prod(equation.outvars[0].aval.shape)
    window = math.prod(kernel[axis] for axis in spec[1:])
    # Zeros that a dilated input is filled with, as in the gradient of a strided convolution.
    return 2 * out * window // math.prod(equation.params["lhs_dilation"])
