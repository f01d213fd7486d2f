"""Heart boxes with VGG16: as published, and improved."""
