"""People, projects, and what a person may see and change."""
