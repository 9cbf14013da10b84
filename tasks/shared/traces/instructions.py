"""The instruction of each dialect. Fields: {problem}, {libraries}, {call}, {feedback}, {answer}."""

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
