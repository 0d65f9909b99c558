"""A training run: story, directory, log, state, tasks and rates, objective, engine and hosts."""
