"""The crash matrix: every crash point of a save x every state that the disk may then be in.

From the bottom up: disk (files in memory, and a log of what was done to them), states (what may be left
of it, under three models), programs (what is crashed), verdict (what must hold afterwards), mutants (the
same with one step left out), matrix (all of it, counted), faults, page. `python -m tests.crash` prints it.
"""
