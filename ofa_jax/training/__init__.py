"""The training step and what it is made of: optimiser, schedule, state, EMA, loop, preemption."""
