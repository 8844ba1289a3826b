"""From argv to values, and from values to the screen; besides the doors, the only place that speaks.

From the bottom up: clock, interrupt, request (what training is asked for), arguments (options that programs
share), options (argv of training to a request), command (streams, exit codes), display and summary (what a
person sees of a run), main (`tinyllm COMMAND`).
"""
