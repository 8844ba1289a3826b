"""One file is one layer: Params, Acts, forward, and backward directly beneath it."""
