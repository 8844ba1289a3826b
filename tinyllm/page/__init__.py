"""From a run's metrics, or from a model, to one HTML page that needs no network.

From outside use `history.read_run`, `report.report_page`, `explain.explain_page` and
`shell.write_page`; all else is a part of those. From the bottom up: style and shell (shared); history (a
run as read back), curves (thinning), charts and drawing (SVG), report_script, report; tokens, heat,
explain_script, explain.
"""
