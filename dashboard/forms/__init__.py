"""Forms: fields from the catalog's JSON schemas, drafts of experiments, YAML."""
