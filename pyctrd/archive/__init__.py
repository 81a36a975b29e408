"""Image archives: what is in one (layout), how it is written (tar), and where to (output)."""
