"""The official optimizer as optax transformations (SPEC 6.1).

Gradient, then clipping by global norm, then fairseq's Adam, then decoupled weight decay, then the
learning rate. All states are optax's own types, which t5x knows how to shard and which hold only
arrays. Chosen matrices can be updated by Muon in place of Adam, which official runs never do.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
import regex
from jaxtyping import Array, Float, PyTree

from ofa_jax import schema
from ofa_jax.schema import Between
from ofa_jax.training.schedule import Schedule, ScheduleConfig, build_schedule

__all__ = [
    "CLIP_EPSILON",
    "MATCH_SECONDS",
    "MUON_RMS",
    "OptimizerConfig",
    "Pattern",
    "build_optimizer",
    "check_patterns",
    "clip_by_global_norm",
    "compiled",
    "global_norm",
    "matching_paths",
    "parameter_path",
    "scale_by_fairseq_adam",
    "scale_by_muon",
    "scale_by_path",
]

CLIP_EPSILON = 1e-6
TRAINED, FROZEN = "trained", "frozen"
ADAM, MUON = "adam", "muon"
# Root mean square of an update by Muon before the learning rate: about that of Adam's, so that
# both share one learning rate (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2).
MUON_RMS = 0.2
# One expression and one path.
MATCH_SECONDS = 1.0
Pattern = Annotated[str, Between(1, 10_000)]


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Settings of the optimizer.

    Attributes:
      schedule: the learning rate: settings, or a function from finished updates to it.
      beta1: decay of the first moment.
      beta2: decay of the second moment.
      eps: added to the square root of the uncorrected second moment.
      weight_decay: decoupled, times the learning rate.
      clip_norm: largest global gradient norm; 0 does not clip. 5 in pretraining, 1 elsewhere.
      frozen: regular expressions; parameters whose path has a match are never changed and have
        no moments. Paths look like "decoder/layers_0/self_attn/query/kernel".
      no_decay: regular expressions of parameters without weight decay; officially none.
      learning_rate_factors: (regular expression, factor); the first match scales the rate.
      muon: regular expressions; matrices whose path has a match are updated by Muon (momentum made
        orthogonal, Jordan et al. 2024) in place of Adam. Everything else stays as it is.
      muon_beta: decay of Muon's momentum.
    """

    schedule: ScheduleConfig | Schedule
    beta1: float = 0.9
    beta2: float = 0.999
    eps: Annotated[float, Between(1e-30, 1)] = 1e-8
    weight_decay: Annotated[float, Between(0, 1000)] = 0.01
    clip_norm: Annotated[float, Between(0, 1e9)] = 1.0
    frozen: tuple[Pattern, ...] = ()
    no_decay: tuple[Pattern, ...] = ()
    learning_rate_factors: tuple[tuple[Pattern, float], ...] = ()
    muon: tuple[Pattern, ...] = ()
    muon_beta: float = 0.95

    def __post_init__(self) -> None:
        schema.check(self, "OptimizerConfig")
        for name in ("beta1", "beta2", "muon_beta"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"OptimizerConfig.{name} must be in [0, 1): {getattr(self, name)}")
        for name in ("frozen", "no_decay", "muon"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for pattern in self.patterns:
            compiled(pattern)

    @property
    def patterns(self) -> tuple[str, ...]:
        """All its expressions."""
        factors = [pattern for pattern, _ in self.learning_rate_factors]
        return (*self.frozen, *self.no_decay, *self.muon, *factors)


@functools.lru_cache(maxsize=1024)
def compiled(pattern: str) -> Callable[[str], bool]:
    """Whether a path has a match of an expression.

    Args:
      pattern: a regular expression.

    Returns:
      The question; it raises ValueError where the answer takes more than `MATCH_SECONDS`, since
      some expressions try all ways to divide a path among their parts.

    Raises:
      ValueError: it is no regular expression.
    """
    try:
        expression = regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None

    def matches(path: str) -> bool:
        try:
            return expression.search(path, timeout=MATCH_SECONDS) is not None
        except TimeoutError:
            raise ValueError(
                f"{pattern!r} takes more than {MATCH_SECONDS} seconds to match {path!r}; "
                "repetitions inside of repetitions, as in (a+)+, do"
            ) from None

    return matches


def parameter_path(path: Sequence[object]) -> str:
    """A tree path as "encoder/layers_0/ffn_in/kernel".

    Args:
      path: key path from `jax.tree_util`; the box of a partitioned parameter adds no name.

    Returns:
      The dictionary keys joined by slashes.
    """
    return "/".join(str(key.key) for key in path if hasattr(key, "key"))


def matching_paths(tree: PyTree, patterns: Sequence[str]) -> PyTree[bool]:
    """Which leaves' paths contain a match of any pattern.

    Args:
      tree: parameters, as dict, FrozenDict or boxed.
      patterns: regular expressions.

    Returns:
      The same containers with bool leaves.
    """
    questions = [compiled(pattern) for pattern in patterns]

    def matches(path: Sequence[object], _: object) -> bool:
        name = parameter_path(path)
        return any(is_match(name) for is_match in questions)

    return jax.tree_util.tree_map_with_path(matches, tree)


def check_patterns(params: PyTree, config: OptimizerConfig) -> None:
    """Finds expressions that match no parameter, which are typing errors, or no matrix for Muon.

    Args:
      params: the parameters or their shapes.

    Raises:
      ValueError: naming the first such expression and some parameter paths, or the first parameter
        that Muon cannot update.
    """
    paths = [parameter_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern in config.patterns:
        if not any(map(compiled(pattern), paths)):
            raise ValueError(
                f"{pattern!r} matches no parameter; there are for example "
                f"{', '.join(paths[:: max(1, len(paths) // 4)])}"
            )
    is_muon = jax.tree.leaves(matching_paths(params, config.muon))
    for path, leaf, chosen in zip(paths, jax.tree.leaves(params), is_muon, strict=True):
        if chosen and leaf.ndim < 2:
            raise ValueError(f"OptimizerConfig.muon matches {path!r}, which is not a matrix")


def global_norm(tree: PyTree[Array]) -> Float[Array, ""]:
    """Euclidean norm over all leaves."""
    squares = [jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, jnp.float32(0.0)))


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales by max_norm / (norm + 1e-6) where the norm is larger (SPEC 6.1).

    Args:
      max_norm: the largest norm.

    Returns:
      A stateless transformation.
    """

    def update(updates, state, params=None):
        del params
        factor = jnp.minimum(1.0, max_norm / (global_norm(updates) + CLIP_EPSILON))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _one_minus_power(beta: float, steps: Float[Array, ""]) -> Float[Array, ""]:
    """1 - beta^steps, keeping the digits that float32 loses for beta near 1."""
    if beta == 0.0:
        return jnp.ones_like(steps)
    return -jnp.expm1(steps * math.log(beta))


def scale_by_fairseq_adam(beta1: float, beta2: float, eps: float) -> optax.GradientTransformation:
    """Adam with eps on the uncorrected second moment (SPEC 6.1).

    The update is sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + eps); optax's and PyTorch's
    own Adam divide by sqrt(v / (1 - beta2^t)) + eps, which weighs eps differently in early steps.

    Args:
      beta1: decay of the first moment.
      beta2: decay of the second moment.
      eps: see above.

    Returns:
      A transformation with `optax.ScaleByAdamState`; moments are float32.
    """

    def init(params):
        def zeros():
            return jax.tree.map(lambda p: jnp.zeros_like(p, dtype=jnp.float32), params)

        return optax.ScaleByAdamState(count=jnp.zeros((), jnp.int32), mu=zeros(), nu=zeros())

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        updates = jax.tree.map(lambda g: g.astype(jnp.float32), updates)
        mu = jax.tree.map(lambda m, g: beta1 * m + (1.0 - beta1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: beta2 * v + (1.0 - beta2) * g * g, state.nu, updates)
        steps = jnp.asarray(count, jnp.float32)
        correction = jnp.sqrt(_one_minus_power(beta2, steps)) / _one_minus_power(beta1, steps)
        updates = jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)


def scale_by_muon(beta: float) -> optax.GradientTransformation:
    """Muon's direction: the momentum with all singular values near one, times `MUON_RMS`.

    The last two axes are the matrix; axes before them (scanned layers) are separate matrices. The
    update of an [in, out] matrix is scaled by sqrt(max(in, out)), which makes its root mean square
    `MUON_RMS` whatever the shape.

    Args:
      beta: decay of the momentum (Nesterov).

    Returns:
      A transformation with `optax.contrib.MuonState`.
    """

    # Imported where it is needed: all that optax has contributed is half a second.
    from optax import contrib

    def matrices(params):
        return jax.tree.map(lambda _: contrib.MuonDimensionNumbers(-2, -1), params)

    def scale(updates, params=None):
        del params
        return jax.tree.map(lambda u: u * (MUON_RMS * max(u.shape[-2:]) ** 0.5), updates)

    orthogonal = contrib.scale_by_muon(beta=beta, weight_dimension_numbers=matrices)
    return optax.chain(orthogonal, optax.stateless(scale))


def scale_by_path(factors: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
    """Multiplies updates by the factor of the first expression that matches their path.

    Args:
      factors: (regular expression, factor) pairs.

    Returns:
      A stateless transformation.
    """
    questions = [(compiled(pattern), factor) for pattern, factor in factors]

    def scale(path, update):
        name = parameter_path(path)
        for is_match, factor in questions:
            if is_match(name):
                return update * factor
        return update

    def apply(updates, state, params=None):
        del params
        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), apply)


def build_optimizer(config: OptimizerConfig) -> tuple[optax.GradientTransformation, Schedule]:
    """The whole update rule (SPEC 6.1) and its schedule.

    OFA-NOTE: SPEC 6.1. Parameters that a batch does not touch have gradient zero here and are
    decayed, as in the official half-precision runs with flat gradients; an official float32 run
    leaves parameters without a gradient alone.

    Returns:
      The optax transformation, whose updates are to be added to the parameters, and the schedule
      from finished updates to learning rate.
    """
    given = config.schedule
    schedule = build_schedule(given) if isinstance(given, ScheduleConfig) else given
    parts = []
    if config.clip_norm:
        parts.append(clip_by_global_norm(config.clip_norm))
    direction = scale_by_fairseq_adam(config.beta1, config.beta2, config.eps)
    if config.muon:

        def labels(params):
            chosen = matching_paths(params, config.muon)
            return jax.tree.map(lambda is_muon: MUON if is_muon else ADAM, chosen)

        rules: dict[Hashable, Any] = {ADAM: direction, MUON: scale_by_muon(config.muon_beta)}
        direction = optax.multi_transform(rules, labels)
    parts.append(direction)
    if config.weight_decay:
        mask = None
        if config.no_decay:

            def mask(params):
                return jax.tree.map(lambda m: not m, matching_paths(params, config.no_decay))

        parts.append(optax.add_decayed_weights(config.weight_decay, mask))
    if config.learning_rate_factors:
        parts.append(scale_by_path(config.learning_rate_factors))
    parts.append(optax.scale_by_schedule(lambda count: -schedule(jnp.asarray(count))))
    tx = optax.chain(*parts)
    if config.frozen:

        def labels(params):
            frozen = matching_paths(params, config.frozen)
            return jax.tree.map(lambda is_frozen: FROZEN if is_frozen else TRAINED, frozen)

        tx = optax.multi_transform({TRAINED: tx, FROZEN: optax.set_to_zero()}, labels)
    return tx, schedule
