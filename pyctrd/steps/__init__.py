"""What the operations are made of and share: one blob fetched, a platform checked, a layer unpacked."""
