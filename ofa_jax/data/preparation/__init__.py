"""From any source to shards on disk: checked, filtered, resized, resumable, reproducible.

`plan` decides which records go into which shard, `conversion` turns one record into one stored
example or says why not, `shards` writes one shard, `local_engine` and `beam_pipeline` write all of
them in parallel, `manifest` says what is in the directory. `python -m ofa_jax.prepare` calls them.
"""
