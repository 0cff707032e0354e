import io

from rich.console import Console

from medkd import doctor as module
from medkd.doctor import doctor


def shown(table):
    text = io.StringIO()
    Console(file=text, width=200).print(table)
    return text.getvalue()


def test_names_what_is_missing_and_how_to_get_it(monkeypatch):
    monkeypatch.setattr(module, "EXTRAS", {"train": ("torch", "no_such_module")})
    text = shown(doctor())
    assert "missing no_such_module" in text
    assert "pip install '.[train]' in your clone of medkd" in text


def test_what_a_device_needs_comes_without_an_extra(monkeypatch):
    monkeypatch.setattr(module, "EXTRAS", {"device": ("no_such_module",)})
    assert "pip install . in your clone of medkd" in shown(doctor())


def test_says_when_the_data_folder_is_not_named(monkeypatch):
    monkeypatch.delenv("MEDKD_DATA", raising=False)
    assert "export MEDKD_DATA=FOLDER" in shown(doctor())
    monkeypatch.setenv("MEDKD_DATA", "/some/folder")
    assert "/some/folder" in shown(doctor())
