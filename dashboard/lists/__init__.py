"""Lists: rows of tables as text, filters, pages, selections, actions on many rows."""
