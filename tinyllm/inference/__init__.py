"""From a model to text: what generate and chat do.

From the bottom up: settings (what can be chosen), weights and cache (what a model knows and remembers),
prompt and decode (many tokens at once, one at a time), sampling (the next token), writing and beam (texts),
language_model (loading), conversation (turns), samples (a finished run's).
"""
