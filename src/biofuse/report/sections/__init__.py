"""The chapters of the report, each a function of what a run holds."""
