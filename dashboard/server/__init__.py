"""The web server around the pages: delivery of assets, access checks, and login."""
