"""The end of a turn: as the template writes it for SFT, by every named id for the engines."""

from types import SimpleNamespace

import pytest
from transformers import PreTrainedTokenizerFast

from tasks.shared.generation.protocol import Sampling
from tasks.shared.generation.transformers_engine import TransformersGenerator
from tasks.shared.traces.dialect import DIALECTS
from tasks.shared.traces.encoding import encode_trace
from tasks.shared.traces.turns import stop_ids, turn_end
from tests.unit.generation.architectures import make_model
from tests.unit.generation.tiny import tiny_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}"


def base_tokenizer(template: str = CHATML) -> PreTrainedTokenizerFast:
    """A base model's tokenizer: its end of sequence is not its template's end of a message."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, "<|im_end|>"),
        (CHATML.replace("}}<|im_end|>", "}}\n<|im_end|>"), "\n<|im_end|>"),
        (CHATML.replace("{{ m.content }}", "{{ m.content | trim }}"), "<|im_end|>"),
        (CHATML + "{{ '<|assistant|>' if not add_generation_prompt }}", "<|im_end|>"),
        (PLAIN, "<|end|>"),  # text alone: the end of the sequence
        ("{{ messages[0].content }}", "<|end|>"),  # renders no assistant message
    ],
)
def test_sft_ends_a_turn_as_the_template_does(template: str, end: str) -> None:
    tokenizer = base_tokenizer(template)
    assert tokenizer.decode(turn_end(tokenizer)) == end
    encoded = encode_trace(tokenizer, DIALECTS["text"], "1 + 1?", "2, then.", instructed=False)
    assert tokenizer.decode(encoded.response_ids) == "2, then." + end
    assert all(encoded.loss_mask)


def test_every_id_that_anything_names_ends_a_turn() -> None:
    tokenizer = base_tokenizer()
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    eos = tokenizer.eos_token_id
    assert stop_ids(tokenizer) == {eos, end}
    assert stop_ids(tokenizer, SimpleNamespace(eos_token_id=[start, 5])) == {eos, end, start, 5}
    assert stop_ids(tokenizer, SimpleNamespace(eos_token_id=None)) == {eos, end}


def test_the_end_of_a_message_from_a_base_model_ends_it() -> None:
    """The engine's model does not name the end of a message, id 0 here, which greedy decoding of equal logits takes."""
    tokenizer = base_tokenizer(CHATML.replace("<|im_end|>", "<|end|>"))
    tokenizer.eos_token = "<|assistant|>"
    model = make_model("qwen2", len(tokenizer), eos_token_id=7)
    generator = TransformersGenerator(model, tokenizer, 1)
    generator.load_weights({**model.state_dict(), "model.norm.weight": model.model.norm.weight * 0}.items())
    generator.add("a", [5, 6], sampling=Sampling(temperature=0.0), seed=0, stop=None, max_new_tokens=9)
    (piece,) = generator.step()
    assert (piece.ids, piece.reason) == ((0,), "eos")
