"""Settings: where a value comes from, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from vedette.settings import Settings, SettingsError, load_settings


@pytest.fixture(autouse=True)
def _in_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_defaults_put_everything_into_the_data_directory(tmp_path: Path) -> None:
    settings, origins = load_settings({})
    data = tmp_path / "vedette-data"
    assert settings.data == data
    assert settings.control_uri == f"sqlite:///{data}/control.db"
    assert settings.lake_uri == str(data / "lake")
    assert settings.url == "http://127.0.0.1:5000"
    assert set(origins.values()) == {"default"}


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vedette.toml").write_text("port = 1\nhost = 'file'\nlake = 'file'\n")
    monkeypatch.setenv("VEDETTE_PORT", "2")
    monkeypatch.setenv("VEDETTE_HOST", "environment")
    settings, origins = load_settings({"port": "3", "host": None})
    assert (settings.port, settings.host, settings.lake) == (3, "environment", "file")
    assert origins["port"] == "flag --port"
    assert origins["host"] == "environment VEDETTE_HOST"
    assert origins["lake"] == "file vedette.toml, key lake"
    assert origins["workers"] == "default"


def test_sizes_and_paths_are_understood_as_people_write_them(tmp_path: Path) -> None:
    settings = load_settings({"max_body_bytes": "3MiB", "data": "~/v", "lake": "sub"}).settings
    assert settings.max_body_bytes == 3 * 1024 * 1024
    assert settings.data == Path.home() / "v"
    assert settings.lake_uri == str(tmp_path / "sub")
    assert load_settings({"lake": "s3://bucket/x"}).settings.lake_uri == "s3://bucket/x"


def test_an_empty_variable_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VEDETTE_LAKE", "")
    assert load_settings({}).settings.lake is None


@pytest.mark.parametrize(
    ("flags", "file", "said"),
    [
        ({"port": "high"}, "", ["flag --port", "'high'", "integer"]),
        ({"workers": "0"}, "", ["flag --workers", "greater than or equal to 1"]),
        ({}, "port = 70000", ["key port", "70000", "less than or equal to 65535"]),
        ({"lake": "memory://x"}, "", ["flag --lake", "memory:// is none of s3, "]),
        ({}, "prot = 1", ["vedette.toml", "unknown key prot", "did you mean port"]),
        ({}, "port = = 1", ["vedette.toml", "not valid TOML"]),
    ],
)
def test_a_wrong_value_is_refused_naming_its_place(
    tmp_path: Path, flags: dict[str, str], file: str, said: list[str]
) -> None:
    (tmp_path / "vedette.toml").write_text(file)
    with pytest.raises(SettingsError) as refusal:
        load_settings(flags)
    for words in said:
        assert words in str(refusal.value)


def test_a_variable_that_is_nearly_a_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VEDETTE_API_KEY", "somebody else's")
    monkeypatch.setenv("VEDETTE_TRACE_COMPLETION_BUFER", "2")

    with pytest.raises(SettingsError, match=r"BUFER: .*; VEDETTE_TRACE_COMPLETION_BUFFER\?"):
        load_settings({})


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VEDETTE_WORKERS", "many")
    with pytest.raises(SettingsError) as refusal:
        load_settings({"port": "high"})
    assert "flag --port" in str(refusal.value)
    assert "environment VEDETTE_WORKERS" in str(refusal.value)


def test_a_file_that_was_asked_for_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--config: there is no file"):
        load_settings({}, tmp_path / "missing.toml")


def test_settings_do_not_change_while_running() -> None:
    settings = Settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1  # type: ignore[misc]
