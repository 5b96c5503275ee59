"""The plan: from parameters to datasets, conditions and runs."""
