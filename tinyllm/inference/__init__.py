"""From a model to text: what generate and chat do.

From the bottom up: settings (what can be chosen), decode (the cache of keys and values), sampling and beam
(the next token), language_model (loading, writing), conversation (turns), samples (a finished run's).
"""
