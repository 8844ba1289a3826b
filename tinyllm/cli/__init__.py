"""From argv to values, and from values to the screen; besides the doors, the only place that speaks.

From the bottom up: command (streams, exit codes), options (what may be asked of a training run), display
(what a person sees of it), main (`tinyllm COMMAND`).
"""
