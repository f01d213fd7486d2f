"""PNG, JPEG, TIFF and raw JSRT films."""

import functools
import struct

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from heartbox.phantom import write_phantoms
from heartbox.xray import as_xray, find_xrays, is_xray_file, picture, save_png
from heartbox.xray.errors import XRayError
from heartbox.xray.reader import load_xray, read_xray


def test_cut_off_pictures_are_refused_whatever_opencv_makes_of_them(tmp_path, monkeypatch):
    path = tmp_path / "cut.jpg"
    whole = cv2.imencode(".jpg", np.random.default_rng(3).integers(0, 255, (90, 90), np.uint8))[1].tobytes()
    path.write_bytes(whole[:3000])
    monkeypatch.setattr(picture.cv2, "imdecode", lambda *_: np.full((90, 90), 128, np.uint8))
    with pytest.raises(XRayError, match="cut off or damaged"):
        load_xray(path)


def test_picture_bomb_is_refused_before_decoding(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.new("1", (12_000, 12_000)).save(path)
    monkeypatch.setattr(picture.cv2, "imdecode", lambda *_: pytest.fail("was decoded"))
    assert path.stat().st_size < 100_000
    with pytest.raises(XRayError, match="12000 x 12000"):
        load_xray(path)


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize(("peak", "bits"), [(200, 8), (1000, 10), (4095, 12), (9000, 14), (60_000, 16)])
def test_sixteen_bit_pictures_use_the_bits_they_have(tmp_path, ending, peak, bits):
    path = tmp_path / f"Röntgen-胸部{ending}"
    path.write_bytes(cv2.imencode(ending, np.array([[0, peak // 2, peak]], np.uint16))[1].tobytes())
    film = load_xray(path)
    np.testing.assert_allclose(film.image, np.array([[0, peak // 2, peak]]) / (2**bits - 1), atol=1e-6)
    assert film.bits_stored == bits
    assert bool(film.notes) == (bits < 16)


def test_eight_bit_pictures(tmp_path):
    grey = np.array([[0, 51, 102]], np.uint8)
    for name, pixels in {
        "grey": grey,
        "alpha": np.dstack([grey, grey, grey, grey // 2]),
        "three": np.dstack([grey] * 3),
    }.items():
        path = tmp_path / f"{name}.png"
        path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        film = load_xray(path)
        np.testing.assert_allclose(film.image, [[0, 0.2, 0.4]], atol=1e-6)
        assert film.notes == () and film.transfer_syntax == "PNG" and film.photometric == ""


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_colour_pictures(tmp_path, mode):
    colour = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    Image.fromarray(colour).convert(mode).save(tmp_path / "colour.png")
    film = load_xray(tmp_path / "colour.png")
    np.testing.assert_allclose(film.image, [[0.299, 0.587, 0.114]], atol=0.5 / 255)
    assert "colour" in film.notes[0]


def test_grey_with_alpha_and_one_bit(tmp_path):
    Image.fromarray(np.array([[0, 51, 255]], np.uint8)).convert("LA").save(tmp_path / "la.png")
    np.testing.assert_allclose(read_xray(tmp_path / "la.png"), [[0, 0.2, 1]], atol=1e-6)
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "one.png")
    np.testing.assert_allclose(read_xray(tmp_path / "one.png"), [[0, 1]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_tiff(tmp_path, dtype):
    stored = np.array([[0, 40_000, 65_535]]) // (1 if dtype == np.uint16 else 257)
    stored = stored.astype(dtype)
    path = tmp_path / "film.tif"
    # Written by hand, so that no writer's idea of inversion comes between.
    kind = {"u1": 8, "u2": 16}[stored.dtype.str[1:]]
    tags = [(256, 3), (257, 1), (258, kind), (259, 1), (262, 0), (273, 8), (277, 1), (278, 1), (279, stored.nbytes)]
    body = stored.tobytes() + b"\0" * (-stored.nbytes % 4)
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory + b"\0\0\0\0")
    np.testing.assert_allclose(read_xray(path), 1 - stored / np.iinfo(dtype).max, atol=1e-6)


def test_pages_rotation_and_floats_are_noted(tmp_path):
    grey = Image.fromarray(np.array([[0, 51, 255]], np.uint8))
    grey.save(tmp_path / "pages.tif", save_all=True, append_images=[grey, grey])
    (note,) = load_xray(tmp_path / "pages.tif").notes
    assert note == "First page of 3 read. To have the others answered, save each as a file of its own."
    exif = Image.Exif()
    exif[0x0112] = 6
    grey.save(tmp_path / "turned.jpg", exif=exif)
    turned = load_xray(tmp_path / "turned.jpg")
    assert turned.image.shape == (1, 3) and "EXIF" in turned.notes[0]
    Image.fromarray(np.array([[0.0, 0.25, 1.0]], np.float32)).save(tmp_path / "float.tif")
    np.testing.assert_allclose(read_xray(tmp_path / "float.tif"), [[0, 0.25, 1]])
    Image.fromarray(np.array([[-100.0, 0.0, 300.0]], np.float32)).save(tmp_path / "float.tif")
    np.testing.assert_allclose(read_xray(tmp_path / "float.tif"), [[0, 0.25, 1]])
    Image.fromarray(np.array([[np.nan, 0.0, 1.0]], np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(XRayError, match="float.tif: .*NaN"):
        read_xray(tmp_path / "float.tif")


# ------------------------------------------------------------------------------------------ odd pictures


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("marker", [65535, 16000])
def test_a_few_bright_pixels_do_not_darken_a_film(tmp_path, phantom_pixels, ending, marker):
    """A 12-bit film in 16 bits with a marker far above it (PadChest): it came out nearly black."""
    pixels = phantom_pixels.copy()
    pixels[:5, :5] = marker
    path = tmp_path / f"film{ending}"
    path.write_bytes(cv2.imencode(ending, pixels)[1].tobytes())
    film = load_xray(path)
    np.testing.assert_allclose(film.image[6:], phantom_pixels[6:] / 4095, atol=1e-6)
    assert film.image[0, 0] == 1 and film.bits_stored == 12
    assert any("clipped" in note for note in film.notes)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("kind", ["f8", "f4", "f2", "u4", "i4", "i2", "u2", "u1"])
def test_tiffs_of_scientific_software(tmp_path, phantom_pixels, kind, bigtiff):
    grey = (phantom_pixels / 4095).astype("f8")
    steps = {"u4": 2**32 - 1, "i4": 2**31 - 1, "i2": 2**15 - 1, "u2": 2**16 - 1, "u1": 255}.get(kind, 1)
    tifffile.imwrite(tmp_path / "film.tif", (grey * steps).astype(kind), bigtiff=bigtiff)
    film = load_xray(tmp_path / "film.tif")
    np.testing.assert_allclose(film.image, grey, atol=1 / 200)
    assert film.transfer_syntax == "TIFF"


def test_compressed_inverted_and_paged_tiffs(tmp_path, phantom_pixels):
    grey = phantom_pixels / 4095
    tifffile.imwrite(tmp_path / "film.tif", [grey, 0 * grey], compression="zlib", photometric="miniswhite")
    film = load_xray(tmp_path / "film.tif")
    np.testing.assert_allclose(film.image, 1 - grey, atol=1e-6)
    assert film.notes == ("First page of 2 read. To have the others answered, save each as a file of its own.",)


def test_tiffs_that_are_not_known_are_not_called_damaged_only(tmp_path):
    tifffile.imwrite(tmp_path / "complex.tif", np.ones((40, 40), np.complex64))
    with pytest.raises(XRayError, match="complex.tif: .*a kind that is not known here"):
        load_xray(tmp_path / "complex.tif")
    tifffile.imwrite(tmp_path / "huge.tif", shape=(60_000, 60_000), dtype="f4")
    with pytest.raises(XRayError, match="huge.tif: (60000 x 60000 pixels|the file has)"):
        load_xray(tmp_path / "huge.tif")


def test_a_raw_jsrt_film(tmp_path, phantom_pixels):
    """No header: big-endian words of 12 bits, dense film (air) high, so bone is dark."""
    bone_bright = cv2.resize(phantom_pixels, (2048, 2048))
    path = tmp_path / "JPCLN001.IMG"
    path.write_bytes((4095 - bone_bright).astype(">u2").tobytes())
    film = load_xray(path)
    np.testing.assert_allclose(film.image, bone_bright / 4095, atol=1e-6)
    assert film.pixel_spacing == (0.175, 0.175) and "JSRT" in film.notes[0]
    assert is_xray_file(path)
    assert [source.path for source in find_xrays([tmp_path])] == [path]
    path.write_bytes((4095 - bone_bright).astype("<u2").tobytes())
    with pytest.raises(XRayError, match="JPCLN001.IMG: .*raw JSRT film, but its values"):
        load_xray(path)
    path.write_bytes(bytes(100))
    assert not is_xray_file(path)
    with pytest.raises(XRayError, match="not a DICOM"):
        load_xray(path)


def test_a_phantom_saved_as_png_is_not_a_patient(tmp_path):
    write_phantoms(tmp_path / "phantoms", 1, size=128, progress=False)
    phantom = load_xray(next((tmp_path / "phantoms").rglob("*.dcm")))
    assert phantom.is_synthetic
    save_png(tmp_path / "phantom.png", phantom)
    saved = load_xray(tmp_path / "phantom.png")
    assert saved.is_synthetic
    np.testing.assert_allclose(saved.image, phantom.image, atol=1e-5)
    save_png(tmp_path / "dark.png", as_xray(phantom.image / 8))
    dark = load_xray(tmp_path / "dark.png")
    assert not dark.is_synthetic  # an array does not say what it shows
    np.testing.assert_allclose(dark.image, phantom.image / 8, atol=1e-5)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_rotation_tag_is_noted_and_not_applied(tmp_path, kind, orientation):
    """OpenCV applies a TIFF's of its own accord; boxes refer to the pixels as they are stored."""
    stored = np.add.outer(2 * np.arange(40), 3 * np.arange(60)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "TIFF":
        tifffile.imwrite(tmp_path / "film", stored, extratags=[(0x0112, "H", 1, orientation, True)])
    else:
        Image.fromarray(stored).save(tmp_path / "film", kind, exif=exif, **({"quality": 98} if kind == "JPEG" else {}))
    film = load_xray(tmp_path / "film")
    np.testing.assert_allclose(film.image, stored / 255, atol=0.03 if kind == "JPEG" else 1e-6)
    assert "rotation tag, which was not applied" in film.notes[0]


@pytest.mark.parametrize("photometric", ["palette", "separated"])
def test_tiff_colours_that_are_not_grey_or_rgb(tmp_path, photometric):
    """Numbers of colours, or of inks, would be taken for greys."""
    numbers = np.random.default_rng(0).integers(0, 255, (40, 60), np.uint8)
    options = {"extratags": [(0x0112, "H", 1, 6, True)]}  # the rotation tag sends it to the other decoder
    if photometric == "palette":
        options["colormap"] = np.random.default_rng(1).integers(0, 2**16, (3, 256), np.uint16)
    else:
        numbers, options["planarconfig"] = np.repeat(numbers[..., None], 4, -1), "contig"
    tifffile.imwrite(tmp_path / "film.tif", numbers, photometric=photometric, **options)
    with pytest.raises(XRayError, match="the TIFF's colours are (PALETTE|SEPARATED), which is not read"):
        load_xray(tmp_path / "film.tif")


@pytest.mark.parametrize("kind", ["12 bits", "lossless", "JPEG-LS", "lossless colour"])
def test_jpeg_as_dicom_has_it(tmp_path, phantom_pixels, kind):
    """Other programs write such files out of DICOM as they are."""
    encode = {
        "12 bits": functools.partial(imagecodecs.jpeg_encode, level=100, bitspersample=12),
        "lossless": functools.partial(imagecodecs.jpeg_encode, lossless=True, bitspersample=12, predictor=1),
        "JPEG-LS": imagecodecs.jpegls_encode,
        "lossless colour": lambda pixels: imagecodecs.jpegls_encode(np.stack([(pixels >> 4).astype(np.uint8)] * 3, -1)),
    }[kind]
    data = encode(phantom_pixels)
    (tmp_path / "film.jpg").write_bytes(data)
    film = load_xray(tmp_path / "film.jpg")
    full = film.image * (2**film.bits_stored - 1)
    expected = phantom_pixels >> 4 if "colour" in kind else phantom_pixels
    assert full.shape == phantom_pixels.shape
    assert film.transfer_syntax == "JPEG"
    # JPEG-LS states 16 bits where its encoder was not told of fewer.
    np.testing.assert_allclose(full, expected, atol=8 if kind == "12 bits" else 0.01)
    (tmp_path / "film.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(XRayError, match="film.jpg: "):
        load_xray(tmp_path / "film.jpg")
