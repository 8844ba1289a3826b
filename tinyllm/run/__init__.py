"""A run as a value: everything that survives a crash, and nothing that computes.

From the bottom up: schedule, stopping and changes (pure values), state (all of a run, and a worker's memory),
phases (pretraining, then instruction tuning).
"""
