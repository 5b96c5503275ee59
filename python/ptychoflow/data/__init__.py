"""Files to records and back, and views of a scan: splits, groups, normalization."""
