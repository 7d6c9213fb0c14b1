"""Total variation and analytic centres."""
