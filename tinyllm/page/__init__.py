"""From metrics, or from a model, to one HTML page: what report and inspect draw.

From the bottom up: style and document (what pages share); history (what is known of a run), curves
(thinning), charts and drawing (SVG), script, html (the report); tokens, heat, inside_script, inside (a
model's page).
"""
