r"""Prompts in plain text, without a chat template, for base models (`traces.prompt = "plain"`).

ToRL's prompt is that of its paper (arXiv 2503.23383) and its released code; the other dialects' instructions stand in a
frame of the same kind. A response ends at any token that ends a turn: for Qwen's base models `<|endoftext|>` and
`<|im_end|>`.
"""

from tasks.shared.traces.dialect import Dialect

FRAME = "A conversation between User and Assistant.{system}\nUser: {message}\nAssistant:\n"
TORL = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it.{system}\n"
    "User: Please integrate natural language reasoning with programs to solve the problem above, and put your final "
    "answer within \\boxed{{}}.\n{message}\nAssistant:\n"
)


def plain_prompt(dialect: Dialect, problem: str, system: str = "") -> str:
    """The whole prompt of a problem, up to where the assistant begins; `system`: the problem's own message, if any."""
    frame, message = (
        (TORL, problem) if dialect.name == "torl" else (FRAME, dialect.prompt(problem, instructed=True))
    )
    return frame.format(system=f" {system}" if system else "", message=message)
