"""Lists of runs and experiments: rows of tables, filters, pages, selections, and actions on many rows."""
