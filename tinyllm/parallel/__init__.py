"""Who computes: threads of this process; bits depend on how many there are, and on nothing else about them.

From the bottom up: threads (how many, and BLAS's own), team (a task on every worker).
"""
