"""Properties of a chat template from rendering, and refused templates."""

import pytest
from transformers import PreTrainedTokenizerFast

from tasks.shared.traces import tool_form
from tasks.shared.traces.chat_turns import ChatTurns, chat_turns
from tasks.shared.traces.dialect import DIALECTS
from tasks.shared.traces.encoding import encode_prompt
from tests.unit.generation.tiny import TEMPLATE, tiny_tokenizer

HERMES = DIALECTS["hermes"]
# renders tools, calls and results, as Qwen2.5's does
TOOLS = (
    "{% if tools %}<|user|>Tools:{% for t in tools %}\n{{ t | tojson }}{% endfor %}<|end|>\n{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}"
    "<|user|>\n<tool_response>\n{{ m.content }}\n</tool_response><|end|>\n"
    "{% else %}<|{{ m.role }}|>\n{{ m.content }}{% for c in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def tokenizer(template: str) -> PreTrainedTokenizerFast:
    """The tiny tokenizer with another template."""
    templated = tiny_tokenizer()
    templated.chat_template = template
    return templated


def test_a_template_that_knows_tools_writes_them_itself() -> None:
    turns = chat_turns(tokenizer(TOOLS))
    before, after = "<|end|>\n<|user|>\n<tool_response>\n", "\n</tool_response><|end|>\n<|assistant|>\n"
    assert turns == ChatTurns(before, after, lists_tools=True)
    messages, tools = turns.conversation("Q", "Be brief.")
    assert [m["role"] for m in messages] == ["system", "user"]
    assert tools == tool_form.TOOLS


def test_a_template_without_tools_gets_them_in_the_system_message() -> None:
    templated = tokenizer(TEMPLATE)
    turns = chat_turns(templated)
    assert turns == ChatTurns("<|end|>\n<|tool|>\n", "<|end|>\n<|assistant|>\n", lists_tools=False)
    text = templated.decode(encode_prompt(templated, HERMES, "2 + 5?", instructed=False, system="Be brief."))
    assert text.startswith("<|system|>\nBe brief.\n\nYou may call")
    assert HERMES.write_call("...") in text
    assert "<|user|>\n2 + 5?<|end|>" in text


def test_control_tokens_are_the_templates_alone() -> None:
    templated = tokenizer(TOOLS)
    ids = chat_turns(templated).encode_result(templated, "3<|end|>\n<|assistant|>")
    assert templated.decode(ids) == (
        "<|end|>\n<|user|>\n<tool_response>\n3<|end|>\n<|assistant|>\n</tool_response><|end|>\n<|assistant|>\n"
    )
    special = [templated.decode([token]) for token in ids if token in templated.added_tokens_decoder]
    assert special == ["<|end|>", "<|user|>", "<|end|>", "<|assistant|>"]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (
            TOOLS.replace("{{ m.content }}{% for", "{{ m.content.split('</think>')[-1] }}{% for"),
            "drops the thoughts",
        ),
        (
            TOOLS.replace(
                "{{ m.content }}{% for", "{{ m.content if loop.last or m.role == 'user' else 'So' }}{% for"
            ),
            "differently once a result follows",
        ),
        (TOOLS.replace("\n{{ m.content }}\n</tool_response>", "..."), "does not show a tool's result"),
        (TOOLS.replace("<tool_call>\n", "[TOOL_CALLS]").replace("\n</tool_call>", ""), "as JSON between"),
        (TOOLS.replace('"arguments": ', '"inputs": '), "as JSON between"),
        (
            TOOLS.replace("<|assistant|>\n{% endif %}", "<|assistant|>\nWell, {% endif %}"),
            "does not begin as a prompt",
        ),
        (
            "{% if messages[-1].role == 'tool' %}{{ raise_exception('no such role') }}{% endif %}" + TEMPLATE,
            "no such role",
        ),
        (
            TOOLS.replace("{% for m in messages %}", "{{ messages | length }}{% for m in messages %}"),
            "does not begin as a prompt",
        ),
    ],
)
def test_a_template_that_cannot_be_appended_to_is_refused_with_the_reason(template: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)traces.dialect = 'hermes': .*{reason}.*; use 'retool'"):
        encode_prompt(tokenizer(template), HERMES, "2 + 5?", instructed=True)
