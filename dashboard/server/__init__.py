"""The web server around the pages: assets, who may enter, how people log in."""
