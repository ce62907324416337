"""Classification of images: data sets, networks, metrics and diagnostics."""
