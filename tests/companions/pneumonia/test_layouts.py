"""Raw folders for the pneumonia companion: RSNA's and NIH's labels, and everything that may be wrong with them."""

import json
import shutil

import pytest
from pneumonia_films import prepare_quietly, problems_of, rsna_rows, write_rsna

from companions.pneumonia import layouts
from companions.pneumonia.layouts import list_xrays
from heartbox.data.tables import TableError


def test_rsna_rows_of_one_film_are_joined(rsna):
    films, problems = list_xrays(rsna)
    assert problems == []
    assert [film.name for film in films] == list("abcdefgh")
    assert [film.target for film in films] == [1, 1, 1, 1, 0, 0, 0, 0]
    assert films[1].boxes == ((0, 0, 25, 20), (30, 10, 50, 20))
    assert films[4].boxes == ()


def test_the_same_row_twice_is_one_box(rsna):
    write_rsna(rsna, [*rsna_rows(rsna), "a,5,4,10,20,1"])
    assert list_xrays(rsna)[0][0].boxes == ((5, 4, 15, 24),)


def test_nih_films(nih):
    films, problems = list_xrays(nih)
    assert problems == []
    assert [film.patient for film in films] == ["00000001"] * 2 + ["00000002"] * 2 + ["00000003"] * 2
    assert [film.target for film in films] == [0, 1, 1, 1, 0, 0]
    assert [film.follow_up for film in films] == [0, 7, 0, 1, 0, 1]
    assert films[2].reader_class == "Lung Opacity"
    assert {film.view for film in films} == {""}
    prepared = prepare_quietly(nih, nih / "out", size=32)
    assert prepared.boxes_of(2).tolist() == [[8, 16, 12, 24]]  # from a frame of 512 to one of 32


def test_nih_views_from_its_own_table(nih):
    (nih / "Data_Entry_2017_v2020.csv").write_text(
        "Image Index,Finding Labels,View Position\n00000001_000.png,No Finding,AP\n00000009_000.png,Mass,PA\n"
    )
    assert [film.view for film in list_xrays(nih)[0]] == ["AP", "", "", "", "", ""]


def test_rsna_patients_from_the_published_matching(rsna):
    """RSNA numbers images, not people: two of them may be of one NIH patient."""
    entries = [{"subset_img_id": name, "img_id": f"0000000{i // 2}_00{i}.png"} for i, name in enumerate("abcdefgh")]
    (rsna / layouts.RSNA_ORIGINS).write_text(json.dumps(entries))
    prepared = prepare_quietly(rsna, rsna / "out", size=32)
    assert prepared.labels["patient"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    for no_mapping in ("[1]", "[]"):
        (rsna / layouts.RSNA_ORIGINS).write_text(no_mapping)
        with pytest.raises(ValueError, match=f"{layouts.RSNA_ORIGINS}.*not the mapping"):
            list_xrays(rsna)


def test_a_mapping_of_other_films_is_named(rsna):
    entries = [{"subset_img_id": name, "img_id": f"0000000{name}_000.png"} for name in "12"]
    entries.append({"subset_img_id": "a", "img_id": "00000001_000.png"})
    (rsna / layouts.RSNA_ORIGINS).write_text(json.dumps(entries))
    ((name, reason),) = problems_of(rsna, "patient")
    assert name == layouts.RSNA_ORIGINS
    assert reason.startswith("7 of 8 images are not in it")


def test_what_readers_said_must_fit_the_target(rsna):
    rows = ["patientId,class", "a,Normal", "b,Lung Opacity", "e,Lung Opacity", "f,No Lung Opacity / Not Normal"]
    (rsna / layouts.RSNA_CLASSES).write_text("\n".join(rows) + "\n")
    assert [name for name, _ in problems_of(rsna, "contradiction")] == ["a", "e"]


def test_a_name_that_is_not_nihs_says_nothing_of_the_patient(nih):
    for path in sorted((nih / "images").iterdir()):
        path.rename(path.with_name(path.name.replace("0000000", "film")))
    for name in ("labels.csv", "opacity_boxes_512.csv"):
        (nih / name).write_text((nih / name).read_text().replace("0000000", "film"))
    films = list_xrays(nih)[0]
    assert [film.name for film in films][:2] == ["film1_000", "film1_007"]
    assert {film.patient for film in films} == {""}
    assert prepare_quietly(nih, nih / "out", size=32).labels["patient"].nunique() == 6


def test_a_label_without_an_image_and_an_image_without_a_label(rsna):
    (rsna / layouts.RSNA_IMAGES / "a.dcm").unlink()
    write_rsna(rsna, rsna_rows(rsna)[:-1])
    assert problems_of(rsna, "no image") == [("a", "labelled, but there is no stage_2_train_images/a.dcm")]
    assert problems_of(rsna, "no label") == [("h", "no row in stage_2_train_labels.csv")]
    assert [film.name for film in list_xrays(rsna)[0]] == list("bcdefg")


@pytest.mark.parametrize("row", ["a,,,,,0", "e,1,1,5,5,0"])
def test_contradicting_rows_of_rsna(rsna, row):
    write_rsna(rsna, [*rsna_rows(rsna), row])
    (found,) = problems_of(rsna, "contradiction")
    assert found[0] == row[0]
    assert row[0] not in [film.name for film in list_xrays(rsna)[0]]


def test_contradicting_rows_of_nih(nih):
    with (nih / "labels.csv").open("a") as file:
        file.write("00000001_000.jpg,pneumonia,,\n00000003_000.jpg,mass,,\n00000003_001.jpg,no finding,,\n")
    assert [name for name, _ in problems_of(nih, "contradiction")] == ["00000001_000.jpg", "00000003_000.jpg"]
    assert len(list_xrays(nih)[0]) == 4


def test_a_normal_film_with_a_box_is_left_out(nih):
    with (nih / "opacity_boxes_512.csv").open("a") as file:
        file.write("00000003_000.jpg,128,256,64,128\n")
    assert problems_of(nih, "contradiction") == [
        ("00000003_000.jpg", "nih_label is 'no finding', but opacity_boxes_512.csv has 1 for it")
    ]
    assert "00000003_000" not in [film.name for film in list_xrays(nih)[0]]


def test_a_dangling_link_is_not_an_image(rsna, tmp_path):
    path = rsna / layouts.RSNA_IMAGES / "a.dcm"
    path.unlink()
    path.symlink_to(tmp_path / "nowhere.dcm")
    assert problems_of(rsna, "no image") == [("a", "labelled, but there is no stage_2_train_images/a.dcm")]
    assert len(prepare_quietly(rsna, rsna / "out", size=32).labels) == 7


def test_unusable_label(rsna, nih):
    write_rsna(rsna, [*rsna_rows(rsna)[:-1], "h,,,,,2"])
    assert problems_of(rsna, "label") == [("h", "Target is '2'; expected 0 or 1")]
    text = (nih / "labels.csv").read_text().replace("00000003_001.jpg,no finding", "00000003_001.jpg,effusion")
    (nih / "labels.csv").write_text(text)
    assert problems_of(nih, "label")[0][1].startswith("nih_label is 'effusion'")


@pytest.mark.parametrize("box", ["5,4,0,20", "5,4,-3,20", "x,4,10,20", "5,4,inf,20", "5,,10,20", "0.1,0.1,0.4,0.5"])
def test_a_wrong_box_costs_the_boxes_but_not_the_label(rsna, box):
    write_rsna(rsna, [*rsna_rows(rsna), f"b,{box},1"])
    assert [name for name, _ in problems_of(rsna, "box")] == ["b"]
    film = list_xrays(rsna)[0][1]
    assert (film.name, film.target, film.boxes) == ("b", 1, ())


def test_pneumonia_without_a_box_keeps_its_label(rsna):
    write_rsna(rsna, ["a,,,,,1", *rsna_rows(rsna)[1:]])
    assert problems_of(rsna, "box") == [("a", "Target is 1, but there is no box; the label is used")]
    assert list_xrays(rsna)[0][0].target == 1


def test_tables_that_cannot_be_used(rsna, nih):
    (rsna / layouts.RSNA_LABELS).write_text("patientId;Target\na;1\n")
    with pytest.raises(TableError, match="column patientId, x, y, width, height, Target is missing"):
        list_xrays(rsna)
    (rsna / layouts.RSNA_LABELS).write_bytes(b"")
    with pytest.raises(TableError, match=f"{layouts.RSNA_LABELS}: cannot be read as a csv"):
        list_xrays(rsna)
    text = (nih / "labels.csv").read_text()
    (nih / "labels.csv").write_text(text.replace("pneumonia", "no finding"))
    (nih / "opacity_boxes_512.csv").unlink()
    with pytest.raises(ValueError, match="0 usable films with pneumonia and 6 without"):
        list_xrays(nih)
    with pytest.raises(FileNotFoundError, match="images: has neither RSNA"):
        list_xrays(nih / "images")


def test_where_the_films_are(rsna, tmp_path, monkeypatch):
    monkeypatch.delenv("CARDIAC_DATA", raising=False)
    default, made = tmp_path / "data" / "pneumonia", []

    def make_sample(folder):
        made.append(folder)
        shutil.copytree(rsna, folder)
        (folder / layouts.SAMPLE_MARK).write_text("{}")

    source = layouts.find_data(default, make_sample)
    assert made == [source.folder] == [tmp_path / "data" / "pneumonia-sample"]
    assert (source.layout, source.is_synthetic) == ("sample", True)
    assert "synthetic" in source.message
    shutil.copytree(rsna, default / "rsna-pneumonia-detection-challenge")
    with pytest.raises(FileNotFoundError, match="data/pneumonia holds none of the layouts"):
        layouts.find_data(default, make_sample)  # data one folder too deep is not the same as no data
    monkeypatch.setenv("CARDIAC_DATA", str(rsna))
    source = layouts.find_data(default, make_sample)
    assert (source.folder, source.layout, source.is_synthetic) == (rsna, "rsna", False)
    monkeypatch.setenv("CARDIAC_DATA", str(made[0]))
    assert layouts.find_data(default, make_sample).is_synthetic  # phantoms are phantoms wherever they lie
    for wrong, words in ((tmp_path, "holds none of the layouts"), (tmp_path / "no", "does not exist")):
        monkeypatch.setenv("CARDIAC_DATA", str(wrong))
        with pytest.raises(FileNotFoundError, match=f"CARDIAC_DATA={wrong} {words}.*{layouts.RSNA_LABELS}"):
            layouts.find_data(default, make_sample)
    assert len(made) == 1


def test_the_real_folder(real_data):
    """The NIH films: 800 labels, 163 boxes on 104 films, three contradictions."""
    films, problems = list_xrays(real_data / "nih")
    # NIH found nothing in these, and RSNA's readers drew boxes.
    assert [(problem.name, problem.kind) for problem in problems] == [
        (f"{name}.jpg", "contradiction") for name in ("00002649_008", "00003005_022", "00003369_013")
    ]
    assert len(films) == 797
    assert sum(film.target for film in films) == 398
    assert sum(len(film.boxes) for film in films) == 163 - 5
    assert len({film.patient for film in films}) == 580
