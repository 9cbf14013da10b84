r"""The instruction of each dialect, and the frames of prompts in plain text.

Fields of an instruction: {problem}, {libraries}, {call}, {feedback}, {answer}; of a frame: {system}, {message}.
A frame stands around a prompt without a chat template, for base models (`traces.prompt = "plain"`). ToRL's is that of
its paper (arXiv 2503.23383) and its released code; the other dialects' instructions stand in one of the same kind. A
response ends at any token that ends a turn: for Qwen's base models `<|endoftext|>` and `<|im_end|>`.
"""

RETOOL_INSTRUCTION = """\
Solve the problem below step by step. While you reason you may run Python in an external sandbox.{libraries} Write a \
complete script, with its imports, that prints what you want to see, in exactly this form:

{call}

Then its output is given to you in this form; never write it yourself:

{feedback}

Close with:

{answer}

{problem}"""

TORL_INSTRUCTION = """\
Reason step by step and use Python where it helps.{libraries} Write a complete script, with its imports, that \
prints what you want to see, in exactly this form:

{call}

Then its output is given to you in this form; never write it yourself:

{feedback}

Put the final answer in {answer}.

{problem}"""

HERMES_INSTRUCTION = """\
Reason step by step and call the Python tool where it helps.{libraries} A call holds a complete script, with its \
imports, that prints what you want to see:

{call}

Put the final answer in {answer}.

{problem}"""

TEXT_INSTRUCTION = """\
Reason step by step, without code. Close with:

{answer}

{problem}"""

PLAIN_FRAME = "A conversation between User and Assistant.{system}\nUser: {message}\nAssistant:\n"
TORL_PLAIN_FRAME = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it.{system}\n"
    "User: Please integrate natural language reasoning with programs to solve the problem above, and put your final "
    "answer within \\boxed{{}}.\n{message}\nAssistant:\n"
)
