"""A mixture in which nothing is left to train, as a user's own module would register it."""

import tasks.scenes  # noqa: F401  (registers the tasks)
from ofa_jax.data.tasks.registration import add_mixture

add_mixture("nothing_to_train", {"scenes_vqa": 0.0, "scenes_detection": 0.0})
