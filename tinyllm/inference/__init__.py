"""From a model to text: what generate and chat do, and what explain shows.

From outside use `language_model`, `conversation`, `beam`, `samples`, `tracing` and `settings`; the rest is
theirs. From the bottom up: settings (options), weights and cache (parameters, keys and values), prompt and
decode (many tokens at once, one at a time), sampling (the next token), writing and beam (texts),
language_model (loading), conversation (turns), samples (of a finished run), tracing (a forward on record).
"""
