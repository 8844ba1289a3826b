"""Texts written for this project: the default run trains on them; docs/data.md describes them."""
