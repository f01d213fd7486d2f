"""The left atrium in MRI: segmentation, volume and surface."""
