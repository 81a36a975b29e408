"""Image archives: their contents, their layout, the tar writer, and where they are written to."""
