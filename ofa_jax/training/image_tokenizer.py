"""One training step of an image tokenizer: VQGAN and discriminator from one batch.

Takes the place of `training.step` in the same loop. Reads the images of a batch and nothing else,
so any task or mixture with images trains a tokenizer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int, Int32, PRNGKeyArray, PyTree, UInt8

from ofa_jax import schema
from ofa_jax.losses import adversarial
from ofa_jax.losses.perceptual import Perceptual
from ofa_jax.model.vqgan.autoencoder import VQGAN, normalized, to_pixels
from ofa_jax.model.vqgan.config import VQGANConfig
from ofa_jax.model.vqgan.discriminator import PatchDiscriminator
from ofa_jax.model.vqgan.networks import TRAINING
from ofa_jax.ops.conv import conv2d
from ofa_jax.schema import Between
from ofa_jax.training.ema import EMAConfig, update_ema
from ofa_jax.training.optimizer import global_norm
from ofa_jax.training.randomness import stream_key
from ofa_jax.training.schedule import Schedule, ScheduleConfig, build_schedule
from ofa_jax.training.state import TrainState
from ofa_jax.training.step import Batch, Metrics, TrainStep, replicated, split_microbatches

Weight = Annotated[float, Between(0, 1e6)]
Images = Float[Array, "b y x 3"]
Reconstruction = tuple[UInt8[Array, "b y x 3"], Int32[Array, "b gy gx"]]


@dataclasses.dataclass(frozen=True)
class ImageTokenizerConfig:
    """The losses of an image tokenizer (VQGAN_SPEC 6).

    Attributes:
      pixel_loss: "l1" (official), or "l2", which PSNR measures.
      codebook_weight: of the codebook's loss, or of the divergence of a Gumbel codebook.
      perceptual_weight: of the perceptual loss; 0 takes none.
      perceptual: files of LPIPS, or one `module:function` that returns feature maps of images.
      discriminator_weight: on top of the adaptive weight; 0 trains no discriminator.
      discriminator_start: finished steps from which the discriminator counts.
      discriminator_loss: "hinge" or "vanilla".
      discriminator_channels: of its first layer.
      discriminator_layers: that halve the image.
      temperature: of a Gumbel codebook; None is 1.
      unused_steps: steps without use after which a code counts as dead.
      revive: whether dead codes move to latents of the batch (only "nearest" codebooks), at the
        first step all that it did not use.
    """

    pixel_loss: Literal["l1", "l2"] = "l1"
    codebook_weight: Weight = 1.0
    perceptual_weight: Weight = 0.0
    perceptual: Sequence[str] = ()
    discriminator_weight: Weight = 0.0
    discriminator_start: Annotated[int, Between(0, 10**9)] = 0
    discriminator_loss: Literal["hinge", "vanilla"] = "hinge"
    discriminator_channels: Annotated[int, Between(1, 4096)] = 64
    discriminator_layers: Annotated[int, Between(1, 8)] = 3
    temperature: ScheduleConfig | None = None
    unused_steps: Annotated[int, Between(1, 10**9)] = 100
    revive: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.perceptual, str):
            object.__setattr__(self, "perceptual", (self.perceptual,))
        schema.check(self, "ImageTokenizerConfig")
        if self.perceptual_weight and not self.perceptual:
            raise ValueError(
                "ImageTokenizerConfig.perceptual_weight needs ImageTokenizerConfig.perceptual: the "
                "files of LPIPS (VGG16 and its channel weights), or module:function"
            )

    def check(self, model: VQGANConfig) -> None:
        """Fails where the losses do not fit a model.

        Raises:
          ValueError: naming the setting.
        """
        if model.quantizer == "gumbel" and self.revive:
            raise ValueError(
                "ImageTokenizerConfig.revive moves entries to latents, which a Gumbel codebook is "
                'not compared with: take models.VQGAN.quantizer = "nearest", or more kl_weight'
            )
        if model.quantizer != "gumbel" and self.temperature is not None:
            raise ValueError(
                "ImageTokenizerConfig.temperature is of a Gumbel codebook; models.VQGAN.quantizer "
                f"is {model.quantizer!r}"
            )


class TokenizerNetworks(nn.Module):
    """What is trained together: the tokenizer, its discriminator, and how long codes are unused.

    Attributes:
      config: of the tokenizer.
      losses: of the training.
    """

    config: VQGANConfig
    losses: ImageTokenizerConfig

    def setup(self) -> None:
        """Declares the networks."""
        self.autoencoder = VQGAN(self.config)
        losses = self.losses
        if losses.discriminator_weight:
            self.discriminator = PatchDiscriminator(
                losses.discriminator_channels, losses.discriminator_layers
            )
        # At first no code was ever used.
        self.unused = self.variable(
            "batch_stats",
            "unused",
            lambda: jnp.full((self.config.num_codes,), losses.unused_steps, jnp.int32),
        )

    def __call__(self, batch: Batch, *, train: bool = False) -> Images:
        """Reconstructs the images of a batch; makes all parameters."""
        images = normalized(batch["encoder_images"])
        reconstruction, _ = self.autoencoder(images)
        if self.losses.discriminator_weight:
            self.discriminator(images, train=train)
        return reconstruction


@dataclasses.dataclass(frozen=True)
class TokenizerGradients:
    """What one batch says.

    Attributes:
      gradients: of the parameters.
      statistics: running statistics of the discriminator.
      metrics: scalars by name, and the metrics by task.
      uses: how often each code was taken.
      latents: of all places.
    """

    gradients: PyTree
    statistics: PyTree
    metrics: Metrics
    uses: Int32[Array, "codes"]
    latents: Float[Array, "n d"]


def tokenizer_gradients(
    networks: TokenizerNetworks,
    perceptual: Perceptual | None,
    params: Mapping[str, PyTree],
    statistics: PyTree,
    images: Images,
    weights: Float[Array, "b"],
    step: Int[Array, ""] | int,
    *,
    temperature: Float[Array, ""] | float = 1.0,
    noise: Float[Array, "b gy gx codes"] | None = None,
) -> TokenizerGradients:
    """Losses and gradients of tokenizer and discriminator.

    One backward pass through the tokenizer: the adaptive weight needs the gradient of the last
    kernel only, which follows from the gradients of the image.

    OFA-NOTE: VQGAN_SPEC 6. Both networks learn from one forward pass; the original updates the
    tokenizer first and runs it again, with new noise, for the discriminator.

    Args:
      networks: the modules.
      perceptual: distance of images, or None.
      params: {"autoencoder", and "discriminator" where there is one}.
      statistics: of the discriminator; {} without.
      images: in [-1, 1].
      weights: 1 for examples that count, else 0.
      step: finished updates.
      temperature: of a Gumbel codebook.
      noise: of a Gumbel codebook.
    """
    losses, model = networks.losses, VQGAN(networks.config)
    autoencoder = params["autoencoder"]

    def reconstruct(autoencoder: PyTree):
        (image, quantized), seen = model.apply(
            {"params": autoencoder},
            images,
            noise=noise,
            temperature=temperature,
            mutable=[TRAINING],
        )
        return (image, quantized.loss), (quantized.codes, seen[TRAINING])

    def reconstruction_loss(image: Images):
        difference = images - image
        pixels = jnp.abs(difference) if losses.pixel_loss == "l1" else jnp.square(difference)
        pixel = adversarial.weighted_mean(pixels, weights)
        distance = jnp.float32(0.0)
        if perceptual is not None:
            distance = adversarial.weighted_mean(perceptual(images, image), weights)
        return pixel + losses.perceptual_weight * distance, (pixel, distance)

    (image, codebook), pull, (codes, seen) = jax.vjp(reconstruct, autoencoder, has_aux=True)
    (reconstruction, (pixel, distance)), to_image = jax.value_and_grad(
        reconstruction_loss, has_aux=True
    )(image)
    loss = reconstruction + losses.codebook_weight * codebook
    squares = jnp.mean(jnp.square(jnp.clip(image, -1, 1) - images), axis=(1, 2, 3))
    metrics = {
        "image/reconstruction": reconstruction,
        "image/pixel": pixel,
        "image/codebook": codebook,
        "image/squared_error": adversarial.weighted_mean(squares, weights),
    }
    if perceptual is not None:
        metrics["image/perceptual"] = distance
    gradients = {}
    if losses.discriminator_weight:
        part = _adversarial_part(
            networks, params["discriminator"], statistics, images, image, weights, step
        )
        statistics = part.statistics
        features: PyTree = seen["decoder"]["features"][0]
        kernel = autoencoder["decoder"]["conv_out"]["kernel"]
        _, pull_kernel = jax.vjp(lambda k: conv2d(features, k, padding=1), kernel)
        weight = losses.discriminator_weight * adversarial.adaptive_weight(
            pull_kernel(to_image), pull_kernel(part.to_image)
        )
        to_image = to_image + weight * part.active * part.to_image
        loss = loss + weight * part.active * part.generator
        gradients["discriminator"] = jax.tree.map(lambda g: part.active * g, part.gradients)
        metrics["image/generator"] = part.generator
        metrics["image/adversarial_weight"] = weight
        metrics["image/discriminator"] = part.active * part.loss
        metrics["image/score_real"] = part.real
        metrics["image/score_fake"] = -part.generator
    (gradients["autoencoder"],) = pull((to_image, jnp.float32(losses.codebook_weight)))
    latents: PyTree = seen["latents"][0]
    return TokenizerGradients(
        gradients=gradients,
        statistics=statistics,
        metrics={"loss": loss, **metrics},
        uses=jnp.zeros((networks.config.num_codes,), jnp.int32).at[codes.ravel()].add(1),
        latents=latents.reshape(-1, latents.shape[-1]),
    )


@dataclasses.dataclass(frozen=True)
class _AdversarialPart:
    active: Float[Array, ""]
    generator: Float[Array, ""]
    to_image: Images
    loss: Float[Array, ""]
    real: Float[Array, ""]
    gradients: PyTree
    statistics: PyTree


def _adversarial_part(
    networks: TokenizerNetworks,
    params: PyTree,
    statistics: PyTree,
    images: Images,
    image: Images,
    weights: Float[Array, "b"],
    step: Int[Array, ""] | int,
) -> _AdversarialPart:
    """What the discriminator says of originals and reconstructions, and learns from them."""
    losses = networks.losses
    module = PatchDiscriminator(losses.discriminator_channels, losses.discriminator_layers)

    def scores(params: PyTree, statistics: PyTree, images: Images):
        variables = {"params": params, "batch_stats": statistics}
        found, updated = module.apply(variables, images, train=True, mutable=["batch_stats"])
        return found, updated["batch_stats"]

    def judged(params: PyTree):
        real, updated = scores(params, statistics, images)
        fake, updated = scores(params, updated, jax.lax.stop_gradient(image))
        loss = adversarial.discriminator_loss(real, fake, losses.discriminator_loss, weights)
        return loss, (adversarial.weighted_mean(real, weights), updated)

    def fooled(image: Images) -> Float[Array, ""]:
        return adversarial.generator_loss(scores(params, statistics, image)[0], weights)

    (loss, (real, updated)), gradients = jax.value_and_grad(judged, has_aux=True)(params)
    generator, to_image = jax.value_and_grad(fooled)(image)
    active = adversarial.from_start(step, losses.discriminator_start)
    return _AdversarialPart(active, generator, to_image, loss, real, gradients, updated)


def revived(
    codebook: Float[Array, "codes d"],
    unused: Int[Array, "codes"],
    latents: Float[Array, "n d"],
    key: PRNGKeyArray,
    limit: int,
) -> tuple[Float[Array, "codes d"], Int[Array, "codes"]]:
    """Moves dead codes to latents of the batch, drawn at random.

    Args:
      codebook: entries.
      unused: steps since each was used.
      latents: of all places of the batch.
      key: of the step.
      limit: steps without use after which a code is dead.

    Returns:
      (entries, steps since use, 0 for those that moved).
    """
    dead = unused >= limit
    drawn = latents[jax.random.randint(key, unused.shape, 0, len(latents))]
    return jnp.where(dead[:, None], drawn, codebook), jnp.where(dead, 0, unused)


def make_tokenizer_step(
    networks: TokenizerNetworks,
    tx: optax.GradientTransformation,
    schedule: Schedule,
    *,
    perceptual: Perceptual | None = None,
    num_tasks: int = 1,
    num_microbatches: int = 1,
    ema: EMAConfig | None = None,
    state_shardings: PyTree[NamedSharding] = None,
    batch_shardings: PyTree[NamedSharding] = None,
    donate: bool = True,
) -> TrainStep:
    """Compiles the update of one global batch; the counterpart of `step.make_train_step`.

    Args:
      networks: what is trained.
      tx: the optimizer of both networks.
      schedule: finished updates to learning rate, for the metrics.
      perceptual: distance of images, or None.
      num_tasks: length of the metrics by task.
      num_microbatches: gradient accumulation; must divide the batch. Each has its own adaptive
        weight.
      ema: settings of the moving average; the state must hold one.
      state_shardings: pytree of shardings like the state, or None.
      batch_shardings: sharding(s) of the batch, or None.
      donate: whether the old state's memory may be reused.

    Returns:
      Jitted function (state, batch, base key) -> (state, metrics).
    """
    config, losses = networks.config, networks.losses
    losses.check(config)
    heat = build_schedule(losses.temperature) if losses.temperature else None

    def of_microbatch(
        params: PyTree, statistics: PyTree, batch: Batch, key: PRNGKeyArray, step: Int[Array, ""]
    ) -> TokenizerGradients:
        images, weights = normalized(batch["encoder_images"]), counted(batch)
        noise = None
        if config.quantizer == "gumbel":
            grid = (len(images), *(side // config.patch for side in images.shape[1:3]))
            noise = jax.random.gumbel(key, (*grid, config.num_codes))
        temperature = heat(step) if heat else 1.0
        found = tokenizer_gradients(
            networks,
            perceptual,
            params,
            statistics,
            images,
            weights,
            step,
            temperature=temperature,
            noise=noise,
        )
        if heat:
            cast(dict, found.metrics)["image/temperature"] = temperature
        return found

    def accumulate(state: TrainState, batch: Batch, key: PRNGKeyArray) -> TokenizerGradients:
        statistics = state.batch_stats.get("discriminator", {})
        if num_microbatches == 1:
            return of_microbatch(state.params, statistics, batch, key, state.step)

        def body(carry: tuple[PyTree, PyTree], part: tuple[Array, Batch]):
            index, microbatch = part
            found = of_microbatch(
                state.params, carry[1], microbatch, jax.random.fold_in(key, index), state.step
            )
            gradients = jax.tree.map(jnp.add, carry[0], found.gradients)
            return (gradients, found.statistics), (found.metrics, found.uses, found.latents)

        zeros = jax.tree.map(jnp.zeros_like, state.params)
        parts = (jnp.arange(num_microbatches), split_microbatches(batch, num_microbatches))
        (gradients, statistics), (metrics, uses, latents) = jax.lax.scan(
            body, (zeros, statistics), parts
        )
        return TokenizerGradients(
            jax.tree.map(lambda g: g / num_microbatches, gradients),
            statistics,
            jax.tree.map(jnp.mean, metrics),
            jnp.sum(uses, axis=0),
            latents[-1],
        )

    def train_step(
        state: TrainState, batch: Batch, base_rng: PRNGKeyArray
    ) -> tuple[TrainState, Metrics]:
        inputs = {name: batch[name] for name in batch if name in READ}
        found = accumulate(state, inputs, stream_key(base_rng, "codes", state.step))
        updates, opt_state = tx.update(found.gradients, state.opt_state, state.params)
        params: PyTree = optax.apply_updates(state.params, updates)
        unused = jnp.where(found.uses > 0, 0, state.batch_stats["unused"] + 1)
        dead = jnp.mean(unused >= losses.unused_steps)
        if losses.revive:
            quantizer = params["autoencoder"]["quantizer"]
            entries, unused = revived(
                quantizer["codebook"],
                unused,
                found.latents,
                stream_key(base_rng, "revival", state.step),
                losses.unused_steps,
            )
            quantizer = {**quantizer, "codebook": entries}
            params = {**params, "autoencoder": {**params["autoencoder"], "quantizer": quantizer}}
        statistics = {**state.batch_stats, "unused": unused}
        if "discriminator" in statistics:
            statistics["discriminator"] = found.statistics
        step = state.step + 1
        average = state.ema
        if ema is not None and average is not None:
            average = update_ema(average, params, statistics, step, ema)
        shares = found.uses / jnp.sum(found.uses)
        squared_error = found.metrics.pop("image/squared_error")
        metrics = {
            **found.metrics,
            # Of values in [-1, 1].
            "image/psnr": 10 * jnp.log10(4 / jnp.maximum(squared_error, 1e-10)),
            "codes/perplexity": jnp.exp(-jnp.sum(jax.scipy.special.xlogy(shares, shares))),
            "codes/dead": dead,
            "gradient_norm": global_norm(found.gradients),
            "param_norm": global_norm(state.params),
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
            # The loss is of the whole batch: no task has one of its own.
            "task_loss_sum": jnp.zeros((num_tasks,)),
            "task_tokens": jnp.zeros((num_tasks,)),
        }
        state = TrainState(
            step=step, params=params, opt_state=opt_state, batch_stats=statistics, ema=average
        )
        return state, metrics

    options: dict[str, PyTree] = {"donate_argnums": (0,)} if donate else {}
    if state_shardings is not None:
        options["in_shardings"] = (state_shardings, batch_shardings, None)
        options["out_shardings"] = (state_shardings, replicated(state_shardings))
    return jax.jit(train_step, **options)


# What the step reads of a batch.
READ = ("encoder_images", "encoder_image_masks", "decoder_loss_weights")


def counted(batch: Batch) -> Float[Array, "b"]:
    """1 for examples with an image that were read, 0 for those that stand in for a bad record."""
    was_read = jnp.any(batch["decoder_loss_weights"] > 0, axis=1)
    return (batch["encoder_image_masks"] & was_read).astype(jnp.float32)


def make_reconstruction(
    config: VQGANConfig,
) -> Callable[[Mapping[str, PyTree], UInt8[Array, "b y x 3"]], Reconstruction]:
    """The program that shows what a tokenizer keeps of images.

    Returns:
      (parameters of the tokenizer, pixels) to (pixels, codes).
    """
    model = VQGAN(config)

    def reconstruct(params: Mapping[str, PyTree], pixels: UInt8[Array, "b y x 3"]):
        with jax.default_matmul_precision("float32"):
            codes = model.apply({"params": params}, normalized(pixels), method="encode")
            image: PyTree = model.apply({"params": params}, codes, method="decode")
        return to_pixels(image), codes

    return jax.jit(reconstruct)
