"""Any X-ray file -> one array that can be trusted, or an XRayError that says why not."""

from heartbox.xray.contrast import normalize_contrast
from heartbox.xray.discovery import XRaySource, find_xrays
from heartbox.xray.errors import XRayError
from heartbox.xray.image import XRay, resize_xray
from heartbox.xray.picture import save_png
from heartbox.xray.reader import as_xray, is_xray_file, load_xray, read_xray

__all__ = [
    "XRay",
    "XRayError",
    "XRaySource",
    "as_xray",
    "find_xrays",
    "is_xray_file",
    "load_xray",
    "normalize_contrast",
    "read_xray",
    "resize_xray",
    "save_png",
]
