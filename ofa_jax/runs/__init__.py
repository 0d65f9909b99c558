"""A training run: its story, folder, log, state, tasks and rates, objective, engine and hosts."""
