"""OCI images: descriptors, references, platforms and the graph of an image. No IO."""
