"""What an image is: descriptors, references, platforms and the graph of an image. Pure: no IO."""
