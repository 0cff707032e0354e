from medkd.report import provenance


def cells(table):
    return {row[0].text: row[1] for row in table.rows}


def test_what_nobody_filled_in_stands_out(segmentation):
    card = {"a": "", "b": None, "c": [], "d": " TODO ", "e": "none", "f": 0, "g": False}
    found = cells(provenance.card(segmentation.model_copy(update={"card": card})))
    blank = [key for key, cell in found.items() if cell.text == "not filled in"]
    assert blank == ["A", "B", "C", "D"]
    assert [found[key].text for key in "EFG"] == ["none", "0", "no"]


def test_what_the_data_set_does_not_tell_is_no_oversight(segmentation):
    card = {"patients": None, "cases": None}
    found = cells(provenance.card(segmentation.model_copy(update={"card": card})))
    assert (found["Patients"].text, found["Patients"].mood) == ("not stated by the data set", "")
    assert found["Cases"].text == "not filled in"


def test_leakage_is_shown_as_counts(segmentation):
    found = cells(provenance.leakage(segmentation))
    assert found["Patients in more than one part"].text == "0"
    leaky = segmentation.model_copy(update={"leakage": {"patients": 2}})
    assert cells(provenance.leakage(leaky))["Patients"].mood == "bad"


def test_paths_of_the_machine_stay_out(segmentation):
    config = {**segmentation.config, "study": {"root": "/secret"}}
    config["data"] = {**config["data"], "root": "/secret", "source": "/secret"}
    report = segmentation.model_copy(update={"config": config})
    sections = provenance.PREPARING | provenance.TRAINING
    tables = [*provenance.options(report, sections), provenance.data_options(report)]
    assert "/secret" not in str(tables)
    assert "pixel_kd" in str(tables)


def test_an_empty_config_gives_no_tables(segmentation):
    report = segmentation.model_copy(update={"config": {}, "environment": {}})
    assert provenance.options(report, provenance.TRAINING) == []
    assert provenance.environment(report).rows == ()


def test_the_split_says_cases_patients_and_digest(segmentation):
    row = [cell.text for cell in provenance.split(segmentation).rows[2]]
    assert row == ["Test", "52", "39", "c2d3e4f5a6b7c8d9"]


def test_each_loss_has_one_row_and_what_is_not_set_has_none(segmentation):
    losses = [{"name": "pixel_kd", "temperature": 2, "class_weights": None}, {"name": "dist"}]
    config = {"distill": {"losses": losses, "store": None, "online": False}}
    report = segmentation.model_copy(update={"config": config})
    (table,) = provenance.options(report, provenance.TRAINING)
    assert {key: cell.text for key, cell in cells(table).items()} == {
        "Losses · 1": "pixel_kd: temperature 2",
        "Losses · 2": "dist",
        "Online": "no",
    }


def test_the_prose_of_a_card_is_set_below_the_page_s_headings_and_runs_nothing(segmentation):
    text = "# Why\n\n- one\n\n<script>x</script> ![p](http://a/b.png) [l](javascript:x)"
    report = segmentation.model_copy(update={"card": {"prose": text, "name": "n"}})
    html = provenance.prose(report)
    assert "<h4>Why</h4>" in html
    assert "<li>one</li>" in html
    assert not any(tag in html for tag in ("<script", "<img", 'href="javascript'))
    assert list(cells(provenance.card(report))) == ["Name"]


def test_statistics_of_pictures_say_what_pictures_have(segmentation):
    sizes = {"shape": [[28, 28]] * 3, "spacing_mm": [[1.0, 1.0], [1.0, 1.0], [2.5, 1.0]]}
    card = {"statistics": sizes | {"orientations": {}}}
    found = cells(provenance.card(segmentation.model_copy(update={"card": card})))
    assert [cell.text for cell in found.values()] == [
        "28 x 28",
        "least 1 x 1, median 1 x 1, largest 2.5 x 1",
    ]
