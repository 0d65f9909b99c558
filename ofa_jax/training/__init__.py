"""The training step and what it is made of: optimizer, schedule, state, EMA, loop, preemption."""
