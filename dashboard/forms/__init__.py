"""The form of a new experiment: fields from the catalog's JSON schemas, drafts, import of YAML."""
