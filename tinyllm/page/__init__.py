"""From metrics, or from a model, to one HTML page: what report and explain draw.

From the bottom up: style and shell (what pages share); history (what is known of a run), curves
(thinning), charts and drawing (SVG), report_script, report; tokens, heat, explain_script, explain (a
model's page).
"""
