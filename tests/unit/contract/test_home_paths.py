"""A path that begins with `{home}` is one of this machine's home."""

from tasks.recipes import load_recipe


def test_home_stands_for_this_machines_home(monkeypatch, tmp_path):
    monkeypatch.setenv("TIRFLOW_HOME", str(tmp_path))
    assert load_recipe("smol").model.path == f"{tmp_path}/models/smollm2-135m-instruct"
    given = load_recipe("smol", {"model.path": "/elsewhere"})
    assert given.model.path == "/elsewhere"
