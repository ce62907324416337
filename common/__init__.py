"""Code that the other packages share: files, processes, settings, text. It imports neither torch nor those packages."""
