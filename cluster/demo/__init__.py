"""The demo: rendered sample videos with exact masks, and the report of a workflow."""
