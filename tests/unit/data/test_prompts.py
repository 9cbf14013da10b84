"""A prompt of the user's own: what is wrong with it is one line that names the file."""

import pytest

from data.prompts import render_prompt


@pytest.mark.parametrize(
    "template",
    [
        b"caf\xe9 {{ problem }}",
        b"{{ problem + 1 }}",
        b"{{ problem.solution }}",
        b"{{ answer }}",
        b"{{ 1 / 0 }}",
        b"{% if %}",
        b"{% include 'other.j2' %}",
        None,
    ],
)
def test_a_template_that_cannot_be_filled_in_is_named(tmp_path, template):
    path = tmp_path / "own.j2"
    if template is not None:
        path.write_bytes(template)
    with pytest.raises(ValueError, match=r"^prompt [^\n]*own\.j2: [^\n]+; it may use problem$"):
        render_prompt("live", str(path), problem="What is 1 + 1?")


def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path):
    (tmp_path / "own.j2").write_text("Solve: {{ problem }}", encoding="utf-8-sig")
    assert render_prompt("live", str(tmp_path / "own.j2"), problem="{{ 1 }}") == "Solve: {{ 1 }}"
