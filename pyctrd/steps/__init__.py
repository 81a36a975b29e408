"""The steps that operations share: fetch a blob, check platforms, unpack a layer, upload an image."""
