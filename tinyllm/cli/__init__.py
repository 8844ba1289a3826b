"""From argv to values, and from values to the screen.

Only these modules and the commands beside this folder print, parse options or read the clock; nothing below
imports them.

From the bottom up: clock, output (when it cannot be written), interrupt, request (what training is asked
for), arguments (options that programs share), options (argv of training to a request), command (streams, exit
codes), display and summary (what a person sees of a run), main (`tinyllm COMMAND`).
"""
