"""Pictures, tables and the HTML report: the only place that imports matplotlib."""
