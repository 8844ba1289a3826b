"""What drives a run: from texts or a checkpoint to a trained state.

From the bottom up: optim (one update of a slice), step (one update over all workers), metrics (the log),
environment (threads, processor, versions), setup (a run from texts or from a checkpoint), control (what the
loop is given), loop (what is due, until nothing is).
"""
