"""From metrics to one HTML page: what report draws.

From the bottom up: history (what is known of a run), curves (thinning), drawing and charts (SVG), style
and script, html (the whole).
"""
