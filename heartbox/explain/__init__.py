"""Which parts of an image an answer rests on, and whether that explanation is true."""

from heartbox.explain.attribution import EXPLANATIONS, class_activation_map, integrated_gradients, occlusion_map

__all__ = ["EXPLANATIONS", "class_activation_map", "integrated_gradients", "occlusion_map"]
